package remote_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client/clienttest"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, addrs string) *remote.Pool {
	t.Helper()
	p, err := remote.Open(addrs)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func list(ctx context.Context, p *remote.Pool, s remote.Safety) error {
	_, err := remote.Call(ctx, p, s, func(ctx context.Context, cc grpc.ClientConnInterface) (*streamhousev1.ListTopicsResponse, error) {
		return streamhousev1.NewStreamHouseServiceClient(cc).ListTopics(ctx, &streamhousev1.ListTopicsRequest{})
	})
	return err
}

func TestOpenRefuses(t *testing.T) {
	for addrs, want := range map[string]string{
		",":            "--addr: is empty: give HOST:PORT of one or more nodes",
		"a:1,b":        `--addr: "b" must be HOST:PORT`,
		"http://a/b:1": `--addr: "http://a/b:1" must be HOST:PORT`,
	} {
		_, err := remote.Open(addrs)
		require.EqualError(t, err, want)
	}
}

func TestCallFailsOver(t *testing.T) {
	c := clienttest.New()
	dead, alive := c.Start(t), c.Start(t)
	dead.Kill()
	p := open(t, dead.Addr()+", "+alive.Addr())
	require.NoError(t, list(t.Context(), p, remote.Once), "what was not sent is tried elsewhere")
	require.Equal(t, alive.Addr(), p.Node().Addr())
}

func TestCallSaysWhomItCannotReach(t *testing.T) {
	c := clienttest.New()
	n := c.Start(t)
	n.Kill()
	err := list(t.Context(), open(t, n.Addr()), remote.Idempotent)
	require.EqualError(t, err, "cannot reach "+n.Addr()+": connect: connection refused")
}

func TestCallRetries(t *testing.T) {
	unknown := clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows", nil)
	noLeader := clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
	for name, tc := range map[string]struct {
		failure error
		safety  remote.Safety
		want    string
		calls   int32
	}{
		"unknown, once":        {unknown, remote.Once, "who knows (OUTCOME_UNKNOWN)", 1},
		"unknown, idempotent":  {unknown, remote.Idempotent, "", 2},
		"no leader, once":      {noLeader, remote.Once, "", 2},
		"refused":              {status.Error(codes.InvalidArgument, "no"), remote.Idempotent, "no", 1},
		"internal":             {clienttest.Error(codes.Internal, streamhousev1.ErrorReason_ERROR_REASON_INTERNAL, "a bug", nil), remote.Idempotent, "a bug (INTERNAL)", 1},
		"log full":             {clienttest.Error(codes.ResourceExhausted, streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL, "full", nil), remote.Once, "", 2},
		"too large a message":  {status.Error(codes.ResourceExhausted, "too large"), remote.Idempotent, "too large", 1},
		"broken in the middle": {status.Error(codes.Unavailable, "EOF"), remote.Once, "lost the connection to ADDR", 1},
		"without words":        {status.Error(codes.NotFound, ""), remote.Once, "notfound", 1},
	} {
		t.Run(name, func(t *testing.T) {
			c := clienttest.New()
			n := c.Start(t)
			var calls atomic.Int32
			n.Before = func(string) error {
				if calls.Add(1) == 1 {
					return tc.failure
				}
				return nil
			}
			err := list(t.Context(), open(t, n.Addr()), tc.safety)
			if tc.want == "" {
				require.NoError(t, err)
			} else {
				want := tc.want
				if name == "broken in the middle" {
					want = "lost the connection to " + n.Addr()
				}
				require.EqualError(t, err, want)
			}
			require.Equal(t, tc.calls, calls.Load())
		})
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	c := clienttest.New()
	n := c.Start(t)
	n.Before = func(string) error {
		return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorContains(t, list(ctx, open(t, n.Addr()), remote.Idempotent), "no leader (NO_LEADER)")
	require.Greater(t, len(c.Calls()), 1)
}

// What a node said is worth more than that another one can't be reached.
func TestCallReturnsTheBestError(t *testing.T) {
	c := clienttest.New()
	dead, alive := c.Start(t), c.Start(t)
	dead.Kill()
	alive.Before = func(string) error {
		return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
	}
	p := open(t, alive.Addr()+","+dead.Addr())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	require.EqualError(t, list(ctx, p, remote.Idempotent), "no leader (NO_LEADER)")

	canceled, cancelNow := context.WithCancel(t.Context())
	cancelNow()
	require.ErrorIs(t, list(canceled, p, remote.Idempotent), context.Canceled)
}

func TestNotice(t *testing.T) {
	p := open(t, "127.0.0.1:1,127.0.0.1:2")
	var told []error
	p.Notice = func(err error) { told = append(told, err) }
	p.Failed(p.Node(), errors.New("x"))
	require.Empty(t, told, "a short trouble is nobody's concern")
	require.Equal(t, "127.0.0.1:2", p.Node().Addr())
}

func TestErrorMatchesContextErrors(t *testing.T) {
	require.ErrorIs(t, &remote.Error{Code: codes.Canceled}, context.Canceled)
	require.ErrorIs(t, &remote.Error{Code: codes.DeadlineExceeded}, context.DeadlineExceeded)
	require.NotErrorIs(t, &remote.Error{Code: codes.NotFound}, context.Canceled)
	require.Equal(t, codes.NotFound, status.Code(&remote.Error{Code: codes.NotFound}))
	require.False(t, remote.Retryable(errors.New("x"), remote.Idempotent))
	require.NoError(t, remote.FromProto(nil))
}

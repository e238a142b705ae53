package metadata

import (
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func mustMarshal(t *testing.T, m proto.Message) []byte {
	t.Helper()
	b, err := proto.Marshal(m)
	require.NoError(t, err)
	return b
}

// Who comes while a round is in progress must not share its answer.
func TestWaiterJoinsTheNextRound(t *testing.T) {
	rs := rounds{wake: make(chan struct{}, 1)}
	first := rs.join()
	require.Same(t, first, rs.join(), "those who wait share a round")
	<-rs.wake
	require.Same(t, first, rs.take())
	second := rs.join()
	require.NotSame(t, first, second)
	<-rs.wake
	require.Same(t, second, rs.take())
	require.Nil(t, rs.take())
}

func TestClassify(t *testing.T) {
	withReason := func(reason string) error {
		st, err := status.New(codes.Unavailable, "x").WithDetails(&errdetails.ErrorInfo{Reason: reason, Domain: "streamhouse"})
		require.NoError(t, err)
		return fmt.Errorf("call: %w", st.Err())
	}
	for name, tc := range map[string]struct {
		err  error
		want outcome
	}{
		"bad command":      {ErrBadCommand, permanent},
		"not leader here":  {fromRaft(raft.ErrNotLeader), notWritten},
		"queue full":       {fromRaft(raft.ErrEnqueueTimeout), notWritten},
		"leadership lost":  {fromRaft(raft.ErrLeadershipLost), unknown},
		"shut down":        {fromRaft(raft.ErrRaftShutdown), unknown},
		"peer not leader":  {withReason("NOT_LEADER"), notWritten},
		"peer unclear":     {withReason("OUTCOME_UNKNOWN"), unknown},
		"broken":           {status.Error(codes.Unavailable, "broken pipe"), unknown},
		"peer's time over": {status.Error(codes.DeadlineExceeded, "x"), unknown},
		"refused":          {status.Error(codes.InvalidArgument, "x"), permanent},
		"no client":        {errors.New("unknown node"), notWritten},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, tc.want, classify(tc.err)) })
	}
}

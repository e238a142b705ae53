package rpc

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/broker/shard"
)

var errNone = errors.New("none")

// TestEveryReasonTravels maps every reason to a status and back.
func TestEveryReasonTravels(t *testing.T) {
	for n, name := range streamhousev1.ErrorReason_name {
		reason := broker.Reason(n)
		t.Run(name, func(t *testing.T) {
			want, ok := reasonCodes[reason]
			require.True(t, ok, "it has a code")
			in := &broker.Error{Reason: reason, Message: "what happened", Metadata: map[string]string{"k": "v"}}
			st := status.Convert(toStatus(fmt.Errorf("wrapped: %w", in)))
			require.Equal(t, want, st.Code())
			require.Equal(t, "what happened", st.Message())
			var info *errdetails.ErrorInfo
			retry := false
			for _, d := range st.Details() {
				switch d := d.(type) {
				case *errdetails.ErrorInfo:
					info = d
				case *errdetails.RetryInfo:
					retry = d.GetRetryDelay().AsDuration() > 0
				}
			}
			require.Equal(t, "streamhouse", info.GetDomain())
			require.NotContains(t, info.GetReason(), "ERROR_REASON")
			require.Equal(t, want == codes.ResourceExhausted, retry, "RetryInfo goes with RESOURCE_EXHAUSTED")
			if reason == streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED {
				return
			}
			back := broker.AsError(FromPeer(st.Err(), true))
			require.Equal(t, reason, back.Reason)
			require.Equal(t, in.Metadata, back.Metadata)
			require.Equal(t, in.Message, back.Message)
			require.Equal(t, st.Code(), status.Code(toStatus(back)), "forwarding keeps the code")
		})
	}
}

// TestErrorsAreDocumented holds docs/errors.md equal to the code.
func TestErrorsAreDocumented(t *testing.T) {
	text, err := os.ReadFile("../../docs/errors.md")
	require.NoError(t, err)
	for reason, code := range reasonCodes {
		if reason == streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED {
			continue
		}
		row := fmt.Sprintf("| `%s` | `%s` |", reasonName(reason), wireCode(code))
		require.Contains(t, string(text), row)
	}
}

// wireCode is a code as the gRPC specification writes it.
func wireCode(c codes.Code) string {
	if c == codes.Canceled {
		return "CANCELLED"
	}
	var out strings.Builder
	for i, r := range c.String() {
		if i > 0 && r >= 'A' && r <= 'Z' {
			out.WriteByte('_')
		}
		out.WriteRune(r)
	}
	return strings.ToUpper(out.String())
}

func TestToStatusOfOtherErrors(t *testing.T) {
	require.NoError(t, toStatus(nil))
	require.NoError(t, FromPeer(nil, true))
	require.Equal(t, codes.Unimplemented, status.Code(toStatus(status.Error(codes.Unimplemented, "x"))), "gRPC's own stay")
	require.Equal(t, codes.DeadlineExceeded, status.Code(toStatus(context.DeadlineExceeded)))
	require.Equal(t, codes.Unavailable, status.Code(toStatus(errors.Join(shard.ErrUnknownOutcome, context.DeadlineExceeded))))
	long := status.Convert(toStatus(&broker.Error{Message: strings.Repeat("ä", 5000) + "\xff"}))
	require.LessOrEqual(t, len(long.Message()), maxMessageBytes+len("…"))
}

func TestFromPeerWithoutReason(t *testing.T) {
	tests := []struct {
		code codes.Code
		sent bool
		want broker.Reason
	}{
		{codes.Unavailable, false, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER},
		{codes.DeadlineExceeded, false, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER},
		{codes.Unavailable, true, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN},
		{codes.DeadlineExceeded, true, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN},
		{codes.Internal, true, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN},
		{codes.Unimplemented, true, streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER},
		{codes.ResourceExhausted, true, streamhousev1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE},
	}
	for _, tt := range tests {
		require.Equal(t, tt.want, broker.AsError(FromPeer(status.Error(tt.code, "x"), tt.sent)).Reason, "%s %t", tt.code, tt.sent)
	}
}

// TestPeerSaysWhetherACallWasSent holds gRPC to what the broker's retries rely on: a call that never got a connection
// has no peer, and one whose connection broke has.
func TestPeerSaysWhetherACallWasSent(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan struct{})
	s := grpc.NewServer()
	began := make(chan struct{})
	nodev1.RegisterNodeServiceServer(s, &blockingNode{began: began})
	go func() {
		defer close(accepted)
		_ = s.Serve(l)
	}()
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close()) }()
	client := nodev1.NewNodeServiceClient(conn)
	go func() {
		<-began
		s.Stop()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var p peer.Peer
	_, err = client.Append(ctx, &nodev1.AppendRequest{}, grpc.Peer(&p))
	require.Error(t, err)
	require.NotNil(t, p.Addr, "the connection broke in mid-call")
	<-accepted

	p = peer.Peer{}
	_, err = client.Append(ctx, &nodev1.AppendRequest{}, grpc.Peer(&p))
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.Nil(t, p.Addr, "nobody listens")
}

// blockingNode is a node that begins an append and does not end it.
type blockingNode struct {
	nodev1.UnimplementedNodeServiceServer

	began chan struct{}
}

func (n *blockingNode) Append(ctx context.Context, _ *nodev1.AppendRequest) (*nodev1.AppendResponse, error) {
	close(n.began)
	<-ctx.Done()
	return nil, ctx.Err()
}

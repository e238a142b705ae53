package harness

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// maxMessageBytes is more than any answer of a node.
const maxMessageBytes = 128 << 20

// Client calls one node.
type Client struct {
	streamhousev1.StreamHouseServiceClient
	streamhousev1.ClusterServiceClient
	Conn *grpc.ClientConn
}

// Dial returns a client for an address. It finds a node that comes back within half a second.
func Dial(tb testing.TB, addr string) *Client {
	tb.Helper()
	conn, err := grpc.NewClient(addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, MaxDelay: 500 * time.Millisecond},
			MinConnectTimeout: time.Second,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)))
	if err != nil {
		tb.Fatalf("client for %s: %v", addr, err)
	}
	tb.Cleanup(func() { _ = conn.Close() })
	return &Client{
		StreamHouseServiceClient: streamhousev1.NewStreamHouseServiceClient(conn),
		ClusterServiceClient:     streamhousev1.NewClusterServiceClient(conn),
		Conn:                     conn,
	}
}

// Reason is the reason in an error's ErrorInfo, without a prefix; empty where there is none.
func Reason(err error) string {
	info, _ := streamhousev1.FindErrorInfo(status.Convert(err))
	return info.GetReason()
}

// ErrorMetadata is what an error's ErrorInfo says besides its reason.
func ErrorMetadata(err error) map[string]string {
	info, _ := streamhousev1.FindErrorInfo(status.Convert(err))
	return info.GetMetadata()
}

// RetryDelay is the delay that an error asks for; false where it asks for none.
func RetryDelay(err error) (time.Duration, bool) {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.RetryInfo); ok {
			return info.GetRetryDelay().AsDuration(), true
		}
	}
	return 0, false
}

// Describe is an error with its reason, for messages.
func Describe(err error) string {
	return fmt.Sprintf("%v [%s %v]", err, Reason(err), ErrorMetadata(err))
}

// MayRetry reports whether a call that is safe to repeat may succeed later, on this node or on another.
func MayRetry(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) {
		return true
	}
	switch status.Code(err) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		return true
	default:
		return false
	}
}

// Retry calls f on one client after the other until it succeeds, ctx ends, or an error comes that no retry mends.
func Retry(ctx context.Context, clients []*Client, f func(ctx context.Context, c *Client) error) error {
	next := 0
	var failed error
	err := Poll(ctx, func(ctx context.Context) error {
		c := clients[next%len(clients)]
		next++
		callCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err := f(callCtx, c)
		if err != nil && !MayRetry(err) && ctx.Err() == nil {
			failed = err
			return nil
		}
		return err
	})
	return errors.Join(failed, err)
}

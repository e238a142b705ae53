package rpc

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

const (
	// maxReserve is how long before the caller's deadline a call ends at the latest, so that its error still arrives.
	maxReserve = 250 * time.Millisecond
	// reserveShare of the time that is left is the most that is reserved.
	reserveShare = 10
)

// guard is what all calls of a server pass through: panics, the size of requests, bytes under way, deadlines, logs.
type guard struct {
	limiter         *limiter
	maxRequestBytes int
	codec           *codec
	log             callLog
}

// unary is a grpc.UnaryServerInterceptor.
func (g *guard) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	began := g.log.begin()
	defer func() {
		g.log.ended(ctx, info.FullMethod, began, req, res, err)
		err = toStatus(err)
	}()
	defer g.codec.release(req)
	defer recovered(&err)
	release, err := g.admit(req)
	if err != nil {
		return nil, err
	}
	defer release()
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	return handler(ctx, req)
}

// stream is a grpc.StreamServerInterceptor. Messages of a stream are admitted by its handler.
func (g *guard) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	began := g.log.begin()
	defer func() {
		g.log.ended(ss.Context(), info.FullMethod, began, nil, nil, err)
		err = toStatus(err)
	}()
	defer recovered(&err)
	return handler(srv, ss)
}

// admit checks a request's size and counts it as under way.
func (g *guard) admit(req any) (release func(), err error) {
	m, ok := req.(proto.Message)
	if !ok {
		return func() {}, nil
	}
	n := proto.Size(m)
	if n > g.maxRequestBytes {
		return nil, broker.TooLarge(streamhousev1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE, "the request", n, g.maxRequestBytes)
	}
	return g.limiter.acquire(n)
}

// recovered turns a panic into an error.
func recovered(err *error) {
	if r := recover(); r != nil {
		*err = &broker.Error{
			Reason:  streamhousev1.ErrorReason_ERROR_REASON_INTERNAL,
			Message: "the node failed in handling this call; its log says more",
			Cause:   &panicError{value: r, stack: debug.Stack()},
		}
	}
}

// panicError is a panic of a handler.
type panicError struct {
	value any
	stack []byte
}

// Error tells the value and the stack, for the log.
func (e *panicError) Error() string { return fmt.Sprintf("panic: %v\n%s", e.value, e.stack) }

// withDeadline gives a call without a deadline the default one, and ends every call a little before its deadline: the
// answer, and what is known of a write, must reach the caller.
func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithTimeout(ctx, broker.DefaultDeadline)
	}
	reserve := min(maxReserve, time.Until(deadline)/reserveShare)
	return context.WithDeadline(ctx, deadline.Add(-reserve))
}

// newGuard returns the guard of a server.
func newGuard(maxInflightBytes int64, maxRequestBytes int, log *slog.Logger) *guard {
	return &guard{limiter: newLimiter(maxInflightBytes), maxRequestBytes: maxRequestBytes, codec: newCodec(), log: newCallLog(log)}
}

package rpc

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// counting counts failed calls of producers and consumers, whoever refused them: the broker, an interceptor, or gRPC
// itself, which refuses a message that is too large or does not decode before any handler sees it.
type counting struct {
	broker *broker.Broker
}

var _ stats.Handler = (*counting)(nil)

// callKey finds the callState of a call in its context.
type callKey struct{}

// callState says what became of a call. Its RPC's goroutine writes it before the end is told.
type callState struct {
	method string
	seen   bool // an interceptor has it in its hands
}

// producerMethods and consumerMethods are the calls whose failures are counted.
var (
	producerMethods = map[string]bool{
		streamhousev1.StreamHouseService_Produce_FullMethodName:              true,
		streamhousev1.StreamHouseService_ProduceBatch_FullMethodName:         true,
		streamhousev1.StreamHouseService_ProduceRecordBatches_FullMethodName: true,
		streamhousev1.StreamHouseService_ProduceStream_FullMethodName:        true,
	}
	consumerMethods = map[string]bool{
		streamhousev1.StreamHouseService_Consume_FullMethodName:              true,
		streamhousev1.StreamHouseService_ConsumeRecordBatches_FullMethodName: true,
		streamhousev1.StreamHouseService_ConsumeStream_FullMethodName:        true,
		streamhousev1.StreamHouseService_CommitOffset_FullMethodName:         true,
	}
)

func markSeen(ctx context.Context) {
	if s, ok := ctx.Value(callKey{}).(*callState); ok {
		s.seen = true
	}
}

// unary is a grpc.UnaryServerInterceptor.
func (c *counting) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	markSeen(ctx)
	res, err := handler(ctx, req)
	if err != nil {
		c.count(info.FullMethod, req, err)
	}
	return res, err
}

// stream is a grpc.StreamServerInterceptor. The handlers count what fails inside a stream; a stream that breaks off
// because its client went away is no failure.
func (c *counting) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	markSeen(ss.Context())
	err := handler(srv, ss)
	if err != nil && ss.Context().Err() == nil && producerMethods[info.FullMethod] {
		c.count(info.FullMethod, nil, err)
	}
	return err
}

func (c *counting) count(method string, req any, err error) {
	err = FromPeer(err, true) // a status by now
	topic := ""
	if t, ok := req.(interface{ GetTopic() string }); ok {
		topic = t.GetTopic()
	}
	switch {
	case producerMethods[method]:
		c.broker.CountProduceError(topic, err)
	case consumerMethods[method]:
		group := ""
		if g, ok := req.(interface{ GetGroup() string }); ok {
			group = g.GetGroup()
		}
		c.broker.CountConsumeError(topic, group, err)
	}
}

// TagRPC implements stats.Handler.
func (c *counting) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if !producerMethods[info.FullMethodName] && !consumerMethods[info.FullMethodName] {
		return ctx
	}
	return context.WithValue(ctx, callKey{}, &callState{method: info.FullMethodName})
}

// HandleRPC implements stats.Handler: it counts calls that ended before any interceptor saw them.
func (c *counting) HandleRPC(ctx context.Context, s stats.RPCStats) {
	end, ok := s.(*stats.End)
	if !ok || end.Error == nil {
		return
	}
	if state, ok := ctx.Value(callKey{}).(*callState); ok && !state.seen {
		c.count(state.method, nil, end.Error)
	}
}

// TagConn implements stats.Handler.
func (c *counting) TagConn(ctx context.Context, _ *stats.ConnTagInfo) context.Context { return ctx }

// HandleConn implements stats.Handler.
func (c *counting) HandleConn(context.Context, stats.ConnStats) {}

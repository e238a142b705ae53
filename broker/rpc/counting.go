package rpc

import (
	"context"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// counting counts failed calls of producers and consumers, whoever refused them: the broker, an interceptor, or gRPC
// itself, whose handler of a method refuses a message that is too large or does not decode before any interceptor sees it.
// A stats.Handler would see the same, and more: calls in an encoding that gRPC does not have. But gRPC makes some twenty
// objects for it in every call, and two for every message of a stream.
type counting struct {
	broker *broker.Broker
}

// counted is an error that an interceptor has counted.
type counted struct{ error }

// Unwrap returns the error.
func (c counted) Unwrap() error { return c.error }

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

// unary is a grpc.UnaryServerInterceptor.
func (c *counting) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	res, err := handler(ctx, req)
	if err != nil {
		c.count(info.FullMethod, req, FromPeer(err, true)) // a status by now
		err = counted{err}
	}
	return res, err
}

// stream is a grpc.StreamServerInterceptor. The handlers count what fails inside a stream; a stream that breaks off
// because its client went away is no failure.
func (c *counting) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	err := handler(srv, ss)
	if err != nil && ss.Context().Err() == nil && producerMethods[info.FullMethod] {
		c.count(info.FullMethod, nil, FromPeer(err, true))
	}
	return err
}

func (c *counting) count(method string, req any, err error) {
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

// service returns a service whose calls are counted too where no interceptor has seen them.
func (c *counting) service(d grpc.ServiceDesc) *grpc.ServiceDesc {
	d.Methods = slices.Clone(d.Methods)
	for i := range d.Methods {
		method, handle := "/"+d.ServiceName+"/"+d.Methods[i].MethodName, d.Methods[i].Handler
		d.Methods[i].Handler = func(srv any, ctx context.Context, dec func(any) error, interceptor grpc.UnaryServerInterceptor) (any, error) {
			res, err := handle(srv, ctx, dec, interceptor)
			if seen, ok := err.(counted); ok { //nolint:errorlint // as the interceptor returned it
				return res, seen.error
			}
			if err != nil {
				c.count(method, nil, unread(err))
			}
			return res, err
		}
	}
	return &d
}

// unread is the error of a call whose request gRPC could not give to anybody.
func unread(err error) error {
	e := &broker.Error{Cause: err}
	switch status.Code(err) {
	case codes.ResourceExhausted:
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE
	case codes.Canceled:
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_CANCELED
	case codes.DeadlineExceeded:
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED
	default: // it does not decode
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD
	}
	return e
}

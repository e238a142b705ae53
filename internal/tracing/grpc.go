package tracing

import (
	"context"
	"strings"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	semconv "go.opentelemetry.io/otel/semconv/v1.43.0"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// Take is a tap.ServerInHandle that takes the caller's trace context. An interceptor would have to look for it among all
// headers, or copy them.
func Take(ctx context.Context, info *tap.Info) (context.Context, error) {
	parent := info.Header[parentHeader]
	if len(parent) == 0 {
		return ctx, nil
	}
	state := ""
	if s := info.Header[stateHeader]; len(s) > 0 {
		state = s[0]
	}
	return WithRemote(ctx, parent[0], state), nil
}

// UnaryServer returns an interceptor that makes a span for every call but those of the methods that are left out. It does
// what otelgrpc's stats.Handler does, which is for the calls of clients only here: where a server has a stats.Handler, gRPC
// makes some twenty objects in every call, whether it is sampled or not, and that would be most of what tracing costs.
func UnaryServer(p trace.TracerProvider, leftOut ...string) grpc.UnaryServerInterceptor {
	tr := New(p)
	out := make(map[string]bool, len(leftOut))
	for _, m := range leftOut {
		out[m] = true
	}
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if out[info.FullMethod] {
			return handle(ctx, req)
		}
		ctx, span := tr.Request(ctx, spanName(info.FullMethod), trace.SpanKindServer)
		defer span.End() // after a panic too
		res, err := handle(ctx, req)
		describe(span, info.FullMethod, err)
		return res, err
	}
}

// ChildUnaryServer returns an interceptor that makes spans for the calls of callers that have a sampled one: what nodes ask
// each other on their own account is no request of anybody. The server needs Take.
func ChildUnaryServer(p trace.TracerProvider) grpc.UnaryServerInterceptor {
	tr := New(p)
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if !tr.samples(ctx) {
			return handle(ctx, req)
		}
		ctx, span := tr.Child(ctx, spanName(info.FullMethod), trace.WithSpanKind(trace.SpanKindServer))
		defer span.End()
		res, err := handle(ctx, req)
		describe(span, info.FullMethod, err)
		return res, err
	}
}

// ChildUnaryClient returns an interceptor that passes the trace context on, and makes spans for calls in a context with a
// sampled one, for the same reason. Where p is nil it makes none.
func ChildUnaryClient(p trace.TracerProvider) grpc.UnaryClientInterceptor {
	tr := New(p)
	return func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
		if !tr.samples(ctx) {
			return invoke(outgoing(ctx), method, req, reply, cc, opts...)
		}
		ctx, span := tr.Child(ctx, spanName(method), trace.WithSpanKind(trace.SpanKindClient))
		defer span.End()
		err := invoke(outgoing(ctx), method, req, reply, cc, opts...)
		describe(span, method, err)
		return err
	}
}

// spanName returns the name of a call's span, after OpenTelemetry's conventions for RPC.
func spanName(method string) string { return strings.TrimPrefix(method, "/") }

// describe gives a call's span the attributes of these conventions.
func describe(span trace.Span, method string, err error) {
	if !span.IsRecording() {
		return
	}
	st := status.Convert(err)
	span.SetAttributes(semconv.RPCSystemNameGRPC, semconv.RPCMethod(spanName(method)),
		semconv.RPCResponseStatusCode(code.Code(st.Code()).String()))
	if err != nil {
		span.SetStatus(codes.Error, st.Message())
	}
}

// ClientHandler makes a span for every call of a client but those of one method, and carries trace context by a propagator.
func ClientHandler(p trace.TracerProvider, carry propagation.TextMapPropagator, leftOut string) stats.Handler {
	return &choosy{
		Handler: otelgrpc.NewClientHandler(append(options(p), otelgrpc.WithPropagators(carry))...),
		takes:   func(_ context.Context, method string) bool { return method != leftOut },
	}
}

func options(p trace.TracerProvider) []otelgrpc.Option {
	return []otelgrpc.Option{
		otelgrpc.WithTracerProvider(p), otelgrpc.WithPropagators(Propagator), otelgrpc.WithMeterProvider(noop.NewMeterProvider()),
	}
}

// choosy hands those calls to a stats.Handler that it takes.
type choosy struct {
	stats.Handler

	takes func(ctx context.Context, method string) bool
}

// takenKey finds the handler that has taken a call: a call's context may come from another one's.
type takenKey struct{}

// TagRPC implements stats.Handler.
func (c *choosy) TagRPC(ctx context.Context, info *stats.RPCTagInfo) context.Context {
	if !c.takes(ctx, info.FullMethodName) {
		return ctx
	}
	return context.WithValue(c.Handler.TagRPC(ctx, info), takenKey{}, c)
}

// HandleRPC implements stats.Handler.
func (c *choosy) HandleRPC(ctx context.Context, s stats.RPCStats) {
	if ctx.Value(takenKey{}) == c {
		c.Handler.HandleRPC(ctx, s)
	}
}

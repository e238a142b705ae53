package tracing

import (
	"context"

	"go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc"
	"go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/stats"
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

// UnaryClient is a grpc.UnaryClientInterceptor that passes the trace context on. A ClientHandler replaces it where it makes
// a span.
func UnaryClient(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	return invoke(outgoing(ctx), method, req, reply, cc, opts...)
}

// ServerHandler makes a span for every call but those of the methods that are left out: streams, which last longer than
// what is done in them, and health checks.
func ServerHandler(p trace.TracerProvider, leftOut ...string) stats.Handler {
	out := make(map[string]bool, len(leftOut))
	for _, m := range leftOut {
		out[m] = true
	}
	return &choosy{
		Handler: otelgrpc.NewServerHandler(options(p)...),
		takes:   func(_ context.Context, method string) bool { return !out[method] },
	}
}

// ChildServerHandler makes spans for the calls of callers that have a sampled one: what nodes ask each other on their own
// account is no request of anybody. The server needs Take.
func ChildServerHandler(p trace.TracerProvider) stats.Handler {
	return &choosy{
		Handler: otelgrpc.NewServerHandler(options(p)...),
		takes:   sampled,
	}
}

// ChildClientHandler makes spans for calls in a context with a sampled one, for the same reason.
func ChildClientHandler(p trace.TracerProvider) stats.Handler {
	return &choosy{
		Handler: otelgrpc.NewClientHandler(options(p)...),
		takes:   sampled,
	}
}

// ClientHandler makes a span for every call but those of one method, and carries trace context by a propagator.
func ClientHandler(p trace.TracerProvider, carry propagation.TextMapPropagator, leftOut string) stats.Handler {
	return &choosy{
		Handler: otelgrpc.NewClientHandler(append(options(p), otelgrpc.WithPropagators(carry))...),
		takes:   func(_ context.Context, method string) bool { return method != leftOut },
	}
}

func sampled(ctx context.Context, _ string) bool {
	return trace.SpanContextFromContext(ctx).IsSampled()
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

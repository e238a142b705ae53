package tracing

import (
	"context"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// none is a span that does nothing.
var none = trace.SpanFromContext(context.Background())

// scope names what makes the spans.
const scope = "github.com/streamhouse/streamhouse"

// Tracer starts spans. The zero value starts none. Safe for concurrent use.
type Tracer struct{ tracer trace.Tracer }

// New returns a tracer of p's, or one that starts no spans where p is nil.
func New(p trace.TracerProvider) Tracer {
	if p == nil {
		return Tracer{}
	}
	return Tracer{p.Tracer(scope)}
}

// On reports whether spans may be started.
func (t Tracer) On() bool { return t.tracer != nil }

// samples reports whether Child starts a span.
func (t Tracer) samples(ctx context.Context) bool {
	return t.tracer != nil && trace.SpanContextFromContext(ctx).IsSampled()
}

// Child starts a span below the one of ctx. Where that is not sampled, or there is none, it returns ctx and a span that
// does nothing. Set attributes only where the span is recording: to make them costs.
func (t Tracer) Child(ctx context.Context, name string, opts ...trace.SpanStartOption) (context.Context, trace.Span) {
	if !t.samples(ctx) {
		return ctx, none
	}
	return t.tracer.Start(ctx, name, opts...)
}

// Request starts the span of a request that came in, below the caller's span where ctx has one. The sampler decides whether
// it is recorded. Without a provider the span does nothing, and still has the caller's trace context.
func (t Tracer) Request(ctx context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	if t.tracer == nil {
		return ctx, trace.SpanFromContext(ctx)
	}
	return t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
}

// Root starts a trace of its own, for work that serves many requests at once, with links to them.
func (t Tracer) Root(ctx context.Context, name string, links ...trace.Link) (context.Context, trace.Span) {
	if t.tracer == nil {
		return ctx, none
	}
	return t.tracer.Start(ctx, name, trace.WithNewRoot(), trace.WithLinks(links...))
}

// End ends a span with what came of it.
func End(s trace.Span, err error) {
	if err != nil && s.IsRecording() {
		s.SetStatus(codes.Error, err.Error())
	}
	s.End()
}

package client

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

// maxLinks bounds the links of a batch to the traces of its records.
const maxLinks = 32

// batchTrace is the span of a batch, from its first record to its outcome. The zero value does nothing.
type batchTrace struct {
	span  trace.Span
	links int
}

// traceLocked starts a batch's span below that of ctx.
func (p *Producer) traceLocked(ctx context.Context, b *batch) {
	if !p.tracer.On() {
		return
	}
	_, b.trace.span = p.tracer.Request(ctx, "send "+b.queue.topic, trace.SpanKindProducer)
}

// join links the batch to the trace of another record. The producer's mutex is held.
func (t *batchTrace) join(ctx context.Context) {
	if t.span == nil || !t.span.IsRecording() || t.links == maxLinks {
		return
	}
	sc := trace.SpanContextFromContext(ctx)
	if sc.IsSampled() && sc.TraceID() != t.span.SpanContext().TraceID() {
		t.span.AddLink(trace.Link{SpanContext: sc})
		t.links++
	}
}

// send notes an attempt, and returns the trace context that goes with it.
func (t *batchTrace) send(carry propagation.TextMapPropagator, b *batch) (parent, state string) {
	if t.span == nil {
		return "", ""
	}
	if t.span.IsRecording() {
		t.span.SetAttributes(attribute.String("messaging.system", "streamhouse"), attribute.String("messaging.operation.type", "send"),
			attribute.String("messaging.destination.name", b.queue.topic),
			attribute.Int64("messaging.destination.partition.number", int64(b.queue.partition)),
			attribute.Int("messaging.batch.message_count", b.records))
		t.span.AddEvent("sent")
	}
	var pair tracing.Pair
	carry.Inject(trace.ContextWithSpan(context.Background(), t.span), &pair)
	return pair.Parent, pair.State
}

// context is that of the batch's span; it is not valid where there is none.
func (t *batchTrace) context() trace.SpanContext {
	if t.span == nil {
		return trace.SpanContext{}
	}
	return t.span.SpanContext()
}

// end ends the span with the outcome.
func (t *batchTrace) end(r result) {
	if t.span == nil {
		return
	}
	if r.offset >= 0 && r.err == nil {
		t.span.SetAttributes(attribute.Int64("messaging.streamhouse.offset", r.offset))
	}
	tracing.End(t.span, r.err)
}

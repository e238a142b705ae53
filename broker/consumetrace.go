package broker

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

// maxStreamSpans is how many reads of one stream have a span, with those below it: a stream may last for ever, and its trace
// must not grow with it.
const maxStreamSpans = 100

// streamTrace is the span of a stream that is read, below its caller's. Its first reads have spans below it, and it tells of
// all of them when it ends. It belongs to the goroutine that serves the stream.
type streamTrace struct {
	span    trace.Span
	begun   int   // reads
	records int64 // sent
}

// traceStream starts the span of a stream. The context that it returns has it.
func (b *Broker) traceStream(ctx context.Context) (context.Context, *streamTrace) {
	ctx, span := b.tracer.Request(ctx, "ConsumeStream", trace.SpanKindServer)
	return ctx, &streamTrace{span: span}
}

// reads notes what the stream reads, once that is known to exist: a client may have named anything.
func (t *streamTrace) reads(c *consumer) {
	if t.span.IsRecording() {
		t.span.SetAttributes(attribute.String("messaging.destination.name", c.at.topic.Name),
			attribute.Int64("messaging.destination.partition.number", int64(c.at.partition.Number)), attribute.Int64("streamhouse.offset", c.offset))
	}
}

// next returns the context of the next read: one in which there are no spans any more after so many.
func (t *streamTrace) next(ctx context.Context) context.Context {
	t.begun++
	if t.begun <= maxStreamSpans || !t.span.IsRecording() {
		return ctx
	}
	sc := t.span.SpanContext()
	return trace.ContextWithSpanContext(ctx, sc.WithTraceFlags(sc.TraceFlags()&^trace.FlagsSampled))
}

// read counts what a read has found.
func (t *streamTrace) read(m *message) { t.records += int64(len(m.records)) }

// end ends the span. A client that goes away is no failure.
func (t *streamTrace) end(ctx context.Context, err error) {
	if t.span.IsRecording() {
		t.span.SetAttributes(attribute.Int("streamhouse.reads", t.begun), attribute.Int("streamhouse.reads_without_span", max(0, t.begun-maxStreamSpans)),
			attribute.Int64("streamhouse.records", t.records))
	}
	if ctx.Err() != nil {
		err = nil
	}
	tracing.End(t.span, err)
}

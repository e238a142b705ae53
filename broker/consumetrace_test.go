package broker

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// A stream has one span below its caller's, its first reads have spans below that, and however long it lasts there are no
// more of them.
func TestSpansOfAStream(t *testing.T) {
	const reads = maxStreamSpans + 7
	r := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r))
	t.Cleanup(func() { require.NoError(t, p.Shutdown(context.Background())) })
	f := newFixture(t, true)
	f.tracer = tracing.New(p)
	topic := f.meta.createTopic(t, "t", 1, nil)
	for range reads {
		f.produce(t, 0, "x")
	}
	f.upload(t, topic.PartitionIDs[0], 1)
	caller := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithRemoteSpanContext(t.Context(), caller)
	none := func(*streamhousev1.ConsumeStreamResponse) error { return nil }
	require.NoError(t, f.ConsumeStream(ctx, &streamhousev1.ConsumeStreamRequest{Topic: "t", MaxBytes: 1}, none))

	ended := r.Ended()
	stream := ended[len(ended)-1]
	require.Equal(t, "ConsumeStream", stream.Name())
	require.Equal(t, caller.SpanID(), stream.Parent().SpanID())
	attributes := make(map[string]any)
	for _, a := range stream.Attributes() {
		attributes[string(a.Key)] = a.Value.AsInterface()
	}
	require.Equal(t, map[string]any{
		"messaging.destination.name": "t", "messaging.destination.partition.number": int64(0), "streamhouse.offset": int64(0),
		"streamhouse.reads": int64(reads), "streamhouse.reads_without_span": int64(reads - maxStreamSpans), "streamhouse.records": int64(reads),
	}, attributes)
	below := make(map[string]int)
	for _, s := range ended[:len(ended)-1] {
		require.Equal(t, caller.TraceID(), s.SpanContext().TraceID())
		below[s.Name()]++
		if s.Name() == "read" {
			require.Equal(t, stream.SpanContext().SpanID(), s.Parent().SpanID())
		}
	}
	require.Equal(t, map[string]int{"read": maxStreamSpans, "read history": 1}, below)

	r.Reset()
	err := f.ConsumeStream(ctx, &streamhousev1.ConsumeStreamRequest{Topic: "no-such-topic"}, none)
	require.Error(t, err)
	require.Len(t, r.Ended(), 1)
	require.Equal(t, codes.Error, r.Ended()[0].Status().Code)
	for _, a := range r.Ended()[0].Attributes() {
		require.NotEqual(t, "no-such-topic", a.Value.AsString(), "what a client names is not kept")
	}

	r.Reset()
	gone, cancel := context.WithCancel(ctx)
	err = f.ConsumeStream(gone, &streamhousev1.ConsumeStreamRequest{Topic: "t", Follow: true}, func(*streamhousev1.ConsumeStreamResponse) error {
		cancel()
		return nil
	})
	require.ErrorIs(t, err, context.Canceled)
	stream = r.Ended()[len(r.Ended())-1]
	require.Equal(t, "ConsumeStream", stream.Name())
	require.Equal(t, codes.Unset, stream.Status().Code, "who goes away has not failed")
}

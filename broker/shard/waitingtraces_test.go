package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

func tracedBy(id byte, flags trace.TraceFlags) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{id}, SpanID: trace.SpanID{id}, TraceFlags: flags})
}

// What waits for an upload that failed waits for the next one, before those that came since, and never more than the bound.
func TestWaitingTraces(t *testing.T) {
	var w waitingTraces
	ids := func() (out []byte) {
		for _, l := range w.take() {
			id := l.SpanContext.TraceID()
			out = append(out, id[0])
		}
		return out
	}
	w.add(tracedBy(1, trace.FlagsSampled))
	w.add(tracedBy(2, 0)) // nobody looks at it
	failed := w.take()
	require.Len(t, failed, 1)
	w.add(tracedBy(3, trace.FlagsSampled))
	w.giveBack(failed)
	require.Equal(t, []byte{1, 3}, ids())
	require.Empty(t, ids())

	for i := range byte(maxWaitingTraces) {
		w.add(tracedBy(10+i, trace.FlagsSampled))
	}
	w.giveBack(failed)
	kept := ids()
	require.Len(t, kept, maxWaitingTraces)
	require.Equal(t, []byte{1, 10}, kept[:2])
	w.giveBack(nil)
	require.Empty(t, ids())
}

package shard

import (
	"context"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

// storedBatch does all that counting and tracing do for a batch on its leader, with tracing off.
type storedBatch struct {
	metrics  *Metrics
	tracer   tracing.Tracer
	proposer proposer
	requests []*request
}

func newStoredBatch() *storedBatch {
	m := NewMetrics(prometheus.NewRegistry())
	m.SyncTopics([]string{"orders"})
	_, span := tracing.Tracer{}.Child(context.Background(), "append")
	return &storedBatch{metrics: m, requests: []*request{{span: span}}}
}

func (s *storedBatch) instrument(ctx context.Context) {
	_, span := s.tracer.Child(ctx, "append")
	if span.IsRecording() {
		panic("tracing is off")
	}
	origin := trace.SpanContextFromContext(ctx)
	s.proposer.mark(s.requests)
	for _, r := range s.requests { // as traceCommit does
		if r.span.IsRecording() {
			panic("tracing is off")
		}
	}
	s.metrics.committed(batchCounts{topic: "orders", records: 240, payload: 240 << 10})
	s.metrics.acknowledged("orders", time.Millisecond, origin)
	tracing.End(span, nil)
}

func TestInstrumentationAllocatesNothing(t *testing.T) {
	s, ctx := newStoredBatch(), context.Background() // as a lane hands it over
	require.Zero(t, testing.AllocsPerRun(1000, func() { s.instrument(ctx) }))
}

func BenchmarkInstrumentation(b *testing.B) {
	s, ctx := newStoredBatch(), context.Background()
	b.ReportAllocs()
	for b.Loop() {
		s.instrument(ctx)
	}
}

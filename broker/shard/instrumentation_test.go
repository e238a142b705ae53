package shard

import (
	"context"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
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
	counts := batchCounts{series: s.metrics.topic("orders"), records: 240, payload: 240 << 10}
	counts.committed()
	counts.acknowledged(time.Millisecond, origin)
	tracing.End(span, nil)
}

func TestInstrumentationAllocatesNothing(t *testing.T) {
	s, ctx := newStoredBatch(), context.Background() // as a lane hands it over
	require.Zero(t, testing.AllocsPerRun(1000, func() { s.instrument(ctx) }))
}

// A topic that is written to after it was deleted, or before it is named, has no series that stay.
func TestSeriesGoWithTheTopic(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	for range 2 {
		m.SyncTopics([]string{"orders"})
		before, err := testutil.GatherAndCount(reg)
		require.NoError(t, err)
		late := batchCounts{series: m.topic("deleted"), records: 1}
		require.Same(t, late.series, m.topic("deleted"))
		m.SyncTopics([]string{"orders"})
		late.committed()
		after, err := testutil.GatherAndCount(reg)
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
	early := m.topic("new")
	m.SyncTopics([]string{"orders", "new"})
	require.Same(t, early, m.topic("new"), "what was counted before stays")
}

// cpuTime is the CPU time that this process has used outside the kernel: on a machine that others use too, time that passes
// says little.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it can't fail
	return time.Duration(u.Utime.Nano())
}

func BenchmarkInstrumentation(b *testing.B) {
	s, ctx := newStoredBatch(), context.Background()
	b.ReportAllocs()
	began := cpuTime()
	for b.Loop() {
		s.instrument(ctx)
	}
	b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
}

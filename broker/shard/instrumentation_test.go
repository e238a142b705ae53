package shard

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/cputime"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// viewOf returns a view with these topics.
func viewOf(tb testing.TB, topics ...string) func() *fsm.View {
	tb.Helper()
	state := fsm.New()
	do := func(cmd *metav1.Command) {
		res, err := state.Apply(state.View().Index()+1, cmd)
		require.NoError(tb, err)
		require.Nil(tb, res.GetRejection())
	}
	do(&metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{ClusterId: "C1", ClusterName: "c", Shards: 1}}})
	for i, name := range topics {
		do(&metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
			Name: name, Uuid: fmt.Appendf(nil, "%016d", i+1), Partitions: 1,
		}}})
	}
	return state.View
}

// stored does all that counting and tracing do for the batches of an append on the leader, with tracing off.
type stored struct {
	metrics  *Metrics
	tracer   tracing.Tracer
	proposer proposer
	batches  []AppendBatch
	requests []*request
}

func newStored(tb testing.TB, batches int) *stored {
	tb.Helper()
	m := NewMetrics(prometheus.NewRegistry())
	m.SyncTopics(viewOf(tb, "orders"))
	s := &stored{metrics: m, requests: []*request{{}}}
	for range batches {
		s.batches = append(s.batches, AppendBatch{Topic: "orders", Data: plain(tb, 240, "v"), PayloadBytes: 240})
	}
	return s
}

func (s *stored) instrument(ctx context.Context) {
	began, r := clock(), s.requests[0]
	_, r.span = s.tracer.Child(ctx, "append")
	if r.span.IsRecording() {
		panic("tracing is off")
	}
	r.counts = s.metrics.countBatches(r.single[:0], s.batches)
	origin := trace.SpanContextFromContext(ctx)
	s.proposer.mark(s.requests)
	for _, r := range s.requests { // as traceCommit does
		if r.span.IsRecording() {
			panic("tracing is off")
		}
	}
	for _, c := range r.counts {
		c.committed()
	}
	took := clock() - began
	for _, c := range r.counts {
		c.acknowledged(took, origin)
	}
	tracing.End(r.span, nil)
}

func TestInstrumentationAllocatesNothing(t *testing.T) {
	ctx := context.Background() // as a lane hands it over
	one, many := newStored(t, 1), newStored(t, 16)
	require.Zero(t, testing.AllocsPerRun(1000, func() { one.instrument(ctx) }))
	require.LessOrEqual(t, testing.AllocsPerRun(1000, func() { many.instrument(ctx) }), 1.0, "for all batches of an append together")
	require.EqualValues(t, 1001*240, one.metrics.topic("orders").sizes.records.Load())
	require.EqualValues(t, 1001*16*240, many.metrics.topic("orders").sizes.records.Load())
}

// A topic that is written to after it was deleted, or before it is named, has no series that stay.
func TestSeriesGoWithTheTopic(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := NewMetrics(reg)
	for range 2 {
		m.SyncTopics(viewOf(t, "orders"))
		before, err := testutil.GatherAndCount(reg)
		require.NoError(t, err)
		late := batchCounts{series: m.topic("deleted"), records: 1}
		require.Same(t, late.series, m.topic("deleted"))
		m.SyncTopics(viewOf(t, "orders"))
		late.committed()
		after, err := testutil.GatherAndCount(reg)
		require.NoError(t, err)
		require.Equal(t, before, after)
	}
	early := m.topic("new")
	m.SyncTopics(viewOf(t, "orders", "new"))
	require.Same(t, early, m.topic("new"), "what was counted before stays")
}

// A topic that comes while the series are held against the view before keeps what it counts.
func TestSyncKeepsATopicOfANewerView(t *testing.T) {
	m, before := NewMetrics(prometheus.NewRegistry()), viewOf(t, "orders")
	var wg sync.WaitGroup
	counted := make(chan struct{})
	m.SyncTopics(func() *fsm.View {
		wg.Go(func() {
			defer close(counted)
			m.topic("new").sizes.add(1, 1)
		})
		select {
		case <-counted:
		case <-time.After(100 * time.Millisecond): // it waits for the end of SyncTopics
		}
		return before()
	})
	wg.Wait()
	m.SyncTopics(viewOf(t, "orders", "new"))
	require.EqualValues(t, 1, m.topic("new").sizes.records.Load())
}

// BenchmarkInstrumentation is what a batch costs on its leader: alone in an append, and with others in one of a stream.
func BenchmarkInstrumentation(b *testing.B) {
	for name, batches := range map[string]int{"stored": 1, "storedInGroup": 16} {
		b.Run(name, func(b *testing.B) {
			s, ctx := newStored(b, batches), context.Background()
			cputime.Bench(b, batches, func() { s.instrument(ctx) })
		})
	}
}

package broker

import (
	"context"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// served has what counting, logging and tracing need for a request, with tracing off and the log at info.
type served struct {
	broker *Broker
	stream pipeline
	req    *streamhousev1.ProduceStreamRequest
	write  streamWrite
	group  laneGroup
	result StreamResult
}

func newServed() *served {
	b := &Broker{metrics: newMetrics(prometheus.NewRegistry()), log: slog.New(slog.NewJSONHandler(nil, nil))}
	b.metrics.add("orders")
	s := &served{broker: b, stream: pipeline{b: b}, req: &streamhousev1.ProduceStreamRequest{}, result: StreamResult{Topic: "orders"}}
	s.group.items = []laneItem{{write: &s.write}}
	return s
}

// produced is what a request of a stream of writes pays on the node that it comes to.
func (s *served) produced(ctx context.Context) {
	if s.stream.trace(ctx, &s.write, s.req) != ctx || s.write.span != nil {
		panic("tracing is off")
	}
	s.group.trace()
	s.group.context(ctx)
	s.broker.written(ctx, &s.write, s.result)
}

// consumed is what a batch pays that is read.
func (s *served) consumed(ctx context.Context) {
	_, span := s.broker.tracer.Child(ctx, "read")
	if span.IsRecording() {
		panic("tracing is off")
	}
	tracing.End(span, nil)
	s.broker.consumed("orders", "", 240)
}

func TestInstrumentationAllocatesNothing(t *testing.T) {
	s, ctx := newServed(), t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() { s.produced(ctx) }), "produced")
	require.Zero(t, testing.AllocsPerRun(1000, func() { s.consumed(ctx) }), "consumed")
}

// cpuTime is the CPU time that this process has used outside the kernel: on a machine that others use too, time that passes
// says little.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u) // it can't fail
	return time.Duration(u.Utime.Nano())
}

func BenchmarkInstrumentation(b *testing.B) {
	s, ctx := newServed(), b.Context()
	b.Run("produced", func(b *testing.B) {
		b.ReportAllocs()
		began := cpuTime()
		for b.Loop() {
			s.produced(ctx)
		}
		b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
	})
	b.Run("consumed", func(b *testing.B) {
		b.ReportAllocs()
		began := cpuTime()
		for b.Loop() {
			s.consumed(ctx)
		}
		b.ReportMetric(float64(cpuTime()-began)/float64(b.N), "cpu-ns/op")
	})
}

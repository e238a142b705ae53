package broker

import (
	"context"
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/cputime"
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
	b := &Broker{metrics: NewMetrics(prometheus.NewRegistry()), log: slog.New(slog.NewJSONHandler(nil, nil))}
	b.metrics.addLocked("orders", "") // nobody else has it yet
	b.metrics.count("orders", "billing", 1, "")
	b.metrics.settle("billing", true)
	s := &served{broker: b, stream: pipeline{b: b}, req: &streamhousev1.ProduceStreamRequest{}, result: StreamResult{Topic: "orders"}}
	s.group.items = []laneItem{{write: &s.write}}
	return s
}

// streamed is what a request of a stream of writes pays on the node that it comes to.
func (s *served) streamed(ctx context.Context) {
	if s.stream.trace(ctx, &s.write, s.req) != ctx || s.write.span != nil {
		panic("tracing is off")
	}
	s.group.trace()
	s.group.context(ctx)
	s.broker.written(ctx, &s.write, s.result)
}

// forward is how calls go to other nodes.
var forward = tracing.ChildUnaryClient(nil)

// forwarded is what a request pays that goes to another node, beside what it pays there.
func (s *served) forwarded(ctx context.Context) {
	ctx, span := s.broker.tracer.Child(ctx, "forward")
	if span.IsRecording() {
		panic("tracing is off")
	}
	err := forward(ctx, "Append", nil, nil, nil, func(context.Context, string, any, any, *grpc.ClientConn, ...grpc.CallOption) error { return nil })
	tracing.End(span, err)
}

// consumed is what a batch pays that is read, by a group or without one.
func (s *served) consumed(ctx context.Context, group string) {
	_, span := s.broker.tracer.Child(ctx, "read")
	if span.IsRecording() {
		panic("tracing is off")
	}
	tracing.End(span, nil)
	s.broker.consumed("orders", group, 240)
}

// ways are those of batches through a node.
func (s *served) ways() map[string]func(context.Context) {
	return map[string]func(context.Context){
		"streamed": s.streamed, "forwarded": s.forwarded,
		"consumed":        func(ctx context.Context) { s.consumed(ctx, "") },
		"consumedByGroup": func(ctx context.Context) { s.consumed(ctx, "billing") },
	}
}

func TestInstrumentationAllocatesNothing(t *testing.T) {
	s, ctx := newServed(), t.Context()
	for name, way := range s.ways() {
		require.Zero(t, testing.AllocsPerRun(1000, func() { way(ctx) }), name)
	}
	for group, runs := range map[string]float64{"": 1001 * 240, "billing": 1001*240 + 1} { // AllocsPerRun warms up with one
		require.InDelta(t, runs, testutil.ToFloat64(s.broker.metrics.topics["orders"][group]), 0, "records of group %q", group)
	}
}

func BenchmarkInstrumentation(b *testing.B) {
	for name, way := range newServed().ways() {
		b.Run(name, func(b *testing.B) {
			ctx := b.Context()
			cputime.Bench(b, 1, func() { way(ctx) })
		})
	}
}

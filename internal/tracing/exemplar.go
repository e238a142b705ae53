package tracing

import (
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

const (
	// TraceLabel is the label of an exemplar that has the id of its trace.
	TraceLabel = "trace_id"
	// CommitKey is the name under which the sink of Raft's metrics is told, with TraceLabel, which trace has seen a commit that
	// took so many seconds: the library, which times commits, knows no traces.
	CommitKey = "streamhouse.commit"
)

// Observe observes a value, with the trace as its exemplar where that is sampled, so that it can be looked up.
func Observe(o prometheus.Observer, value float64, sc trace.SpanContext) {
	if sc.IsSampled() {
		if e, ok := o.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(value, prometheus.Labels{TraceLabel: sc.TraceID().String()})
			return
		}
	}
	o.Observe(value)
}

package tracing

import (
	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
)

// Observe observes a value, with the trace as its exemplar where that is sampled, so that it can be looked up.
func Observe(o prometheus.Observer, value float64, sc trace.SpanContext) {
	if sc.IsSampled() {
		if e, ok := o.(prometheus.ExemplarObserver); ok {
			e.ObserveWithExemplar(value, prometheus.Labels{"trace_id": sc.TraceID().String()})
			return
		}
	}
	o.Observe(value)
}

package observability

import (
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

// exemplars is a histogram whose exemplars come from elsewhere than its observations: for each bucket the last one. Safe for
// concurrent use.
type exemplars struct {
	prometheus.Histogram

	bounds []float64 // upper ones of the buckets, in order

	mu   sync.Mutex
	last []prometheus.Exemplar // guarded by mu; one for each bucket and one beyond, without labels where there is none
}

var _ prometheus.Collector = (*exemplars)(nil)

func newExemplars(h prometheus.Histogram, bounds []float64) *exemplars {
	return &exemplars{Histogram: h, bounds: bounds, last: make([]prometheus.Exemplar, len(bounds)+1)}
}

// add notes the trace of a value.
func (e *exemplars) add(value float64, traceID string) {
	i, _ := slices.BinarySearch(e.bounds, value)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.last[i] = prometheus.Exemplar{Value: value, Labels: prometheus.Labels{tracing.TraceLabel: traceID}, Timestamp: time.Now()}
}

// Collect implements prometheus.Collector.
func (e *exemplars) Collect(ch chan<- prometheus.Metric) {
	e.mu.Lock()
	known := slices.DeleteFunc(slices.Clone(e.last), func(x prometheus.Exemplar) bool { return x.Labels == nil })
	e.mu.Unlock()
	if len(known) == 0 {
		ch <- e.Histogram
		return
	}
	m, err := prometheus.NewMetricWithExemplars(e.Histogram, known...)
	if err != nil {
		m = prometheus.NewInvalidMetric(e.Desc(), err)
	}
	ch <- m
}

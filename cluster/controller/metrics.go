package controller

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	actions        *prometheus.CounterVec
	failures       *prometheus.CounterVec
	trims          prometheus.Counter
	objectsDropped prometheus.Counter
	objectsDeleted prometheus.Counter
	objectsKept    prometheus.Gauge
}

var actionKinds = []string{"propose", "membership", "transfer"}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		actions: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_controller_actions_total",
			Help: "Steps that the controller took, on the leader of the metadata group.",
		}, []string{"action"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_controller_failures_total",
			Help: "Steps of the controller that failed; they are tried again.",
		}, []string{"action"}),
		trims: f.NewCounter(prometheus.CounterOpts{
			Name: "streamhouse_retention_trims_total",
			Help: "Times that retention moved the log start of a partition.",
		}),
		objectsDropped: f.NewCounter(prometheus.CounterOpts{
			Name: "streamhouse_janitor_objects_dropped_total",
			Help: "Objects that were condemned because nothing refers to them.",
		}),
		objectsDeleted: f.NewCounter(prometheus.CounterOpts{
			Name: "streamhouse_janitor_objects_deleted_total",
			Help: "Condemned objects that were deleted from the object store.",
		}),
		objectsKept: f.NewGauge(prometheus.GaugeOpts{
			Name: "streamhouse_janitor_objects_kept",
			Help: "Objects that the metadata does not know and that may be needed, as the leader of the metadata group saw last.",
		}),
	}
	for _, k := range actionKinds {
		m.actions.WithLabelValues(k)
		m.failures.WithLabelValues(k)
	}
	return m
}

package scrub

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

type metrics struct {
	bytes     *prometheus.CounterVec
	damaged   *prometheus.CounterVec
	objects   prometheus.Gauge
	rewritten prometheus.Counter
	compared  prometheus.Counter
	diverged  prometheus.Gauge
	rounds    prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	f := promauto.With(reg)
	m := &metrics{
		bytes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_scrub_bytes_total",
			Help: "Bytes of logs and objects that the scrubber has read and checked.",
		}, []string{"kind"}),
		damaged: f.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_scrub_damaged_total",
			Help: "Times that the scrubber found a replica or an object damaged.",
		}, []string{"kind"}),
		objects: f.NewGauge(prometheus.GaugeOpts{
			Name: "streamhouse_scrub_damaged_objects",
			Help: "Objects that this node found damaged or missing and that still are, as it saw within the last minutes, or before a restart.",
		}),
		rewritten: f.NewCounter(prometheus.CounterOpts{
			Name: "streamhouse_scrub_rewritten_objects_total",
			Help: "Times that segments of a damaged object were written into a new one from the log of this node.",
		}),
		compared: f.NewCounter(prometheus.CounterOpts{
			Name: "streamhouse_scrub_compared_entries_total",
			Help: "Log entries of this node's replicas that were compared with those of at least one other replica.",
		}),
		diverged: f.NewGauge(prometheus.GaugeOpts{
			Name: "streamhouse_scrub_diverged_replicas",
			Help: "Replicas of this node that have other log entries than others of their group, as they were compared last.",
		}),
		rounds: f.NewCounter(prometheus.CounterOpts{
			Name: "streamhouse_scrub_rounds_total",
			Help: "Rounds in which the scrubber has read all that this node answers for.",
		}),
	}
	for _, kind := range []string{"log", "object"} {
		m.bytes.WithLabelValues(kind)
		m.damaged.WithLabelValues(kind)
	}
	return m
}

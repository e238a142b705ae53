package logstore

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are what a node's Raft logs are told to: one for the metadata group and one for all shards together.
type Metrics struct {
	Metadata prometheus.Observer
	Shards   prometheus.Observer
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) Metrics {
	seconds := promauto.With(reg).NewHistogramVec(prometheus.HistogramOpts{
		Name: "streamhouse_log_write_seconds", Help: "Time of a write to a Raft log, with its fsync.",
		Buckets: prometheus.ExponentialBuckets(0.000125, 2, 18),
	}, []string{"group"})
	return Metrics{Metadata: seconds.WithLabelValues("metadata"), Shards: seconds.WithLabelValues("shard")}
}

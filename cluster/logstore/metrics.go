package logstore

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are what a node's Raft logs are told to: one for the metadata group and one for all shards together.
type Metrics struct {
	Metadata *Writes
	Shards   *Writes
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) Metrics {
	f := promauto.With(reg)
	seconds := f.NewHistogramVec(prometheus.HistogramOpts{
		Name: "streamhouse_log_write_seconds", Help: "Time of a write to a Raft log, with its fsync.",
		Buckets: prometheus.ExponentialBuckets(0.000125, 2, 18),
	}, []string{"group"})
	writes := func(group string) *Writes {
		w := &Writes{seconds: seconds.WithLabelValues(group), since: make(map[uint64]time.Time)}
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "streamhouse_log_write_oldest_seconds", Help: "Age of the oldest write to a Raft log that has not ended: it grows while a disk is stalled.",
			ConstLabels: prometheus.Labels{"group": group},
		}, func() float64 { return w.oldest(time.Now()).Seconds() })
		return w
	}
	return Metrics{Metadata: writes("metadata"), Shards: writes("shard")}
}

// Writes watches the writes of some logs. Safe for concurrent use.
type Writes struct {
	seconds prometheus.Observer

	mu    sync.Mutex
	next  uint64               // guarded by mu
	since map[uint64]time.Time // guarded by mu; of the writes that have not ended
}

// begin notes a write, whose end must be told with what it returns. A nil Writes does nothing.
func (w *Writes) begin() (id uint64, began time.Time) {
	if w == nil {
		return 0, time.Time{}
	}
	began = time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	id = w.next
	w.next++
	w.since[id] = began
	return id, began
}

// end notes that a write has ended, and times it where it took place.
func (w *Writes) end(id uint64, began time.Time, written bool) {
	if w == nil {
		return
	}
	w.mu.Lock()
	delete(w.since, id)
	w.mu.Unlock()
	if written {
		w.seconds.Observe(time.Since(began).Seconds())
	}
}

// oldest returns the age of the oldest write under way, 0 where there is none.
func (w *Writes) oldest(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	age := time.Duration(0)
	for _, began := range w.since {
		age = max(age, now.Sub(began))
	}
	return age
}

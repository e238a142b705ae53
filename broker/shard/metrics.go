package shard

import (
	"maps"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// Metrics counts what the shards of a node do. One is shared by all of them. Safe for concurrent use.
type Metrics struct {
	latency *prometheus.HistogramVec

	mu     sync.Mutex                               // held by who replaces topics
	topics atomic.Pointer[map[string]*topicMetrics] // never changed, but replaced

	segments *segmentCollector
}

// topicMetrics are one topic's series, looked up once and not for each batch.
type topicMetrics struct {
	sizes   batchSizes
	latency prometheus.Observer
}

// NewMetrics registers the metrics; reg may be nil.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		latency: f.NewHistogramVec(prometheus.HistogramOpts{
			Name: "streamhouse_producer_latency_seconds", Help: "Time from a request's arrival at the leader to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 16),
		}, []string{"topic"}),
		segments: newSegmentCollector(),
	}
	m.topics.Store(&map[string]*topicMetrics{})
	if reg != nil {
		reg.MustRegister(m.segments, newSizeCollector(&m.topics))
	}
	return m
}

// SyncTopics makes the series of the topics that view returns, at 0, and removes those of all others. It calls view, which
// must return the newest one, under its lock: with an older one it would remove a topic that has come meanwhile, and what it
// counted.
func (m *Metrics) SyncTopics(view func() *fsm.View) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, topics := *m.topics.Load(), make(map[string]*topicMetrics)
	for t := range view().Topics() {
		if topics[t.Name] = old[t.Name]; topics[t.Name] == nil {
			topics[t.Name] = m.series(t.Name)
		}
	}
	m.topics.Store(&topics)
	for name := range old {
		if topics[name] == nil {
			m.latency.DeleteLabelValues(name)
		}
	}
}

// ForgetPartitions drops what is counted of partitions that the metadata no longer has, wherever they are led now.
func (m *Metrics) ForgetPartitions(view func() *fsm.View) { m.segments.forget(view) }

// started is when the process began.
var started = time.Now()

// clock is the time since the process began: it reads one of the two clocks that time.Now reads, which for every batch is
// a large part of what it costs to count it.
func clock() time.Duration { return time.Since(started) }

// committed counts a stored batch.
func (c *batchCounts) committed() {
	c.series.sizes.add(c.records, c.payload)
}

// acknowledged observes how long an acknowledged request took, with its trace as an exemplar.
func (c *batchCounts) acknowledged(took time.Duration, sc trace.SpanContext) {
	tracing.Observe(c.series.latency, took.Seconds(), sc)
}

// topic returns a topic's series. One that SyncTopics has not named yet, or no longer, counts too: its series are made,
// and the next SyncTopics keeps or removes them.
func (m *Metrics) topic(name string) *topicMetrics {
	if t := (*m.topics.Load())[name]; t != nil {
		return t
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := *m.topics.Load()
	if t := old[name]; t != nil {
		return t
	}
	topics := maps.Clone(old)
	topics[name] = m.series(name)
	m.topics.Store(&topics)
	return topics[name]
}

func (m *Metrics) series(name string) *topicMetrics {
	return &topicMetrics{latency: m.latency.WithLabelValues(name)}
}

// segmentCollector shows segment counters of the partitions that this node leads. A partition's counts are kept while
// another node leads it, so that they never go back, and until the metadata has it no longer.
type segmentCollector struct {
	writes  *prometheus.Desc
	flushes *prometheus.Desc

	mu     sync.Mutex
	counts map[uint64]*segmentCounts
	led    map[uint32]func() []ledPartition
}

type segmentCounts struct{ writes, flushes float64 }

// ledPartition names a partition of a shard that is led here.
type ledPartition struct {
	id     uint64
	topic  string
	number int32
}

func newSegmentCollector() *segmentCollector {
	labels := []string{"topic", "partition"}
	return &segmentCollector{
		writes:  prometheus.NewDesc("streamhouse_segment_writes_total", "Segments cut, whose upload began.", labels, nil),
		flushes: prometheus.NewDesc("streamhouse_segment_flushes_total", "Segments in the object store and in the manifest.", labels, nil),
		counts:  make(map[uint64]*segmentCounts),
		led:     make(map[uint32]func() []ledPartition),
	}
}

var _ prometheus.Collector = (*segmentCollector)(nil)

// Describe implements prometheus.Collector.
func (c *segmentCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.writes
	ch <- c.flushes
}

// Collect implements prometheus.Collector.
func (c *segmentCollector) Collect(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	sources := make([]func() []ledPartition, 0, len(c.led))
	for _, f := range c.led {
		sources = append(sources, f)
	}
	c.mu.Unlock()
	for _, f := range sources {
		for _, p := range f() {
			n := c.get(p.id)
			labels := []string{p.topic, strconv.Itoa(int(p.number))}
			ch <- prometheus.MustNewConstMetric(c.writes, prometheus.CounterValue, n.writes, labels...)
			ch <- prometheus.MustNewConstMetric(c.flushes, prometheus.CounterValue, n.flushes, labels...)
		}
	}
}

func (c *segmentCollector) get(id uint64) segmentCounts {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.counts[id]; n != nil {
		return *n
	}
	return segmentCounts{}
}

func (c *segmentCollector) add(id uint64, writes, flushes float64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.counts[id]
	if n == nil {
		n = &segmentCounts{}
		c.counts[id] = n
	}
	n.writes += writes
	n.flushes += flushes
}

// forget drops the counts of partitions that are gone. It asks for the view behind what is counted, so that one that is newer
// than the view is not taken for gone.
func (c *segmentCollector) forget(view func() *fsm.View) {
	c.mu.Lock()
	ids := slices.Collect(maps.Keys(c.counts))
	c.mu.Unlock()
	known := view()
	ids = slices.DeleteFunc(ids, func(id uint64) bool { _, ok := known.Partition(id); return ok })
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		delete(c.counts, id)
	}
}

func (c *segmentCollector) lead(shard uint32, partitions func() []ledPartition) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.led[shard] = partitions
}

func (c *segmentCollector) unlead(shard uint32) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.led, shard)
}

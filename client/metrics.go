package client

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the client's numbers. Labels by topic are bounded by what the program names.
type metrics struct {
	registerer prometheus.Registerer

	retries       prometheus.Counter
	refreshes     prometheus.Counter
	produced      *prometheus.CounterVec
	producedBytes *prometheus.CounterVec
	produceErrors *prometheus.CounterVec
	batchRecords  prometheus.Histogram
	ackSeconds    prometheus.Histogram
	bufferedBytes prometheus.Gauge
	consumed      *prometheus.CounterVec
	consumedBytes *prometheus.CounterVec
	prefetched    prometheus.Gauge
	fetchErrors   prometheus.Counter
	commits       *prometheus.CounterVec
	rebalances    prometheus.Counter
	lost          prometheus.Counter
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "streamhouse_client_" + name, Help: help})
	}
	byTopic := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "streamhouse_client_" + name, Help: help}, []string{"topic"})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "streamhouse_client_" + name, Help: help})
	}
	m := &metrics{
		registerer:    r,
		retries:       counter("retries_total", "Calls that failed and were tried again."),
		refreshes:     counter("metadata_refreshes_total", "Questions for a topic's partitions and leaders."),
		produced:      byTopic("produced_records_total", "Records acknowledged."),
		producedBytes: byTopic("produced_bytes_total", "Bytes of keys, values and headers acknowledged."),
		produceErrors: byTopic("produce_errors_total", "Records that were not delivered."),
		batchRecords: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streamhouse_client_produce_batch_records", Help: "Records of an acknowledged batch.",
			Buckets: prometheus.ExponentialBuckets(1, 4, 8),
		}),
		ackSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "streamhouse_client_produce_latency_seconds", Help: "From a batch's first record to its acknowledgement.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 14),
		}),
		bufferedBytes: gauge("produce_buffered_bytes", "Bytes that wait for their acknowledgement."),
		consumed:      byTopic("consumed_records_total", "Records that Poll returned."),
		consumedBytes: byTopic("consumed_bytes_total", "Bytes of keys, values and headers that Poll returned."),
		prefetched:    gauge("prefetched_bytes", "Bytes read ahead of Poll."),
		fetchErrors:   counter("fetch_errors_total", "Reads that failed."),
		commits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "streamhouse_client_commits_total", Help: "Commits of offsets.",
		}, []string{"result"}),
		rebalances: counter("rebalances_total", "Changes of what consumers are assigned."),
		lost:       counter("lost_partitions_total", "Partitions that a consumer lost without giving them up."),
	}
	m.commits.WithLabelValues("ok")
	m.commits.WithLabelValues("failed")
	if r == nil {
		return m, nil
	}
	all := m.collectors()
	for i, c := range all {
		if err := r.Register(c); err != nil {
			for _, ours := range all[:i] {
				r.Unregister(ours)
			}
			return nil, fmt.Errorf("the registerer has another client's metrics: %w", err)
		}
	}
	return m, nil
}

func (m *metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{
		m.retries, m.refreshes, m.produced, m.producedBytes, m.produceErrors, m.batchRecords, m.ackSeconds, m.bufferedBytes,
		m.consumed, m.consumedBytes, m.prefetched, m.fetchErrors, m.commits, m.rebalances, m.lost,
	}
}

// unregister makes room for another client.
func (m *metrics) unregister() {
	if m.registerer == nil {
		return
	}
	for _, c := range m.collectors() {
		m.registerer.Unregister(c)
	}
}

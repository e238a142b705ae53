package shard

import (
	"math/bits"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// sizeBuckets is how many powers of 4 a batch size is told apart by, from 1 on; what is larger is in one more.
const sizeBuckets = 9

// batchSizes counts a topic's committed batches by their size. Counters and a histogram of the library would keep the number
// of records twice, and cost a batch more than all else that is counted of it. Safe for concurrent use.
type batchSizes struct {
	batches [sizeBuckets + 1]atomic.Uint64
	records atomic.Uint64
	bytes   atomic.Uint64
}

// add counts a batch of at least one record.
func (s *batchSizes) add(records int32, payload int64) {
	s.batches[sizeBucket(records)].Add(1)
	s.records.Add(uint64(records))
	s.bytes.Add(uint64(payload))
}

// sizeBucket is the smallest i with 4^i >= records, or sizeBuckets.
func sizeBucket(records int32) int {
	return min((bits.Len32(uint32(max(records, 1)-1))+1)/2, sizeBuckets)
}

// sizeCollector shows the batch sizes of all topics.
type sizeCollector struct {
	topics                    *atomic.Pointer[map[string]*topicMetrics]
	records, bytes, batchSize *prometheus.Desc
}

func newSizeCollector(topics *atomic.Pointer[map[string]*topicMetrics]) *sizeCollector {
	desc := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"topic"}, nil)
	}
	return &sizeCollector{
		topics:    topics,
		records:   desc("streamhouse_producer_records_total", "Records committed by the shards that this node leads."),
		bytes:     desc("streamhouse_producer_bytes_total", "Bytes of keys, values and headers of the committed records."),
		batchSize: desc("streamhouse_producer_batch_size", "Records per committed batch."),
	}
}

var _ prometheus.Collector = (*sizeCollector)(nil)

// Describe implements prometheus.Collector.
func (c *sizeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.records
	ch <- c.bytes
	ch <- c.batchSize
}

// Collect implements prometheus.Collector.
func (c *sizeCollector) Collect(ch chan<- prometheus.Metric) {
	for name, t := range *c.topics.Load() {
		count, upTo := uint64(0), make(map[float64]uint64, sizeBuckets)
		for i := range t.sizes.batches {
			count += t.sizes.batches[i].Load()
			if i < sizeBuckets {
				upTo[float64(uint64(1)<<(2*i))] = count
			}
		}
		records, bytes := float64(t.sizes.records.Load()), float64(t.sizes.bytes.Load())
		ch <- prometheus.MustNewConstMetric(c.records, prometheus.CounterValue, records, name)
		ch <- prometheus.MustNewConstMetric(c.bytes, prometheus.CounterValue, bytes, name)
		ch <- prometheus.MustNewConstHistogram(c.batchSize, count, records, upTo, name)
	}
}

package shard

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func TestSizeBucket(t *testing.T) {
	limit := 1 // of bucket 0
	for i := range sizeBuckets {
		require.Equal(t, i, sizeBucket(int32(limit)), "%d records", limit)
		require.Equal(t, i+1, sizeBucket(int32(limit+1)), "%d records", limit+1)
		limit *= 4
	}
	require.Equal(t, sizeBuckets, sizeBucket(1<<31-1))
}

func TestBatchSizesAreShown(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	m.SyncTopics(viewOf(t, "orders", "quiet"))
	for _, records := range []int32{1, 3, 4, 100, 1 << 20} {
		(&batchCounts{series: m.topic("orders"), records: records, payload: 10}).committed()
	}
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP streamhouse_producer_batch_size Records per committed batch.
# TYPE streamhouse_producer_batch_size histogram
streamhouse_producer_batch_size_bucket{topic="orders",le="1"} 1
streamhouse_producer_batch_size_bucket{topic="orders",le="4"} 3
streamhouse_producer_batch_size_bucket{topic="orders",le="16"} 3
streamhouse_producer_batch_size_bucket{topic="orders",le="64"} 3
streamhouse_producer_batch_size_bucket{topic="orders",le="256"} 4
streamhouse_producer_batch_size_bucket{topic="orders",le="1024"} 4
streamhouse_producer_batch_size_bucket{topic="orders",le="4096"} 4
streamhouse_producer_batch_size_bucket{topic="orders",le="16384"} 4
streamhouse_producer_batch_size_bucket{topic="orders",le="65536"} 4
streamhouse_producer_batch_size_bucket{topic="orders",le="+Inf"} 5
streamhouse_producer_batch_size_sum{topic="orders"} 1.048684e+06
streamhouse_producer_batch_size_count{topic="orders"} 5
streamhouse_producer_batch_size_bucket{topic="quiet",le="1"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="4"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="16"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="64"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="256"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="1024"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="4096"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="16384"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="65536"} 0
streamhouse_producer_batch_size_bucket{topic="quiet",le="+Inf"} 0
streamhouse_producer_batch_size_sum{topic="quiet"} 0
streamhouse_producer_batch_size_count{topic="quiet"} 0
# HELP streamhouse_producer_bytes_total Bytes of keys, values and headers of the committed records.
# TYPE streamhouse_producer_bytes_total counter
streamhouse_producer_bytes_total{topic="orders"} 50
streamhouse_producer_bytes_total{topic="quiet"} 0
# HELP streamhouse_producer_records_total Records committed by the shards that this node leads.
# TYPE streamhouse_producer_records_total counter
streamhouse_producer_records_total{topic="orders"} 1.048684e+06
streamhouse_producer_records_total{topic="quiet"} 0
`), "streamhouse_producer_batch_size", "streamhouse_producer_bytes_total", "streamhouse_producer_records_total"))
}

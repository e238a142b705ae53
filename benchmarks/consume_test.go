package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// readAll reads all partitions at once, each through the node given for it, and returns MB/s.
func readAll(b *testing.B, from []*harness.Node) float64 {
	b.Helper()
	var bytes atomic.Int64
	var wg sync.WaitGroup
	start := time.Now()
	for partition, n := range from {
		wg.Go(func() {
			read, err := readPartition(b.Context(), n, int32(partition))
			if err != nil {
				b.Error(harness.Describe(err))
			}
			bytes.Add(read)
		})
	}
	wg.Wait()
	return float64(bytes.Load()) / time.Since(start).Seconds() / 1e6
}

func readPartition(ctx context.Context, n *harness.Node, partition int32) (int64, error) {
	var bytes, offset int64
	for {
		resp, err := n.ConsumeRecordBatches(ctx, &streamhousev1.ConsumeRecordBatchesRequest{
			Topic: topicName, Partition: partition, Offset: offset, MaxBytes: 4 << 20,
		})
		if err != nil {
			return bytes, err
		}
		bytes += int64(len(resp.GetRecordBatches()))
		if resp.GetNextOffset() >= resp.GetHighWatermark() {
			return bytes, nil
		}
		if resp.GetNextOffset() <= offset {
			return bytes, fmt.Errorf("no progress at offset %d", offset)
		}
		offset = resp.GetNextOffset()
	}
}

// BenchmarkConsume reads from memory, and from the object store through a cache that is smaller than what is read.
func BenchmarkConsume(b *testing.B) {
	total := pick(int64(192<<20), 4<<20)
	b.Run("from=memory", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(map[string]string{"tail-bytes": "1GiB"})})
		to := leaders(c, c.CreateTopic(topicName, 3, nil))
		load(b, to, time.Minute, total, 16)
		var rates []float64
		for b.Loop() {
			for range pick(5, 1) {
				rates = append(rates, readAll(b, to))
			}
		}
		b.ReportMetric(median(rates), "MB/s")
		note(b, "consume from memory", median(rates), "MB/s", atLeast(200))
	})
	b.Run("from=objectstore", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(map[string]string{
			"tail-bytes": "0", "cache-bytes": "24MiB", "upload-bytes": "16MiB", "upload-interval": "1s",
			"checkpoint-bytes": "1MiB", "log-retain-bytes": "0",
		})})
		topic := c.CreateTopic(topicName, 3, nil)
		load(b, leaders(c, topic), time.Minute, total, 16)
		waitInObjectStore(b, c)
		gets := c.Proxy.Count(http.MethodGet, ".seg")
		var rates []float64
		for b.Loop() {
			for range pick(5, 1) {
				rates = append(rates, readAll(b, leaders(c, c.Topic(topicName))))
			}
		}
		b.Logf("MB/s: %.0f, with %d GETs", rates, c.Proxy.Count(http.MethodGet, ".seg")-gets)
		b.ReportMetric(median(rates), "MB/s")
		note(b, "consume from the object store", median(rates), "MB/s", atLeast(100))
	})
}

func waitInObjectStore(b *testing.B, c *harness.Cluster) {
	b.Helper()
	harness.Eventually(b, 2*time.Minute, "all is in the object store, and cut from the logs", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			if m.Sum("streamhouse_shard_upload_backlog_bytes", nil) > 0 {
				return errors.New("there is a backlog")
			}
			for _, s := range m.Select("streamhouse_shard_log_bytes", nil) {
				if s.GetGauge().GetValue() > 4<<20 {
					return fmt.Errorf("a log has %v bytes", s.GetGauge().GetValue())
				}
			}
		}
		return nil
	})
}

package benchmarks

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// BenchmarkScrape scrapes a node that leads 1,000 partitions of 100 topics and coordinates 100 groups, each of which reads
// a topic, as Prometheus does and without compression.
func BenchmarkScrape(b *testing.B) {
	topics := pick(100, 5)
	c := harness.StartCluster(b, harness.Options{Nodes: 1, Flags: flags(nil)})
	n := c.Nodes[0]
	for i := range topics {
		topic, group := fmt.Sprintf("topic-%d", i), fmt.Sprintf("group-%d", i)
		c.CreateTopic(topic, 10, nil)
		if err := fillTopic(b.Context(), n, topic, group); err != nil {
			b.Fatal(harness.Describe(err))
		}
	}
	harness.Eventually(b, time.Minute, "all groups are counted", func(ctx context.Context) error {
		m, err := n.Metrics(ctx)
		if got := len(m.Select("streamhouse_consumer_records_total", nil)); err == nil && got < 2*topics {
			err = fmt.Errorf("%d series", got)
		}
		if got := len(m.Select("streamhouse_consumer_lag", nil)); err == nil && got != 10*topics {
			err = fmt.Errorf("%d series of lag", got)
		}
		return err
	})
	for _, encoding := range []string{"gzip", "identity"} {
		b.Run("encoding="+encoding, func(b *testing.B) {
			var seconds []float64
			bytes := int64(0)
			for b.Loop() {
				for range pick(20, 1) {
					began := time.Now()
					size, err := scrape(b.Context(), n, encoding)
					if err != nil {
						b.Fatal(err)
					}
					bytes = size
					seconds = append(seconds, time.Since(began).Seconds())
				}
			}
			b.ReportMetric(float64(bytes), "bytes/scrape")
			note(b, "scrape of 1,000 partitions, 100 groups, "+encoding, 1000*median(seconds), "ms", atMost(50))
			note(b, "its size, "+encoding, float64(bytes)/(1<<20), "MiB", atMost(5))
		})
	}
}

// fillTopic writes one record, and has a group read it and commit in all ten partitions.
func fillTopic(ctx context.Context, n *harness.Node, topic, group string) error {
	_, err := n.Produce(ctx, &streamhousev1.ProduceRequest{Topic: topic, Partition: new(int32), Record: &streamhousev1.Record{Value: []byte("x")}})
	if err != nil {
		return err
	}
	commit := &streamhousev1.CommitOffsetRequest{Group: group, Topic: topic}
	for p := range int32(10) {
		commit.Offsets = append(commit.Offsets, &streamhousev1.CommittedOffset{Partition: p})
	}
	if _, err := n.CommitOffset(ctx, commit); err != nil {
		return err
	}
	_, err = n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: topic, Group: group})
	return err
}

// scrape returns the bytes of an answer of /metrics.
func scrape(ctx context.Context, n *harness.Node, encoding string) (int64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL("/metrics"), http.NoBody)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept-Encoding", encoding)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("status %d", resp.StatusCode)
	}
	return io.Copy(io.Discard, resp.Body)
}

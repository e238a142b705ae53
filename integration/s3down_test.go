package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const backlogMetric = "streamhouse_shard_upload_backlog_bytes"

// backlog is the largest backlog of any replica of a shard, added up over shards by the caller's bound.
func backlog(ctx context.Context, c *harness.Cluster) (float64, error) {
	return c.Sum(ctx, backlogMetric, nil)
}

// S3 goes away under load: produce goes on until the local log is at its budget,
// all nodes restart meanwhile, and the backlog drains once S3 is back.
func TestS3Down(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{
		"upload-interval": "500ms", "upload-bytes": "4MiB", "checkpoint-bytes": "2MiB",
		"log-retain-bytes": "1MiB", "log-max-bytes": "24MiB",
	})})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "before", Partitions: 3, RecordBytes: 1 << 10}, 20)
	waitUploaded(t, c, "orders")

	up := c.Proxy.Down()
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "during", Partitions: 3, Every: 30 * time.Millisecond})
	ledger.WaitAcked(t, 500, syncWithin)
	harness.Eventually(t, 20*time.Second, "the backlog shows", func(ctx context.Context) error {
		bytes, err := backlog(ctx, c)
		if err == nil && bytes < 50_000 {
			err = fmt.Errorf("%.0f bytes", bytes)
		}
		return err
	})
	harness.Eventually(t, 20*time.Second, "failed attempts are counted", func(ctx context.Context) error {
		n, err := c.Sum(ctx, "streamhouse_s3_errors_total", harness.Labels{"operation": "PUT", "error_type": "retry"})
		if err == nil && n == 0 {
			err = errors.New("none")
		}
		return err
	})
	for _, n := range c.Nodes {
		require.NoError(t, n.CheckReady(t.Context()), "readiness is about Raft")
	}

	t.Run("all nodes restart while S3 is down", func(t *testing.T) {
		c.KillAll()
		c.Start()
		c.WaitInSync(syncWithin)
		ledger.WaitAcked(t, 300, syncWithin)
		p.Stop(t)
		ends, err := c.Nodes[0].HighWatermarks(t.Context(), "orders")
		require.NoError(t, err)
		require.NotEmpty(t, ends)
	})

	t.Run("produce is refused with RESOURCE_EXHAUSTED at the budget", func(t *testing.T) {
		refused := fill(t, c, ledger)
		require.True(t, harness.IsCode(refused, codes.ResourceExhausted, "LOG_FULL"), harness.Describe(refused))
		delay, ok := harness.RetryDelay(refused)
		require.True(t, ok && delay > 0, "the error says when to try again")
	})

	up()
	harness.Eventually(t, syncWithin, "the backlog drains", func(ctx context.Context) error {
		bytes, err := backlog(ctx, c)
		if err == nil && bytes > 0 {
			err = fmt.Errorf("%.0f bytes are left", bytes)
		}
		return err
	})
	c.ProduceN(ledger, harness.ProducerConfig{Name: "after", Partitions: 3}, 10)
	waitUploaded(t, c, "orders")
	c.WaitInSync(syncWithin)
	ledger.Verify(t, c.Nodes...)
}

// fill writes until a write is refused and returns the refusal.
func fill(t *testing.T, c *harness.Cluster, ledger *harness.Ledger) error {
	t.Helper()
	const count, size = 64, 8 << 10
	next := make([]int64, 3)
	for range 500 {
		for partition := range int32(3) {
			req := &streamhousev1.ProduceBatchRequest{Topic: ledger.Topic, Partition: &partition}
			for i := range int64(count) {
				req.Records = append(req.Records, &streamhousev1.Record{
					Value: harness.Value("fill", partition, next[partition]+i, size),
				})
			}
			resp, err := c.Nodes[0].ProduceBatch(call(t), req)
			if err != nil {
				return err
			}
			ledger.Ack(partition, "fill", next[partition], count, resp.GetBatches()[0].GetBaseOffset())
			next[partition] += count
		}
	}
	t.Fatal("750 MiB were taken with a budget of 24 MiB")
	return nil
}

// S3 that is slow, overloaded, or loses its answers costs retries and nothing else.
func TestS3Unreliable(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, RecordBytes: 1 << 10, Every: 20 * time.Millisecond})
	for _, f := range []harness.Fault{
		{Methods: []string{http.MethodPut}, Status: http.StatusServiceUnavailable, Times: 6},
		{Methods: []string{http.MethodPut}, LoseAnswer: true, Times: 6},
		{Methods: []string{http.MethodPut}, Status: http.StatusInternalServerError, Times: 6},
		{Delay: 300 * time.Millisecond, Times: 20},
		{Drop: true, Times: 6},
	} {
		c.Proxy.Inject(f)
		ledger.WaitAcked(t, 500, syncWithin)
	}
	p.Stop(t)
	waitUploaded(t, c, "orders")
	c.Proxy.Heal()
	for _, f := range []harness.Fault{
		{Methods: []string{http.MethodGet}, Status: http.StatusServiceUnavailable, Times: 3},
		{Methods: []string{http.MethodGet}, Drop: true, Times: 3},
	} {
		c.Proxy.Inject(f)
	}
	ledger.Verify(t, c.Nodes...)
	segments := make(map[string]int)
	for _, r := range c.Proxy.Requests() {
		if r.Method == http.MethodPut && strings.HasSuffix(r.Key, ".seg") && r.Status == http.StatusOK {
			segments[r.Key]++
		}
	}
	for key, n := range segments {
		require.Equal(t, 1, n, "%s was written %d times", key, n)
	}
}

// What nothing refers to any more is deleted, after a grace period and not before.
func TestJanitor(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{"upload-interval": "200ms", "object-grace": "2s"})})
	objects := func() int {
		list, err := c.Gateway.Objects(t.Context(), harness.Bucket, "test/")
		require.NoError(t, err)
		n := 0
		for key := range list {
			if strings.HasSuffix(key, ".seg") {
				n++
			}
		}
		return n
	}
	c.CreateTopic("kept", 3, nil)
	c.CreateTopic("gone", 3, nil)
	kept, gone := harness.NewLedger("kept"), harness.NewLedger("gone")
	c.ProduceN(kept, harness.ProducerConfig{Name: "p", Partitions: 3}, 10)
	waitUploaded(t, c, "kept")
	baseline := objects()
	c.ProduceN(gone, harness.ProducerConfig{Name: "p", Partitions: 3}, 10)
	waitUploaded(t, c, "gone")
	require.Greater(t, objects(), baseline)

	_, err := c.Nodes[0].DeleteTopic(call(t), &streamhousev1.DeleteTopicRequest{Name: "gone"})
	require.NoError(t, err)
	harness.Eventually(t, syncWithin, "the deleted topic's objects go", func(context.Context) error {
		if n := objects(); n > baseline {
			return fmt.Errorf("%d objects, %d before", n, baseline)
		}
		return nil
	})
	kept.Verify(t, c.Nodes...)
	_, err = consume(call(t), c.Nodes[1], "gone", 0, 0, 0)
	require.True(t, harness.IsCode(err, codes.NotFound, "TOPIC_NOT_FOUND"), harness.Describe(err))

	// The name is free, and what comes under it shares nothing with the old topic.
	c.CreateTopic("gone", 3, nil)
	again := harness.NewLedger("gone")
	c.ProduceN(again, harness.ProducerConfig{Name: "again", Partitions: 3}, 5)
	again.Verify(t, c.Nodes...)
}

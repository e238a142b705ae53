package integration_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// A flipped bit in the log of a running node is found before anybody reads it, and the replica is rebuilt from the others
// while the node runs on. An object that is gone is told, until nothing needs it.
func TestScrubberRepairs(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{
		"shards": "1", "scrub-interval": "2s", "scrub-bytes-per-second": "256MiB", "tail-bytes": "0", "checkpoint-bytes": "64MiB",
	})})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "early", Partitions: 2, RecordBytes: 1 << 10}, 100)
	c.WaitInSync(syncWithin)
	waitUploaded(t, c, "orders")
	harness.Eventually(t, syncWithin, "all is read and whole", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			if m.Sum("streamhouse_scrub_rounds_total", nil) < 2 || m.Sum("streamhouse_scrub_bytes_total", harness.Labels{"kind": "log"}) == 0 {
				return fmt.Errorf("%s has not", n.ID)
			}
		}
		objects, err := c.Sum(ctx, "streamhouse_scrub_bytes_total", harness.Labels{"kind": "object"})
		if err == nil && objects == 0 {
			err = errors.New("no object was read")
		}
		return err
	})
	require.Zero(t, c.MustSum("streamhouse_scrub_damaged_total", nil))

	n := c.ShardLeader(0)
	before := replicasOf(c, n)
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 2, Every: 50 * time.Millisecond})
	require.NoError(t, harness.FlipBit(largest(t, filepath.Join(n.Dir, "shards"), isWAL)))
	harness.Eventually(t, syncWithin, "the damaged replica is replaced", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		var now []string
		for _, r := range st.GetShards()[0].GetReplicas() {
			if r.GetNodeId() == n.ID {
				now = append(now, r.GetReplicaId())
			}
		}
		if len(now) != 1 || slices.Equal(now, before) {
			return fmt.Errorf("replicas %v", now)
		}
		return nil
	})
	require.True(t, n.Running(), "the node runs on")
	c.WaitInSync(syncWithin)
	ledger.WaitAcked(t, 100, syncWithin)
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)

	objects, err := c.Gateway.Objects(t.Context(), harness.Bucket, "test")
	require.NoError(t, err)
	for name := range objects {
		if filepath.Ext(name) == ".seg" {
			require.NoError(t, c.Gateway.Delete(t.Context(), harness.Bucket, name))
			break
		}
	}
	prometheus := harness.StartPrometheus(t, c, harness.PrometheusOptions{
		ScrapeInterval: time.Second, RuleFiles: []string{deployed(t, "prometheus", "rules", "alerts.yml")},
	})
	harness.Eventually(t, syncWithin, "the lost object is told", func(ctx context.Context) error {
		damaged, err := c.Sum(ctx, "streamhouse_scrub_damaged_objects", nil)
		if err == nil && damaged != 1 {
			err = errors.New("not yet")
		}
		return err
	})
	prometheus.WaitValue(syncWithin, `count(ALERTS{alertname="ObjectDamaged",alertstate="firing"})`, 1)

	_, err = c.Nodes[0].DeleteTopic(call(t), &streamhousev1.DeleteTopicRequest{Name: "orders"})
	require.NoError(t, err)
	prometheus.WaitValue(syncWithin, `count(ALERTS{alertname="ObjectDamaged",alertstate="firing"}) or vector(0)`, 0)
}

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

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
	require.NoError(t, harness.FlipBitOf(largest(t, filepath.Join(n.Dir, "shards"), isWAL), "early/"))
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

	// What can't be written anew, here since the object store takes no object, is told until nothing needs it.
	defer c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Status: http.StatusServiceUnavailable})()
	require.NoError(t, c.Gateway.Delete(t.Context(), harness.Bucket, segments(t, c)[0]))
	prometheus := harness.StartPrometheus(t, c, harness.PrometheusOptions{
		ScrapeInterval: time.Second, RuleFiles: []string{deployed(t, "prometheus", "rules", "alerts.yml")},
	})
	waitDamagedObjects(t, c, 1)
	prometheus.WaitValue(syncWithin, `count(ALERTS{alertname="ObjectDamaged",alertstate="firing"})`, 1)

	_, err := c.Nodes[0].DeleteTopic(call(t), &streamhousev1.DeleteTopicRequest{Name: "orders"})
	require.NoError(t, err)
	prometheus.WaitValue(syncWithin, `count(ALERTS{alertname="ObjectDamaged",alertstate="firing"}) or vector(0)`, 0)
}

// segments returns the keys of the objects with segments that are in the bucket, the oldest first.
func segments(t *testing.T, c *harness.Cluster) []string {
	t.Helper()
	objects, err := c.Gateway.Objects(t.Context(), harness.Bucket, "test")
	require.NoError(t, err)
	var keys []string
	for key := range objects {
		if filepath.Ext(key) == ".seg" {
			keys = append(keys, key)
		}
	}
	require.NotEmpty(t, keys)
	slices.Sort(keys) // of one shard and term, they have the order of their ULIDs
	return keys
}

// waitDamagedObjects waits until the nodes tell of so many damaged objects.
func waitDamagedObjects(t *testing.T, c *harness.Cluster, want float64) {
	t.Helper()
	harness.Eventually(t, syncWithin, "the damaged objects are told", func(ctx context.Context) error {
		damaged, err := c.Sum(ctx, "streamhouse_scrub_damaged_objects", nil)
		if err == nil && damaged != want {
			err = fmt.Errorf("%.0f, not %.0f", damaged, want)
		}
		return err
	})
}

// Objects that were damaged or deleted are written anew from the local logs, and read from the object store again, by a node
// that has no log of them. A restart in between does not forget them.
func TestDamagedObjectsAreWrittenAnew(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 4, Flags: quick(map[string]string{
		"shards": "1", "scrub-interval": "2s", "scrub-bytes-per-second": "256MiB", "cache-bytes": "1MiB",
	})})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	for i := range 3 {
		c.ProduceN(ledger, harness.ProducerConfig{Name: fmt.Sprintf("p%d", i), Partitions: 2, RecordBytes: 1 << 10}, 100)
		waitUploaded(t, c, "orders")
	}
	c.WaitInSync(syncWithin)
	outside := slices.IndexFunc(c.Nodes, func(n *harness.Node) bool { return len(replicasOf(c, n)) == 0 })
	require.GreaterOrEqual(t, outside, 0, "one node has no replica")
	reader := c.Nodes[outside]

	release := c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Status: http.StatusServiceUnavailable})
	defer release()
	keys := segments(t, c)
	last := len(keys) - 1
	require.NoError(t, c.Gateway.FlipBit(t.Context(), harness.Bucket, keys[last]))
	for _, key := range keys[:last] {
		require.NoError(t, c.Gateway.Delete(t.Context(), harness.Bucket, key))
	}
	prometheus := harness.StartPrometheus(t, c, harness.PrometheusOptions{
		ScrapeInterval: time.Second, RuleFiles: []string{deployed(t, "prometheus", "rules", "alerts.yml")},
	})
	waitDamagedObjects(t, c, float64(len(keys)))
	prometheus.WaitValue(syncWithin, `count(ALERTS{alertname="ObjectDamaged",alertstate="firing"})`, 1)
	// The first object is deleted, and some partition begins in it.
	require.True(t, slices.ContainsFunc([]int32{0, 1}, func(partition int32) bool {
		_, err := consume(call(t), reader, "orders", partition, 0, 0)
		return harness.IsCode(err, codes.DataLoss, "CORRUPT_DATA")
	}), "%s reads the object store", reader.ID)

	finder := c.ShardLeader(0)
	finder.Stop()
	finder.Start()
	harness.Eventually(t, syncWithin, "it is told from the start on", func(ctx context.Context) error {
		m, err := finder.Metrics(ctx)
		if err == nil && m.Sum("streamhouse_scrub_damaged_objects", nil) == 0 {
			err = errors.New("it is not")
		}
		return err
	})

	release()
	prometheus.WaitValue(syncWithin, `count(ALERTS{alertname="ObjectDamaged",alertstate="firing"}) or vector(0)`, 0)
	waitDamagedObjects(t, c, 0)
	require.GreaterOrEqual(t, c.MustSum("streamhouse_scrub_rewritten_objects_total", nil), float64(len(keys)))
	ledger.Verify(t, reader)
	ledger.Verify(t, c.Nodes...)
}

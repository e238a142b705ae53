package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// early are flags under which the local logs are cut as soon as they are uploaded.
func early() map[string]string {
	return quick(map[string]string{
		"upload-interval": "500ms", "upload-bytes": "1MiB", "checkpoint-bytes": "1MiB",
		"log-retain-bytes": "0", "tail-bytes": "0", "cache-bytes": "64MiB",
	})
}

// waitUploaded waits until all of a topic is in the object store.
func waitUploaded(t *testing.T, c *harness.Cluster, topic string) {
	t.Helper()
	ends, err := c.Running()[0].HighWatermarks(t.Context(), topic)
	require.NoError(t, err)
	harness.Eventually(t, syncWithin, "all is uploaded", func(ctx context.Context) error {
		topic, err := c.AskTopic(ctx, topic)
		if err != nil {
			return err
		}
		for _, p := range topic.GetPartitions() {
			if p.GetUploadedEndOffset() < ends[p.GetPartition()] {
				return fmt.Errorf("partition %d is uploaded up to %d of %d", p.GetPartition(), p.GetUploadedEndOffset(), ends[p.GetPartition()])
			}
		}
		return nil
	})
}

// waitCut waits until the local logs of all nodes are smaller than the bound for each shard.
func waitCut(t *testing.T, c *harness.Cluster, bytes float64) {
	t.Helper()
	harness.Eventually(t, syncWithin, "the local logs are cut", func(ctx context.Context) error {
		for _, n := range c.Running() {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			for _, s := range m.Select("streamhouse_shard_log_bytes", nil) {
				if got := s.GetGauge().GetValue(); got > bytes {
					return fmt.Errorf("node %s: a shard's log has %.0f bytes", n.ID, got)
				}
			}
		}
		return nil
	})
}

// Records whose local log was cut come from S3; a later read comes from the cache.
func TestHistoryIsReadFromS3(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, RecordBytes: 8 << 10}, 100) // 8 MB a partition
	waitUploaded(t, c, "orders")
	waitCut(t, c, 2<<20)

	for _, n := range c.Nodes {
		before, gets := n.MustScrape(t), c.Proxy.Count(http.MethodGet, ".seg")
		ledger.Verify(t, n)
		first, firstGets := n.MustScrape(t), c.Proxy.Count(http.MethodGet, ".seg")
		misses := first.Sum("streamhouse_cache_misses_total", nil) - before.Sum("streamhouse_cache_misses_total", nil)
		require.Positivef(t, misses, "%s: the first read misses the cache", n.ID)
		require.Greater(t, firstGets, gets, "%s reads S3", n.ID)
		counted := first.Sum("streamhouse_s3_requests_total", harness.Labels{"operation": "GET"}) -
			before.Sum("streamhouse_s3_requests_total", harness.Labels{"operation": "GET"})
		require.GreaterOrEqual(t, counted, float64(firstGets-gets), "%s counts its GETs", n.ID)

		ledger.Verify(t, n) // waits for what the first one read ahead
		firstGets = c.Proxy.Count(http.MethodGet, ".seg")
		ledger.Verify(t, n)
		second := n.MustScrape(t)
		require.Greaterf(t, second.Sum("streamhouse_cache_hits_total", nil), first.Sum("streamhouse_cache_hits_total", nil),
			"%s: a later read hits the cache", n.ID)
		require.Equalf(t, firstGets, c.Proxy.Count(http.MethodGet, ".seg"), "%s: a later read asks S3 for nothing", n.ID)
	}

	// From nothing but the disks and S3.
	c.KillAll()
	c.Start()
	c.WaitInSync(syncWithin)
	ledger.Verify(t, c.Nodes...)
}

// acks=durable returns only once the manifest has the record.
func TestDurableAcks(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{"upload-interval": "1h"})})
	c.CreateTopic("orders", 1, nil)
	for range 5 {
		for _, n := range c.Nodes {
			start := time.Now()
			offset, err := produce(call(t), n, "orders", 0, "x", streamhousev1.Acks_ACKS_DURABLE)
			require.NoError(t, err)
			took := time.Since(start)
			resp, err := c.MetadataLeader().GetTopic(call(t), &streamhousev1.GetTopicRequest{Name: "orders"})
			require.NoError(t, err)
			require.Greater(t, resp.GetTopic().GetPartitions()[0].GetUploadedEndOffset(), offset, "the manifest has it")
			require.Less(t, took, 5*time.Second)
		}
	}

	release := c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Hang: true})
	defer release()
	done := make(chan error, 1)
	go func() {
		_, err := produce(call(t), c.Nodes[0], "orders", 0, "durable", streamhousev1.Acks_ACKS_DURABLE)
		done <- err
	}()
	harness.Always(t, 2*time.Second, "nothing is acknowledged while S3 does not answer", func(context.Context) error {
		if len(done) > 0 {
			return fmt.Errorf("it was answered: %w", <-done)
		}
		return nil
	})
	_, err := produce(call(t), c.Nodes[1], "orders", 0, "quorum", streamhousev1.Acks_ACKS_QUORUM)
	require.NoError(t, err, "acks=quorum does not wait for S3")
	release()
	require.NoError(t, <-done)
}

// Two nodes lose their disks, one after the other: each is replaced, and nothing is lost.
func TestTwoNodesLoseTheirDisks(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "old", Partitions: 3, RecordBytes: 8 << 10}, 50)
	waitUploaded(t, c, "orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "new", Partitions: 3, Every: 30 * time.Millisecond})
	for _, n := range c.Nodes[:2] {
		before := replicasOf(c, n)
		n.Kill()
		n.Wipe()
		ledger.WaitAcked(t, 200, syncWithin)
		n.Start()
		t.Logf("%s healed in %v", n.ID, c.WaitInSync(2*time.Minute))
		for _, id := range replicasOf(c, n) {
			require.NotContains(t, before, id, "a replica that lost its disk comes back under a new id")
		}
		ledger.WaitAcked(t, 200, syncWithin)
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

// replicasOf returns the ids of a node's replicas of shards.
func replicasOf(c *harness.Cluster, n *harness.Node) []string { return replicasIn(c.Status(), n) }

func replicasIn(st *streamhousev1.GetClusterStatusResponse, n *harness.Node) []string {
	var ids []string
	for _, s := range st.GetShards() {
		for _, r := range s.GetReplicas() {
			if r.GetNodeId() == n.ID {
				ids = append(ids, r.GetReplicaId())
			}
		}
	}
	slices.Sort(ids)
	return ids
}

//go:build root

package integration_test

import (
	"context"
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// startStoreCluster starts the cluster that loses its object store.
func startStoreCluster(t *testing.T) *alertWorld {
	t.Helper()
	return &alertWorld{c: harness.StartCluster(t, harness.Options{Flags: steady(map[string]string{
		"upload-interval": "200ms", "log-retain-bytes": "0", "log-max-bytes": "24MiB",
		"checkpoint-bytes": "23MiB", // of a shard: the log is not cut before it is as full as the alert wants
	})})}
}

// quietUnderLoad wants no alert to fire while clients write and read.
func quietUnderLoad(t *testing.T, w *alertWorld) {
	t.Helper()
	w.c.CreateTopic("load", 3, nil)
	ledger := harness.NewLedger("load")
	load := w.c.StartProducer(ledger, harness.ProducerConfig{Name: "load", Partitions: 3, Every: 50 * time.Millisecond})
	endReads := untilEnd(t, 50*time.Millisecond, func(ctx context.Context) {
		for p := range int32(3) {
			_, _ = w.c.Nodes[1].Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "load", Partition: p, Group: "load", MaxRecords: 1})
		}
	})
	ledger.WaitAcked(t, 100, syncWithin)
	w.requireQuiet(t, 20*time.Second, "in a healthy cluster under load")
	endReads()
	load.Stop(t)
}

// lostCheckpoints lets the object store drop the checkpoints of the metadata, which lack a topic then.
func lostCheckpoints(t *testing.T, w *alertWorld) func() {
	t.Helper()
	up := w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: "/metadata/", Drop: true})
	w.c.CreateTopic("unsaved", 1, nil)
	return up
}

// deadConsumer is a group that has committed once and does not come back.
func deadConsumer(t *testing.T, w *alertWorld) func() {
	t.Helper()
	const records = 1200
	w.c.CreateTopic("lagging", 1, nil)
	commit := func(offset int64) {
		_, err := w.c.Nodes[0].CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{
			Group: "billing", Topic: "lagging", Offsets: []*streamhousev1.CommittedOffset{{Partition: 0, Offset: offset}},
		})
		require.NoError(t, err)
	}
	commit(0)
	req := &streamhousev1.ProduceBatchRequest{Topic: "lagging", Partition: new(int32(0))}
	for range records {
		req.Records = append(req.Records, &streamhousev1.Record{Value: []byte("v")})
	}
	_, err := w.c.Nodes[0].ProduceBatch(call(t), req)
	require.NoError(t, err)
	return func() { commit(records) }
}

// restlessMember joins a group and leaves it, again and again, as a consumer does that crashes on a record. A committed offset
// keeps the group.
func restlessMember(t *testing.T, w *alertWorld) func() {
	t.Helper()
	n := w.c.Nodes[0]
	w.c.CreateTopic("poison", 1, nil)
	require.NoError(t, commit("restless", "poison", &streamhousev1.CommittedOffset{})(call(t), n))
	members := 0
	return untilEnd(t, 50*time.Millisecond, func(ctx context.Context) {
		members++
		id := fmt.Sprintf("member-%d", members)
		joined, err := n.GroupHeartbeat(ctx, &streamhousev1.GroupHeartbeatRequest{
			Group: "restless", MemberId: id, Sequence: 1, Topics: []string{"poison"}, SessionTimeoutMs: 1000,
		})
		if err == nil {
			_, _ = n.LeaveGroup(ctx, &streamhousev1.LeaveGroupRequest{Group: "restless", MemberId: id, MemberEpoch: joined.GetMemberEpoch()})
		}
	})
}

// objectsOf is in the names of the objects of the shard of a topic with one partition.
func objectsOf(c *harness.Cluster, topic string) string {
	return fmt.Sprintf("/%d/", c.Topic(topic).GetPartitions()[0].GetShard())
}

const (
	// nearlyFull is the part of a log's limit that is enough for LogFilling.
	nearlyFull = 0.82
	// pinnedBytes of a shard that wait for the object store are the most with which a replica still cuts its log.
	pinnedBytes = 64 << 20
)

// storeAwayForOneShard lets the object store drop what one shard uploads, and writes to that shard until no node cuts its log
// any more, and one is nearly full. Each has cut its own at another record, so that the leader's may be full before the others.
func storeAwayForOneShard(t *testing.T, w *alertWorld) func() {
	t.Helper()
	w.c.CreateTopic("filling", 1, nil)
	up := w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: objectsOf(w.c, "filling"), Drop: true})
	value := strings.Repeat("f", 2<<20)
	harness.Eventually(t, alertWithin, "a log is nearly full, and stays so", func(ctx context.Context) error {
		fullest, waits := 0.0, math.Inf(1)
		for _, n := range w.c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			ratio := m.Sum("streamhouse_shard_log_bytes", nil) / m.Sum("streamhouse_log_limit_bytes", nil)
			fullest, waits = max(fullest, ratio), min(waits, m.Sum("streamhouse_shard_upload_backlog_bytes", nil))
		}
		if fullest >= nearlyFull && waits > pinnedBytes {
			return nil
		}
		if _, err := produce(ctx, w.c.Nodes[0], "filling", 0, value, 0); err != nil {
			return err
		}
		return fmt.Errorf("the fullest is %.2f full, and %.0f bytes wait", fullest, waits)
	})
	return up
}

// slowStore delays every PUT for longer than both limits of latency, while producers wait for the object store.
func slowStore(t *testing.T, w *alertWorld) func() {
	t.Helper()
	w.c.CreateTopic("durable", 3, nil)
	heal := w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Delay: 8500 * time.Millisecond})
	ends := []func(){heal}
	for p := range int32(3) {
		// The first comes later for each partition: uploads that ended together would leave more than a window between them.
		every := time.Duration(1+25*p) * 100 * time.Millisecond
		ends = append(ends, untilEnd(t, every, func(ctx context.Context) {
			_, _ = produce(ctx, w.c.Nodes[0], "durable", p, "v", streamhousev1.Acks_ACKS_DURABLE)
		}))
	}
	return func() {
		for _, end := range ends {
			end()
		}
	}
}

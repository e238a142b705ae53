//go:build nightly

package integration_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// healthy-but-wedged: two of three nodes were restarted under load, writes were stuck from then on, and every node said
// that it was well. Here, once all say that they are ready, every partition takes writes through every node.
func TestHealthyButWedged(t *testing.T) {
	t.Parallel()
	const partitions = 6
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders", partitions, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: partitions, Window: 5})
	for round := range 2 * harness.Repeat(10) {
		ledger.WaitAcked(t, 300, syncWithin)
		two := []*harness.Node{c.Nodes[round%3], c.Nodes[(round+1)%3]}
		harms := []harness.Harm{&harness.Kill{Nodes: two}}
		if round%2 == 1 {
			harms = []harness.Harm{&harness.Restart{Node: two[0]}, &harness.Kill{Nodes: two[1:]}}
		}
		for _, h := range harms {
			require.NoError(t, h.Start())
		}
		for _, h := range harms {
			require.NoError(t, h.Heal())
		}
		c.WaitReady(syncWithin)
		for _, n := range c.Nodes {
			for partition := range int32(partitions) {
				offset, err := produce(call(t), n, "orders", partition, "probe", streamhousev1.Acks_ACKS_QUORUM)
				require.NoErrorf(t, err, "all are ready, and partition %d takes nothing through %s: %s", partition, n.ID, harness.Describe(err))
				require.GreaterOrEqual(t, offset, int64(0))
			}
		}
	}
	p.Stop(t)
	ledger.Tolerate("probe")
	c.WaitInSync(syncWithin)
	ledger.Verify(t, c.Nodes...)
}

// membership-loss: nodes came and went while others were killed, and messages were lost or stale. Here a node joins, is
// drained, comes back and is decommissioned, while the others are killed one after the other.
func TestMembershipLoss(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	l := startLoad(t, c, loadConfig{partitions: 3, every: 25 * time.Millisecond})
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	killOne := func() {
		h := &harness.Kill{Nodes: []*harness.Node{c.Nodes[rnd.IntN(3)]}}
		require.NoError(t, h.Start())
		lasting(t, time.Duration(rnd.Int64N(int64(time.Second))))
		require.NoError(t, h.Heal())
	}
	for range harness.Repeat(10) {
		n := c.Add()
		n.Start()
		killOne()
		c.WaitInSync(syncWithin)
		l.waitMore(100)
		drain := &harness.Drain{Cluster: c, Node: n}
		require.NoError(t, drain.Start())
		killOne()
		l.waitMore(100)
		require.NoError(t, drain.Heal())
		killOne()
		c.WaitInSync(syncWithin)
		decommission(t, c, n, killOne)
		l.waitMore(100)
	}
	l.finish()
}

// decommission takes a node out of the cluster for good, with a harm under way.
func decommission(t *testing.T, c *harness.Cluster, n *harness.Node, harm func()) {
	t.Helper()
	retry(t, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.DecommissionNode(ctx, &streamhousev1.DecommissionNodeRequest{NodeId: n.ID})
		if harness.Reason(err) == "NODE_NOT_FOUND" {
			return nil // an earlier try
		}
		return err
	})
	harm()
	waitGone(t, c, n)
	c.Forget(n)
}

// healthy-loss: acknowledged writes were lost with no fault at all. Here nothing happens but load, uploads and cut logs, and
// all is read back, from the local logs and then from the object store.
func TestHealthyLoss(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	m := watchMemory(t, c)
	l := startLoad(t, c, loadConfig{partitions: 6, every: 10 * time.Millisecond, topics: true})
	lasting(t, faultsFor(8*time.Second, 15*time.Minute))
	l.finish()
	for _, topic := range []string{loadTopic, batchTopic} {
		waitUploaded(t, c, topic)
	}
	c.KillAll()
	c.Start()
	c.WaitInSync(syncWithin)
	for _, n := range c.Nodes {
		l.readBack(n)
	}
	l.ledger.Verify(t, c.Nodes...)
	for _, v := range l.h.Check() {
		t.Error(v)
	}
	m.stop()
}

// crash-in-recovery: records were lost only where a crash hit a recovery. Here a node is killed again and again at chance
// times while it replays its log, gets snapshots of shards it has fallen too far behind in, or takes checkpoints.
func TestCrashInRecovery(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, RecordBytes: 4 << 10, Every: 30 * time.Millisecond})
	rnd := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	times := func() []time.Duration {
		var out []time.Duration
		for range 3 {
			out = append(out, time.Duration(rnd.Int64N(int64(1200*time.Millisecond))))
		}
		return out
	}
	for round := range 3 * harness.Repeat(20) {
		n := c.Nodes[round%3]
		h := &harness.CrashInRecovery{Node: n, Times: times()}
		t.Log(h)
		if round%3 == 1 { // behind what the others' logs still have
			n.Kill()
			ledger.WaitAcked(t, 1000, syncWithin)
			n.Start()
		}
		if round%3 == 2 { // everything anew
			n.Kill()
			n.Wipe()
			n.Start()
		}
		require.NoError(t, h.Start())
		require.NoError(t, h.Heal())
		c.WaitInSync(syncWithin)
		ledger.WaitAcked(t, 200, syncWithin)
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

// new-addresses: all nodes came back under other addresses, and never found each other nor a majority again.
func TestNewAddresses(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "before", Partitions: 3}, 20)
	for round := range 2 {
		c.KillAll()
		c.Move()
		c.Start()
		t.Logf("in sync under new addresses after %v", c.WaitInSync(syncWithin))
		c.ProduceN(ledger, harness.ProducerConfig{Name: fmt.Sprintf("after-%d", round), Partitions: 3}, 20)
	}
	ledger.Verify(t, c.Nodes...)
}

// s3-slowdown-death: a node died of 503s while it recovered. Here S3 says 503 to everything while all nodes are killed and
// start again, under load; they stay up, and upload once it is well.
func TestS3SlowdownDeath(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, Every: 30 * time.Millisecond})
	ledger.WaitAcked(t, 300, syncWithin)
	slowDown := &harness.BadS3{Proxy: c.Proxy, Fault: harness.Fault{Status: http.StatusServiceUnavailable}}
	require.NoError(t, slowDown.Start())
	for range harness.Repeat(10) {
		c.KillAll()
		c.Start()
		c.WaitInSync(syncWithin)
		ledger.WaitAcked(t, 300, syncWithin)
		require.Len(t, c.Running(), 3, "no node dies of it")
	}
	require.NoError(t, slowDown.Heal())
	p.Stop(t)
	waitUploaded(t, c, "orders")
	ledger.Verify(t, c.Nodes...)
}

// s3-unreadies-all: readiness watched the object store, and one blip of it took all nodes out of service.
func TestS3UnreadiesAll(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, Every: 30 * time.Millisecond})
	for _, f := range []harness.Fault{{Drop: true}, {Hang: true}, {Status: http.StatusServiceUnavailable}} {
		h := &harness.BadS3{Proxy: c.Proxy, Fault: f}
		require.NoError(t, h.Start())
		harness.Always(t, 3*time.Second, "all nodes are ready", func(ctx context.Context) error {
			for _, n := range c.Nodes {
				status, reason, err := n.Readiness(ctx)
				if err == nil && status != http.StatusOK {
					return fmt.Errorf("%s: %s", n.ID, reason)
				}
			}
			return nil
		})
		ledger.WaitAcked(t, 100, syncWithin)
		require.NoError(t, h.Heal())
	}
	p.Stop(t)
	waitUploaded(t, c, "orders")
	ledger.Verify(t, c.Nodes...)
}

//go:build root

package integration_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// ack-before-fsync: the log was synced every two minutes, and a power cut of all nodes took one in seven acknowledged
// writes. Here the power of one node and of all at once is cut under load, and only what was synced is left.
func TestAckBeforeFsync(t *testing.T) {
	t.Parallel()
	c := startMachines(t, 3, quick(nil))
	topic := c.CreateTopic("orders", 6, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 6, Window: 5})
	for round := range harness.Repeat(10) {
		leader := c.ShardLeader(topic.GetPartitions()[round%6].GetShard())
		for _, h := range []harness.Harm{c.powerCut(leader), c.powerCut(c.Nodes...)} {
			ledger.WaitAcked(t, 1000, syncWithin)
			t.Logf("%s, after %d acknowledged records", h, ledger.Acked())
			require.NoError(t, h.Start())
			require.NoError(t, h.Heal())
			c.WaitInSync(syncWithin)
		}
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

// lost-tail-votes: one node lost the tail that it had not synced, another one had not heard of it, and the two elected a
// leader without acknowledged records while the third was away. Here the power of the one is cut, the other one comes back
// from before, the third one is away, and nothing acknowledged is missing.
func TestLostTailVotes(t *testing.T) {
	t.Parallel()
	for round := range harness.Repeat(6) {
		c := startMachines(t, 3, quick(map[string]string{"shards": "1"}))
		c.CreateTopic("orders", 3, nil)
		ledger := harness.NewLedger("orders")
		away, cut, stale := c.Nodes[round%3], c.Nodes[(round+1)%3], c.Nodes[(round+2)%3]
		c.ProduceN(ledger, harness.ProducerConfig{Name: "early", Partitions: 3}, 20)
		c.WaitInSync(syncWithin)
		stale.Kill()
		c.ProduceN(ledger, harness.ProducerConfig{Name: "late", Partitions: 3}, 100)
		require.NoError(t, away.Process().Pause())
		h := c.powerCut(cut)
		require.NoError(t, h.Start())
		require.NoError(t, h.Heal())
		stale.Start()
		c.ProduceN(ledger, harness.ProducerConfig{Name: "after", Partitions: 3, CallTimeout: time.Second}, 5)
		ledger.Verify(t, cut, stale)
		require.NoError(t, away.Process().Resume())
		c.WaitInSync(syncWithin)
		ledger.Verify(t, c.Nodes...)
	}
}

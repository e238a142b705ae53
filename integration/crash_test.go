package integration_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// A node that is killed or paused while producers write takes nothing with it.
func TestKillOneNodeUnderLoad(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	topic := c.CreateTopic("orders", 6, nil)
	ledger := harness.NewLedger("orders")
	first := c.StartProducer(ledger, harness.ProducerConfig{Name: "first", Partitions: 6, Every: 20 * time.Millisecond})
	second := c.StartProducer(ledger, harness.ProducerConfig{Name: "second", Partitions: 6, Every: 20 * time.Millisecond, Window: 5})
	ledger.WaitAcked(t, 500, syncWithin)

	victims := []struct {
		name string
		pick func() *harness.Node
	}{
		{"the metadata leader", c.MetadataLeader},
		{"a shard's leader", func() *harness.Node { return c.ShardLeader(topic.GetPartitions()[0].GetShard()) }},
		{"a node that leads no metadata", func() *harness.Node { return c.Others(c.MetadataLeader())[0] }},
	}
	for range harness.Repeat(10) {
		for _, v := range victims {
			n := v.pick()
			t.Logf("kill -9 of %s: %s", v.name, n.ID)
			ledger.LongestGap()
			n.Kill()
			ledger.WaitAcked(t, 1000, syncWithin)
			t.Logf("writing went on after at most %v", ledger.LongestGap())
			n.Start()
			c.WaitInSync(syncWithin)
		}
		n := c.ShardLeader(topic.GetPartitions()[1].GetShard())
		t.Logf("pause of a shard's leader: %s", n.ID)
		require.NoError(t, n.Process().Pause())
		ledger.WaitAcked(t, 1000, syncWithin)
		require.NoError(t, n.Process().Resume())
		c.WaitInSync(syncWithin)
	}

	first.Stop(t)
	second.Stop(t)
	t.Logf("%d records acknowledged, %d retries, %d duplicates refused",
		ledger.Acked(), first.Retries()+second.Retries(), first.Duplicates()+second.Duplicates())
	ledger.Verify(t, c.Nodes...)
}

// All nodes end at once and start again: what was acknowledged is there.
func TestKillAllNodesUnderLoad(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders", 6, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 6, Every: 20 * time.Millisecond, Window: 5})
	for range 2 * harness.Repeat(10) {
		ledger.WaitAcked(t, 1000, syncWithin)
		c.KillAll()
		c.Start()
		c.WaitInSync(syncWithin)
	}
	ledger.WaitAcked(t, 100, syncWithin)
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

// ack-not-readable: a record that was acknowledged through one node could not be read through another; here it can, at once.
func TestAckNotReadable(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders", 3, nil)
	for i := range 150 {
		writer, reader := c.Nodes[i%3], c.Nodes[(i/3+1)%3]
		partition := int32(i % 2)
		offset, err := produce(call(t), writer, "orders", partition, "x", 0)
		require.NoError(t, err)
		resp, err := consume(call(t), reader, "orders", partition, offset, 0)
		require.NoErrorf(t, err, "written through %s, read through %s", writer.ID, reader.ID)
		require.Lenf(t, resp.GetRecords(), 1, "offset %d: written through %s, read through %s", offset, writer.ID, reader.ID)
		require.Equal(t, offset, resp.GetRecords()[0].GetOffset())
	}
}

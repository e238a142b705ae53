//go:build root && nightly

package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// remove-plus-partition: a node was removed while the cluster was cut in two, and acknowledged writes were lost. Here a node
// is decommissioned while another one is cut off, and the removed one's replicas count no more.
func TestRemovePlusPartition(t *testing.T) {
	t.Parallel()
	c := startMachines(t, 4, quick(nil))
	l := startLoad(t, c.Cluster, loadConfig{partitions: 3, every: 25 * time.Millisecond})
	l.waitMore(200)
	removed, alone := c.Nodes[3], c.Nodes[2]
	cut := &harness.Partition{Hosts: c.Hosts, Node: alone, From: c.Others(alone)}
	decommission(t, c.Cluster, removed, func() {
		require.NoError(t, cut.Start())
		lasting(t, 5*time.Second)
		l.waitMore(50) // two of three go on
		require.NoError(t, cut.Heal())
	})
	l.waitMore(200)
	l.finish()
}

// gossip-never-heals: after a long partition the two sides had forgotten each other and never met again. Here a node is cut
// off for longer than gossip remembers the dead, and is seen again soon after the healing.
func TestGossipNeverHeals(t *testing.T) {
	t.Parallel()
	c := startMachines(t, 3, quick(nil))
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, Every: 50 * time.Millisecond})
	seen := func(want map[string]float64) func(context.Context) error {
		return func(ctx context.Context) error {
			for _, n := range c.Nodes {
				m, err := n.Metrics(ctx)
				if err != nil {
					return err
				}
				if got := m.Sum("streamhouse_agents_active", nil); got != want[n.ID] {
					return fmt.Errorf("%s sees %v nodes, not %v", n.ID, got, want[n.ID])
				}
			}
			return nil
		}
	}
	cut := &harness.Partition{Hosts: c.Hosts, Node: c.Nodes[0], From: c.Nodes[1:]}
	require.NoError(t, cut.Start())
	harness.Eventually(t, syncWithin, "the two sides have forgotten each other", seen(map[string]float64{"n1": 1, "n2": 2, "n3": 2}))
	lasting(t, forgetsWithin)
	require.NoError(t, cut.Heal())
	took := harness.Eventually(t, syncWithin, "all see each other again", seen(map[string]float64{"n1": 3, "n2": 3, "n3": 3}))
	t.Logf("seen again %v after the healing", took)
	c.WaitInSync(syncWithin)
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

// forgetsWithin is a little more than memberlist goes on telling the dead.
const forgetsWithin = 32 * time.Second

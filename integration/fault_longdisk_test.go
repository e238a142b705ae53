//go:build root && nightly

package integration_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/integration/harness/faultydisk"
)

// A disk that crawls slows a cluster down, and breaks nothing.
func TestFaultCrawlingDisk(t *testing.T) {
	t.Parallel()
	c, disks := startOnFaultyDisks(t)
	l := startLoad(t, c, loadConfig{partitions: 3, every: 25 * time.Millisecond})
	for _, n := range c.Nodes {
		disks[n.ID].Fail(faultydisk.Fault{Op: faultydisk.Sync, Delay: 150 * time.Millisecond})
		l.waitMore(100)
		harness.Eventually(t, syncWithin, "the disk crawls", disks[n.ID].CheckHit)
		disks[n.ID].Heal()
	}
	for _, n := range c.Nodes {
		disks[n.ID].Fail(faultydisk.Fault{Delay: 20 * time.Millisecond})
	}
	l.waitMore(50)
	for _, n := range c.Nodes {
		disks[n.ID].Heal()
		require.Truef(t, n.Running(), "%s ended because of a slow disk", n.ID)
	}
	l.finish()
}

// The disk of every node fills up, one after the other: a node that can't write ends itself and names the file, the others
// go on, and with space it comes back.
func TestFaultFullDisk(t *testing.T) {
	t.Parallel()
	c := startMachines(t, 3, quick(nil))
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, RecordBytes: 8 << 10})
	for _, n := range c.Nodes {
		ledger.WaitAcked(t, 200, syncWithin)
		h := &harness.FullDisk{Node: n, Disk: c.disks[n.ID], Leave: 0}
		require.NoError(t, h.Start())
		harness.Eventually(t, syncWithin, "the node ends itself", func(context.Context) error {
			if n.Running() {
				return errors.New("it runs")
			}
			return nil
		})
		require.Positive(t, n.Process().ExitCode())
		last := lastLine(n.Process().Log())
		require.Contains(t, last, "no space left on device")
		require.Contains(t, last, n.Dir, "it names the file")
		ledger.WaitAcked(t, 200, syncWithin)
		require.NoError(t, h.Heal())
		c.WaitInSync(syncWithin)
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

//go:build root && nightly

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/integration/harness/faultydisk"
)

// startOnFaultyDisks starts a cluster of three nodes whose disks err or crawl when they are told to.
func startOnFaultyDisks(t *testing.T) (*harness.Cluster, map[string]*faultydisk.Disk) {
	t.Helper()
	disks := make(map[string]*faultydisk.Disk)
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil), DataDir: func(id string) string {
		disks[id] = faultydisk.New(t)
		return disks[id].Dir
	}})
	return c, disks
}

// A node whose disk fails a write or an fsync ends itself, with the file's name, and does not try again; the others go on.
// With a good disk it comes back.
func TestFaultFailingDisk(t *testing.T) {
	t.Parallel()
	c, disks := startOnFaultyDisks(t)
	topic := c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 3, Window: 5})
	for i, f := range []faultydisk.Fault{
		{Op: faultydisk.Sync, Path: "shards", Err: syscall.EIO},
		{Op: faultydisk.Write, Path: "shards", Err: syscall.EIO},
		{Op: faultydisk.Sync, Path: "meta", Err: syscall.EIO},
		{Op: faultydisk.Write, Path: ".wal", Err: syscall.ENOSPC},
	} {
		ledger.WaitAcked(t, 200, syncWithin)
		n := c.ShardLeader(topic.GetPartitions()[i%3].GetShard())
		t.Logf("%s of %s on %s: %v", f.Op, f.Path, n.ID, f.Err)
		disks[n.ID].Fail(f)
		if f.Path == "meta" {
			c.CreateTopic(fmt.Sprintf("topic-%d", i), 1, nil) // something to write there
		}
		harness.Eventually(t, syncWithin, "the node ends itself", func(context.Context) error {
			if n.Running() {
				return errors.New("it runs")
			}
			return nil
		})
		require.Positive(t, n.Process().ExitCode())
		last := lastLine(n.Process().Log())
		require.Contains(t, last, n.Dir, "it names the file")
		require.Contains(t, last, f.Err.Error())
		ledger.WaitAcked(t, 200, syncWithin)
		disks[n.ID].Heal()
		n.Start()
		c.WaitInSync(syncWithin)
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

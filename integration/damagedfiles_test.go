//go:build nightly

package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

func isNamed(name string) func(string) bool {
	return func(path string) bool { return filepath.Base(path) == name }
}

// isNewestMeta is the description beside the snapshot that a start would use.
func isNewestMeta(path string) bool {
	return filepath.Base(path) == "meta.json" && isNewestSnapshot(filepath.Join(filepath.Dir(path), "state.bin"))
}

// Every kind of file of a node, each with a flipped bit, cut, and gone: the cluster goes on, and the node heals, or refuses
// with the file's name. The largest log and the snapshot of a shard are in TestDamagedReplicaHeals.
func TestBitFlipInEveryFile(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{
		"shards": "1", "checkpoint-bytes": "64KiB", "log-retain-bytes": "64MiB",
	})})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "early", Partitions: 2, RecordBytes: 1 << 10}, 50)
	waitUploaded(t, c, "orders")
	waitCheckpointed(t, c)
	// A recovered cluster has snapshots of its metadata from the beginning; another one has them after many commands.
	wipeAll(c)
	_, _, err := runRecover(t, c, "--execute")
	require.NoError(t, err)
	c.Start()
	c.WaitInSync(syncWithin)
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 2, RecordBytes: 1 << 10, Every: 20 * time.Millisecond})
	ledger.WaitAcked(t, 500, syncWithin)

	round := 0
	for _, target := range []struct {
		dir, name string
		file      func(string) bool
	}{
		{"shards", "durable", isNamed("durable")},
		{"shards", "wal-meta.db", isNamed("wal-meta.db")},
		{"shards", "meta.json", isNewestMeta},
		{"meta", "durable", isNamed("durable")},
		{"meta", "raft.db", isNamed("raft.db")},
		{"meta", "state.bin", isNewestSnapshot},
		{"meta", "meta.json", isNewestMeta},
		{".", "node.json", isNamed("node.json")},
	} {
		for _, d := range harness.Damages {
			n := c.Nodes[round%3]
			round++
			what := fmt.Sprintf("%s in %s of %s on %s", d.Name, target.name, target.dir, n.ID)
			var files []string
			harness.Eventually(t, syncWithin, what+": there is such a file", func(context.Context) error {
				if files = harness.Files(t, filepath.Join(n.Dir, target.dir), target.file); len(files) == 0 {
					return errors.New("none")
				}
				return nil
			})
			n.Kill()
			damaged := files[len(files)-1]
			whole, err := os.ReadFile(damaged)
			require.NoError(t, err)
			require.NoError(t, d.Do(damaged), what)
			n.Start()
			if target.name == "node.json" {
				require.Error(t, n.Process().Wait(syncWithin), what)
				require.Contains(t, n.Process().Log(), "node.json", what)
				require.NoError(t, os.WriteFile(damaged, whole, 0o600), "as the message says")
				n.Start()
			}
			t.Logf("%s: in sync after %v", what, c.WaitInSync(syncWithin))
			ledger.WaitAcked(t, 50, syncWithin)
		}
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

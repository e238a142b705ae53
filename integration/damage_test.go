package integration_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

func isSnapshot(path string) bool { return filepath.Base(path) == "state.bin" }

// isNewestSnapshot takes the state that a start would use: an older one is only a spare.
func isNewestSnapshot(path string) bool {
	if !isSnapshot(path) {
		return false
	}
	siblings, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(path)), "*", "state.bin"))
	for _, other := range siblings {
		// Directories are named <term>-<index>-<time>; times have the same number of digits.
		if made(other) > made(path) {
			return false
		}
	}
	return true
}

// made is the time in the name of a snapshot's directory.
func made(state string) string {
	dir := filepath.Base(filepath.Dir(state))
	return dir[strings.LastIndex(dir, "-")+1:]
}

func isLog(path string) bool {
	return !strings.Contains(path, "snapshots") && (strings.HasSuffix(path, ".wal") || strings.HasSuffix(path, ".db"))
}

func isWAL(path string) bool { return strings.HasSuffix(path, ".wal") }

// largest returns the file with the most in it.
func largest(t *testing.T, dir string, accept func(string) bool) string {
	t.Helper()
	files := harness.Files(t, dir, accept)
	require.NotEmptyf(t, files, "%s has no such file", dir)
	return files[len(files)-1]
}

// A replica whose files are damaged is not used; it heals from the others under a new id.
func TestDamagedReplicaHeals(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{
		"shards": "1", "checkpoint-bytes": "64KiB", "log-retain-bytes": "64MiB",
	})})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 2, RecordBytes: 1 << 10, Every: 20 * time.Millisecond})
	ledger.WaitAcked(t, 1000, syncWithin)
	harness.Eventually(t, syncWithin, "every replica has a snapshot", func(context.Context) error {
		for _, n := range c.Nodes {
			if len(harness.Files(t, filepath.Join(n.Dir, "shards"), isSnapshot)) == 0 {
				return fmt.Errorf("%s has none", n.ID)
			}
		}
		return nil
	})

	round := 0
	for _, target := range []struct {
		name string
		file func(string) bool
	}{{"log", isWAL}, {"snapshot", isNewestSnapshot}} {
		for _, d := range harness.Damages {
			n := c.Nodes[round%3]
			round++
			t.Logf("%s in the %s of a shard on %s", d.Name, target.name, n.ID)
			before := replicasOf(c, n)
			require.Len(t, before, 1)
			n.Kill()
			require.NoError(t, d.Do(largest(t, filepath.Join(n.Dir, "shards"), target.file)))
			n.Start()
			t.Logf("healed in %v", c.WaitInSync(syncWithin))
			require.NotEqual(t, before, replicasOf(c, n), "the damaged replica is replaced")
			ledger.WaitAcked(t, 200, syncWithin)
		}
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

// The same for the metadata group's log.
func TestDamagedMetadataHeals(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders-of-the-day", 2, nil)
	ledger := harness.NewLedger("orders-of-the-day")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 2})
	ledger.WaitAcked(t, 100, syncWithin)
	flipTopic := harness.Damage{Name: "flipped bit", Do: func(path string) error {
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !bytes.Contains(b, []byte("orders-of-the-day")) {
			return errors.New("the log does not have the topic")
		}
		// The database keeps old copies of its pages; the one in use is among them.
		for at := 0; ; {
			i := bytes.Index(b[at:], []byte("orders-of-the-day"))
			if i < 0 {
				return nil
			}
			if err := harness.FlipBitAt(path, int64(at+i)+3); err != nil {
				return err
			}
			at += i + 1
		}
	}}
	for i, d := range []harness.Damage{flipTopic, harness.Damages[1], harness.Damages[2]} {
		n := c.Nodes[i]
		before := metadataReplicas(t, n)
		t.Logf("%s in the metadata log of %s", d.Name, n.ID)
		n.Kill()
		require.NoError(t, d.Do(largest(t, filepath.Join(n.Dir, "meta"), isLog)))
		n.Start()
		t.Logf("healed in %v", c.WaitInSync(syncWithin))
		require.NotEqual(t, before, metadataReplicas(t, n), "the damaged replica is replaced")
		ledger.WaitAcked(t, 100, syncWithin)
	}
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

// metadataReplicas returns the names of the directories of the node's metadata replicas.
func metadataReplicas(t *testing.T, n *harness.Node) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(n.Dir, "meta"))
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		if e.IsDir() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// Only the damaged replica and a stale one are left of three: they do not elect a
// leader that lacks acknowledged records. The third comes back, and all is there.
func TestDamagedReplicaNeverVotes(t *testing.T) {
	t.Parallel()
	lostDisk := harness.Damage{Name: "missing disk", Do: os.RemoveAll}
	for _, d := range append([]harness.Damage{lostDisk}, harness.Damages...) {
		t.Run(d.Name, func(t *testing.T) {
			c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{"shards": "1"})})
			whole, damaged, stale := c.Nodes[0], c.Nodes[1], c.Nodes[2]
			c.CreateTopic("orders", 2, nil)
			ledger := harness.NewLedger("orders")
			c.ProduceN(ledger, harness.ProducerConfig{Name: "early", Partitions: 2}, 20)
			c.WaitInSync(syncWithin)
			stale.Kill()
			c.ProduceN(ledger, harness.ProducerConfig{Name: "late", Partitions: 2}, 200)
			c.KillAll()

			path := damaged.Dir
			if d.Name != lostDisk.Name {
				path = largest(t, filepath.Join(damaged.Dir, "shards"), isWAL)
			}
			require.NoError(t, d.Do(path))
			damaged.Start()
			stale.Start()
			harness.Always(t, 10*time.Second, "nobody writes without the acknowledged records", func(ctx context.Context) error {
				for _, n := range []*harness.Node{damaged, stale} {
					ctx, cancel := context.WithTimeout(ctx, time.Second)
					_, err := produce(ctx, n, "orders", 0, "forbidden", 0)
					cancel()
					if err == nil {
						return fmt.Errorf("node %s took a record", n.ID)
					}
				}
				return nil
			})
			whole.Start()
			c.WaitInSync(syncWithin)
			c.ProduceN(ledger, harness.ProducerConfig{Name: "after", Partitions: 2}, 10)
			ledger.Tolerate("forbidden")
			ledger.Verify(t, c.Nodes...)
		})
	}
}

// When most replicas are damaged at once, none deletes what it has: what is restored from a copy brings all of it back.
func TestDamageOnAMajorityDeletesNothing(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{"shards": "1"})})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	for _, part := range []struct {
		dir  string
		file func(string) bool
	}{{"shards", isWAL}, {"meta", isLog}} {
		c.ProduceN(ledger, harness.ProducerConfig{Name: "before " + part.dir, Partitions: 2}, 100)
		c.KillAll()
		type copied struct {
			path  string
			whole []byte
		}
		var copies []copied
		for _, n := range c.Nodes[:2] {
			path := largest(t, filepath.Join(n.Dir, part.dir), part.file)
			whole, err := os.ReadFile(path)
			require.NoError(t, err)
			copies = append(copies, copied{path, whole})
			require.NoError(t, harness.Cut(path))
		}
		c.Start()
		for i, n := range c.Nodes[:2] {
			harness.Eventually(t, syncWithin, n.ID+" says what it keeps", func(context.Context) error {
				if !strings.Contains(n.Process().Log(), "kept until") {
					return errors.New("not yet")
				}
				return nil
			})
			require.FileExists(t, copies[i].path)
		}
		n := c.Nodes[0]
		n.Kill()
		require.NoError(t, os.WriteFile(copies[0].path, copies[0].whole, 0o600))
		n.Start()
		t.Logf("%s: in sync after %v", part.dir, c.WaitInSync(syncWithin))
	}
	ledger.Verify(t, c.Nodes...)
}

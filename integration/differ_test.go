package integration_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// openLog opens a replica's log, of a shard or of the metadata.
type openLog func(logstore.Config) (*logstore.Store, error)

// rewriteEntry changes one entry of the log of a stopped node's replica, and gives it a checksum that fits: what a bug or
// another history would leave. change reports whether it has changed an entry.
func rewriteEntry(open openLog, dir string, change func(*raft.Log) bool) (err error) {
	var fatal error
	s, err := open(logstore.Config{Dir: dir, Fatal: func(err error) { fatal = err }})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, fatal, s.Close()) }()
	if err := s.Verify(0, 0); err != nil {
		return err
	}
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	var tail []*raft.Log
	for index := first; index <= last; index++ {
		l := &raft.Log{}
		if err := s.GetLog(index, l); err != nil {
			return err
		}
		if tail != nil || change(l) {
			tail = append(tail, l)
		}
	}
	if tail == nil {
		return fmt.Errorf("%s: no entry was changed", dir)
	}
	if err := s.DeleteRange(tail[0].Index, last); err != nil {
		return err
	}
	return s.StoreLogs(tail)
}

// laterRecords changes a shard's entry that has records: its time by a millisecond.
func laterRecords(l *raft.Log) bool {
	if l.Type != raft.LogCommand || len(l.Data) < 100 {
		return false
	}
	l.Data = slices.Clone(l.Data)
	l.Data[9] ^= 1
	return true
}

// longerNoop changes an entry that nobody reads.
func longerNoop(l *raft.Log) bool {
	if l.Type != raft.LogNoop {
		return false
	}
	l.Data = []byte("other")
	return true
}

// differ stops a node, changes an entry of its one replica that is in dir below its data directory, and starts it again.
func differ(t *testing.T, n *harness.Node, dir string, open openLog, change func(*raft.Log) bool) {
	t.Helper()
	require.NoError(t, n.Process().Terminate(30*time.Second))
	dirs, err := filepath.Glob(filepath.Join(n.Dir, dir, "*"))
	require.NoError(t, err)
	require.Len(t, dirs, 1)
	require.NoError(t, rewriteEntry(open, dirs[0], change))
	n.Start()
}

// Two replicas of two have different log entries with checksums that fit: that is told, and both stay. A third replica,
// which another node gets, decides: the one that is contradicted is rebuilt, and all is well.
func TestReplicasDiffer(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 2, Flags: quick(map[string]string{
		"shards": "1", "scrub-interval": "1s", "scrub-bytes-per-second": "256MiB",
	})})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "early", Partitions: 2}, 100)
	c.WaitInSync(syncWithin)
	right := c.ShardLeader(0)
	wrong := c.Others(right)[0]
	before := replicasOf(c, wrong)
	require.Zero(t, c.MustSum("streamhouse_scrub_diverged_replicas", nil))

	differ(t, wrong, filepath.Join("shards", "0"), logstore.OpenWAL, laterRecords)
	c.WaitInSync(syncWithin)
	lead := func(ctx context.Context) error {
		if _, err := right.TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: 0, NodeId: right.ID}); err != nil {
			return err
		}
		st, err := c.AskStatus(ctx)
		if err == nil && st.GetShards()[0].GetLeader() != right.ID {
			err = fmt.Errorf("%s leads", st.GetShards()[0].GetLeader())
		}
		return err
	}
	harness.Eventually(t, syncWithin, "the right replica leads", lead)

	prometheus := harness.StartPrometheus(t, c, harness.PrometheusOptions{
		ScrapeInterval: time.Second, RuleFiles: []string{scaleRules(t, deployed(t, "prometheus", "rules", "alerts.yml"), 300)},
	})
	firing := `count(ALERTS{alertname="ReplicasDiffer",alertstate="firing"}) or vector(0)`
	prometheus.WaitValue(syncWithin, firing, 2)
	require.Equal(t, before, replicasOf(c, wrong), "nobody knows who is right")
	require.Equal(t, right.ID, c.ShardLeader(0).ID)

	c.Add().Start()
	harness.Eventually(t, syncWithin, "the replica that two contradict is replaced", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		if now := replicasIn(st, wrong); len(now) != 1 || slices.Equal(now, before) {
			return fmt.Errorf("replicas %v", now)
		}
		return nil
	})
	c.WaitInSync(syncWithin)
	prometheus.WaitValue(syncWithin, firing, 0)
	require.True(t, wrong.Running() && right.Running())
	c.ProduceN(ledger, harness.ProducerConfig{Name: "late", Partitions: 2}, 10)
	waitEqual(t, c)
	metadataDiffers(t, c)
	ledger.Verify(t, c.Nodes...)
}

// waitEqual waits until every node has compared its replicas and found them equal.
func waitEqual(t *testing.T, c *harness.Cluster) {
	t.Helper()
	harness.Eventually(t, syncWithin, "all replicas are compared, and equal", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			if m.Sum("streamhouse_scrub_compared_entries_total", nil) == 0 || m.Sum("streamhouse_scrub_diverged_replicas", nil) > 0 {
				return fmt.Errorf("%s: not yet", n.ID)
			}
		}
		return nil
	})
}

// metadataDiffers gives one of three replicas of the metadata another entry: its node ends and says why, and when it is
// started again it has a new one.
func metadataDiffers(t *testing.T, c *harness.Cluster) {
	t.Helper()
	allVote := func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		for _, n := range st.GetNodes() {
			if n.GetMetadataRole() != "voter" {
				return fmt.Errorf("%s is %q", n.GetNodeId(), n.GetMetadataRole())
			}
		}
		return nil
	}
	harness.Eventually(t, syncWithin, "all replicas of the metadata vote", allVote)
	wrong := c.Others(c.MetadataLeader())[0]
	differ(t, wrong, "meta", logstore.OpenBolt, longerNoop)
	require.ErrorContains(t, wrong.Process().Wait(syncWithin), "ended with code")
	require.Contains(t, wrong.Process().LogTail(), "the metadata replica is damaged, it is rebuilt from the other nodes at the next start")
	wrong.Start()
	c.WaitInSync(syncWithin)
	require.Contains(t, wrong.Process().Log(), "metadata replica is lost")
	harness.Eventually(t, syncWithin, "all replicas of the metadata vote again", allVote)
	waitEqual(t, c)
}

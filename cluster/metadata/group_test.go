package metadata

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

func timeout(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func propose(t *testing.T, n *testNode, cmd *metav1.Command) {
	t.Helper()
	_, err := n.group.Propose(timeout(t, wait), cmd)
	require.NoError(t, err)
}

func hasNode(n *testNode, id string) bool {
	_, ok := n.group.View().Node(id)
	return ok
}

func TestProposeOnEveryNode(t *testing.T) {
	_, nodes := newCluster(t, 3, nil)
	propose(t, nodes[1], initCluster())
	require.Equal(t, testCluster, nodes[1].group.View().ClusterID(), "a proposer reads its own write")
	for i, n := range nodes {
		id := fmt.Sprintf("m%d", i)
		propose(t, n, registerNode(id))
		require.True(t, hasNode(n, id))
		for _, other := range nodes {
			require.NoError(t, other.group.Barrier(timeout(t, wait)))
			require.True(t, hasNode(other, id), "%s after a barrier on %s", id, other.id)
		}
	}
	for _, n := range nodes {
		require.Eventually(t, func() bool { return n.group.Ready() == nil }, wait, tick)
		leader, ok := n.group.Leader()
		require.True(t, ok)
		require.Equal(t, "n1", leader)
	}
}

func TestRejectedCommandIsARejection(t *testing.T) {
	_, nodes := newCluster(t, 1, nil)
	propose(t, nodes[0], initCluster())
	_, err := nodes[0].group.Propose(timeout(t, wait), &metav1.Command{Command: &metav1.Command_CreateTopic{
		CreateTopic: &metav1.CreateTopic{Name: "no/good", Uuid: make([]byte, 16), Partitions: 1},
	}})
	var rejected *fsm.Rejection
	require.ErrorAs(t, err, &rejected)
	require.NotZero(t, rejected.Reason)
}

// A command that comes before the founder's first one waits for it, and when there is no time is told to come again: it is
// not refused for good.
func TestProposeBeforeTheClusterIsBegun(t *testing.T) {
	_, nodes := newCluster(t, 2, nil)
	cmd, err := proto.Marshal(registerNode("m"))
	require.NoError(t, err)
	_, raw, err := nodes[0].group.ProposeLocal(timeout(t, wait), cmd)
	require.NoError(t, err)
	err = decodeResult(raw, &metav1.Result{})
	require.ErrorIs(t, err, ErrNoLeader)
	require.ErrorContains(t, err, "the cluster is not begun yet")
	require.Equal(t, notWritten, classify(err))

	_, err = nodes[1].group.Propose(timeout(t, 200*time.Millisecond), registerNode("m"))
	require.Error(t, err)
	var rejected *fsm.Rejection
	require.NotErrorAs(t, err, &rejected)
	early := make(chan error, len(nodes))
	for i, n := range nodes {
		go func() {
			_, err := n.group.Propose(timeout(t, wait), registerNode(fmt.Sprintf("m%d", i)))
			early <- err
		}()
	}
	propose(t, nodes[0], initCluster())
	for range nodes {
		require.NoError(t, <-early)
	}
	require.NoError(t, nodes[0].group.Barrier(timeout(t, wait)))
	require.True(t, hasNode(nodes[0], "m0"))
	require.True(t, hasNode(nodes[0], "m1"))
}

// A command that nobody knows is refused before it gets into the log.
func TestBadCommandIsRefused(t *testing.T) {
	_, nodes := newCluster(t, 1, nil)
	_, err := nodes[0].group.Propose(timeout(t, wait), &metav1.Command{})
	require.ErrorIs(t, err, ErrBadCommand)
	_, _, err = nodes[0].group.ProposeLocal(timeout(t, wait), []byte{0xff})
	require.ErrorIs(t, err, ErrBadCommand)
	_, _, err = nodes[0].group.ProposeLocal(timeout(t, wait), make([]byte, maxCommandBytes+1))
	require.ErrorIs(t, err, ErrBadCommand)
	require.Nil(t, nodes[0].fatal.Load())
}

// An entry of a later version that is in the log stops the node, and nothing behind it is applied.
func TestUnknownCommandStopsTheNode(t *testing.T) {
	_, nodes := newCluster(t, 1, nil)
	n := nodes[0]
	propose(t, n, initCluster())
	index := n.group.View().Index()
	unknown := []byte{0xba, 0x3e, 0x00} // field 999, empty
	f := n.group.Replica().Raft().Apply(unknown, time.Second)
	require.NoError(t, f.Error())
	require.Error(t, f.Response().(error))
	require.Eventually(t, func() bool { return n.fatal.Load() != nil }, wait, tick)
	require.ErrorContains(t, *n.fatal.Load(), "upgrade")
	_, err := n.group.Propose(timeout(t, time.Second), registerNode("m"))
	require.ErrorIs(t, err, ErrOutcomeUnknown)
	require.Equal(t, index, n.group.View().Index())
	require.Error(t, n.group.Replica().Raft().Snapshot().Error(), "a snapshot would skip the command")
}

func TestLeaderDiesDuringProposals(t *testing.T) {
	c, nodes := newCluster(t, 3, nil)
	propose(t, nodes[0], initCluster())
	for _, n := range nodes {
		require.NoError(t, n.group.Barrier(timeout(t, wait)))
	}
	const each = 20
	errs := make(chan error, 2)
	for _, n := range nodes[1:] {
		go func() {
			for i := range each {
				ctx, cancel := context.WithTimeout(context.Background(), wait)
				_, err := n.group.Propose(ctx, registerNode(fmt.Sprintf("%s-%d", n.id, i)))
				cancel()
				if err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	require.Eventually(t, func() bool { return hasNode(nodes[1], "n2-2") }, wait, tick)
	c.stop(nodes[0])
	for range nodes[1:] {
		require.NoError(t, <-errs)
	}
	for _, n := range nodes[1:] {
		require.NoError(t, n.group.Barrier(timeout(t, wait)))
		for _, m := range nodes[1:] {
			for i := range each {
				require.True(t, hasNode(n, fmt.Sprintf("%s-%d", m.id, i)))
			}
		}
	}

	// The dead node comes back from its files and is ready once it has all of it.
	require.Error(t, nodes[0].group.Ready())
	c.start(nodes[0])
	require.Eventually(t, func() bool { return nodes[0].group.Ready() == nil }, wait, tick)
	require.True(t, hasNode(nodes[0], fmt.Sprintf("n2-%d", each-1)))
}

func TestMinorityIsNotReady(t *testing.T) {
	c, nodes := newCluster(t, 3, nil)
	propose(t, nodes[0], initCluster())
	for _, n := range nodes {
		require.Eventually(t, func() bool { return n.group.Ready() == nil }, wait, tick)
	}
	c.stop(nodes[0])
	c.stop(nodes[1])
	last := nodes[2]
	require.Eventually(t, func() bool { return last.group.Ready() != nil }, 5*time.Second, tick)
	require.Equal(t, testCluster, last.group.View().ClusterID(), "what was applied stays readable")
	_, err := last.group.Propose(timeout(t, time.Second), registerNode("m"))
	require.Error(t, err)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Error(t, last.group.Barrier(timeout(t, 500*time.Millisecond)))
	c.start(nodes[1])
	require.Eventually(t, func() bool { return last.group.Ready() == nil }, 5*time.Second, tick)
}

// A follower that was paused must not say yes to a barrier from what it had.
func TestReadIndexOnlyOnTheLeader(t *testing.T) {
	_, nodes := newCluster(t, 3, nil)
	propose(t, nodes[0], initCluster())
	_, err := nodes[1].group.ReadIndexLocal(timeout(t, wait))
	require.ErrorIs(t, err, ErrNotLeader)
	_, _, err = nodes[1].group.ProposeLocal(timeout(t, wait), mustMarshal(t, registerNode("m")))
	require.ErrorIs(t, err, ErrNotLeader)
	index, err := nodes[0].group.ReadIndexLocal(timeout(t, wait))
	require.NoError(t, err)
	require.Equal(t, nodes[0].group.View().Index(), index)
}

func TestSnapshotAndRestore(t *testing.T) {
	c, nodes := newCluster(t, 1, func(cfg *Config) {
		cfg.CheckpointEntries = 10
		cfg.CheckpointInterval = 20 * time.Millisecond
	})
	n := nodes[0]
	propose(t, n, initCluster())
	for i := range 30 {
		propose(t, n, registerNode(fmt.Sprintf("m%d", i)))
	}
	require.Eventually(t, func() bool {
		return n.group.Replica().Raft().Stats()["last_snapshot_index"] != "0"
	}, wait, tick)
	want := n.group.View().Index()
	c.stop(n)
	c.start(n)
	require.Eventually(t, func() bool { return n.group.Ready() == nil }, wait, tick)
	require.Equal(t, want, n.group.View().Index())
	require.True(t, hasNode(n, "m0"))
	require.True(t, hasNode(n, "m29"))
}

func TestWatchAndWaitApplied(t *testing.T) {
	_, nodes := newCluster(t, 1, nil)
	n := nodes[0]
	changed := n.group.Watch()
	propose(t, n, initCluster())
	<-changed
	index := n.group.View().Index()
	require.NoError(t, n.group.WaitApplied(t.Context(), index))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, n.group.WaitApplied(ctx, index+1), context.Canceled)
}

func TestClosedTwice(t *testing.T) {
	c, nodes := newCluster(t, 1, nil)
	propose(t, nodes[0], initCluster())
	c.stop(nodes[0])
	require.NoError(t, nodes[0].group.Close())
	require.ErrorIs(t, nodes[0].group.WaitApplied(t.Context(), 1<<40), ErrClosed)
	_, err := nodes[0].group.Propose(t.Context(), initCluster())
	require.ErrorIs(t, err, ErrClosed)
}

func TestMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	var group *Group
	RegisterMetrics(reg, func() *Group { return group })
	got, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, got, 2, "topics and shards are counted before there is a group")
	_, nodes := newCluster(t, 1, nil)
	group = nodes[0].group
	propose(t, nodes[0], initCluster())
	propose(t, nodes[0], registerNode("n1"))
	propose(t, nodes[0], &metav1.Command{Command: &metav1.Command_CreateShard{CreateShard: &metav1.CreateShard{
		Shard: 0, Replica: &metav1.Replica{ReplicaId: "n1/r", NodeId: "n1", State: metav1.ReplicaState_REPLICA_STATE_NEW},
	}}})
	propose(t, nodes[0], &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "logs", Uuid: []byte(strings.Repeat("u", 16)), Partitions: 4, TimeMs: 1,
	}}})
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP streamhouse_partitions_total Partitions of a topic, as this node's metadata has it.
# TYPE streamhouse_partitions_total gauge
streamhouse_partitions_total{topic="logs"} 4
# HELP streamhouse_shards Shards of the cluster, led or not, as this node's metadata has it.
# TYPE streamhouse_shards gauge
streamhouse_shards 6
# HELP streamhouse_topics_total Topics in the cluster, as this node's metadata has it.
# TYPE streamhouse_topics_total gauge
streamhouse_topics_total 1
`), "streamhouse_topics_total", "streamhouse_shards", "streamhouse_partitions_total"))
}

package fsm

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/benbjohnson/immutable"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

func TestUnknownCommandStops(t *testing.T) {
	m := sample(t)
	before := m.state.View()
	_, err := m.state.Apply(99, &metav1.Command{})
	require.ErrorIs(t, err, ErrUnknownCommand)
	require.Same(t, before, m.state.View())
}

func TestViewFinds(t *testing.T) {
	v := sample(t).state.View()
	require.Equal(t, uint64(17), v.Index())
	require.Equal(t, "C1", v.ClusterID())
	require.Equal(t, "test", v.ClusterName())
	require.Equal(t, "file:///o", v.ObjectStore())
	require.Equal(t, int64(1), v.CreatedMs())
	require.Equal(t, uint32(1), v.FeatureLevel())
	require.Equal(t, uint32(2), v.NumShards())
	require.Len(t, v.Shards(), 2)
	require.Len(t, v.Nodes(), 2)
	require.Equal(t, 1, v.NumTopics())
	require.Equal(t, 4, v.NumPartitions())
	require.Len(t, slices.Collect(v.UnusedObjects()), v.NumUnusedObjects())
	require.Len(t, slices.Collect(v.DroppedObjects()), v.NumDroppedObjects())

	n, ok := v.Node("n2")
	require.True(t, ok)
	require.Equal(t, "n2:7000", n.RaftAddr)
	_, ok = v.Node("n3")
	require.False(t, ok)
	_, ok = v.Shard(2)
	require.False(t, ok)
	topic, ok := v.Topic("logs")
	require.True(t, ok)
	same, ok := v.TopicByUUID(topic.UUID)
	require.True(t, ok)
	require.Same(t, topic, same)
	require.Equal(t, 4, topic.NumPartitions())
	_, ok = v.Topic("gone")
	require.False(t, ok)
	require.True(t, v.ObjectKnown("o1"))
	require.True(t, v.ObjectKnown("o9"))
	require.False(t, v.ObjectKnown("o10"))
	for range v.Topics() {
		break
	}
	for range v.UnusedObjects() {
		break
	}
	for range v.DroppedObjects() {
		break
	}
}

// TestObjectListed: an object is listed until nothing of it is left, whatever lets go of it.
func TestObjectListed(t *testing.T) {
	m := newMachine(t)
	m.ok(initCluster(1))
	m.ok(createTopic(1, "t", 2, nil))
	listed := func(want bool, names ...string) {
		t.Helper()
		for _, name := range names {
			require.Equal(t, want, m.state.View().ObjectListed(name), name)
		}
	}
	m.ok(commit("a", 0, segment(1, 0, 10), segment(2, 0, 5)))
	m.ok(commit("late", 0, segment(1, 0, 10)))
	m.ok(drop("condemned"))
	listed(true, "a")
	listed(false, "late", "condemned", "unknown", "")
	m.ok(trim(2, 5))
	listed(true, "a")
	m.ok(replace("a", commit("b", 0, segment(1, 0, 10))))
	listed(true, "b")
	listed(false, "a")
	m.ok(deleteTopic(1, "t"))
	listed(false, "a", "b")
}

func TestFindSegment(t *testing.T) {
	m := newMachine(t)
	m.ok(initCluster(1))
	m.ok(createTopic(1, "t", 1, nil))
	m.ok(commit("a", 0, segment(1, 0, 10)))
	m.ok(commit("b", 0, segment(1, 10, 15)))
	m.ok(trim(1, 5))
	p, _ := m.state.View().Partition(1)
	require.Equal(t, int64(200), p.SegmentBytes())
	require.Equal(t, int64(15), p.NextBase())
	for offset, want := range map[int64]string{5: "a", 9: "a", 10: "b", 14: "b", 15: "", 99: ""} {
		ref, ok := p.FindSegment(offset)
		require.Equal(t, want != "", ok, offset)
		require.Equal(t, want, ref.GetObject(), offset)
	}
}

func TestGroupShardIsSpreadAndStays(t *testing.T) {
	_, ok := New().View().GroupShard("g")
	require.False(t, ok, "no shard is known yet")
	m := newMachine(t)
	m.ok(initCluster(6))
	v := m.state.View()
	number, ok := v.GroupShard("orders")
	require.True(t, ok)
	require.Equal(t, uint32(2), number)
	seen := make(map[uint32]bool)
	for i := range 200 {
		number, _ := v.GroupShard(fmt.Sprintf("group-%d", i))
		seen[number] = true
	}
	require.Len(t, seen, 6)
}

func TestSamePlacement(t *testing.T) {
	m := sample(t)
	v := m.state.View()
	m.ok(commit("x", 0, segment(2, 20, 21)))
	require.True(t, v.SamePlacement(m.state.View()))
	for _, c := range []*metav1.Command{
		registerNode("n3", "01C"), setReplicas(0, 2, "n1/a", "n2/b", "n3/c"),
		noteReplica(0, "n2/b", metav1.ReplicaState_REPLICA_STATE_LOST),
	} {
		before := m.state.View()
		m.ok(c)
		require.False(t, before.SamePlacement(m.state.View()), "%v", c)
	}
	require.False(t, New().View().SamePlacement(v))
}

func TestEffectiveConfig(t *testing.T) {
	require.Equal(t, EffectiveConfig{RetentionMs: defaultRetentionMs, RetentionBytes: Unlimited}, (&Topic{}).EffectiveConfig())
	topic := &Topic{Config: map[string]string{ConfigRetentionMs: "-1", ConfigRetentionBytes: "7", ConfigMaxMessageBytes: "9"}}
	require.Equal(t, EffectiveConfig{RetentionMs: Unlimited, RetentionBytes: 7, MaxMessageBytes: 9}, topic.EffectiveConfig())
}

func TestValidate(t *testing.T) {
	for _, name := range []string{"a", "A.b_c-9", strings.Repeat("x", 249)} {
		require.NoError(t, ValidateName(name))
	}
	for _, name := range []string{"", "a b", "a/b", "ä", strings.Repeat("x", 250), strings.Repeat("y", 1<<20)} {
		err := ValidateName(name)
		require.Error(t, err)
		require.Less(t, len(err.Error()), 300, "what comes from outside is cut")
	}
	require.NoError(t, ValidateNodeID(strings.Repeat("x", 64)))
	require.Error(t, ValidateNodeID(strings.Repeat("x", 65)))
	require.NoError(t, ValidateConfig(nil))
	require.ErrorContains(t, ValidateConfig(map[string]string{ConfigRetentionMs: "x", "bytes": "1"}), `"bytes" is not a config`)
	require.Equal(t, "n1", NodeOf("n1/01ABC"))
	require.Equal(t, "n1", NodeOf("n1"))
}

func TestPartitionsAreBounded(t *testing.T) {
	m := newMachine(t)
	m.ok(initCluster(6))
	many := immutable.NewMapBuilder[uint64, *Partition](immutable.NewHasher(uint64(0)))
	for id := range uint64(MaxTotalPartitions - 1) {
		many.Set(1<<32+id, nil)
	}
	m.state.view.partitions = many.Map()
	for _, step := range []struct {
		cmd  *metav1.Command
		want string
	}{
		{createTopic(1, "two", 2, nil), "partitions"},
		{createTopic(2, "one", 1, nil), ""},
		{createTopic(3, "more", 1, nil), "partitions"},
	} {
		m.index++
		res, err := m.state.Apply(m.index, step.cmd)
		require.NoError(t, err)
		require.Equal(t, step.want, res.GetRejection().GetField())
	}
	require.Equal(t, MaxTotalPartitions, m.state.View().NumPartitions())
}

// BenchmarkCommitSegments lists one segment of each of 100 partitions among 100,000.
func BenchmarkCommitSegments(b *testing.B) {
	m := newMachine(b)
	m.ok(initCluster(1))
	m.ok(createTopic(1, "t", MaxPartitions, nil))
	b.ReportAllocs()
	for i := int64(0); b.Loop(); i++ {
		entries := make([]*metav1.SegmentEntry, 100)
		for p := range entries {
			entries[p] = segment(uint64(p+1), i, i+1)
		}
		m.index++
		_, err := m.state.Apply(m.index, commit(fmt.Sprintf("object-%d", i), 0, entries...))
		require.NoError(b, err)
	}
}

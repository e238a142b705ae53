package fsm

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

var allConfigs = []map[string]string{nil, {ConfigRetentionMs: "5"}, {ConfigRetentionBytes: "-1"}, {"nope": "1"}}

// drawCommand draws a command over few names, so that they meet.
func drawCommand(t *rapid.T) *metav1.Command {
	small := func(name string, most int) int { return rapid.IntRange(0, most).Draw(t, name) }
	node := func() string { return fmt.Sprintf("n%d", small("node", 3)) }
	replica := func() string { return fmt.Sprintf("%s/r%d", node(), small("replica", 3)) }
	object := func() string { return fmt.Sprintf("o%d", small("object", 5)) }
	switch small("kind", 16) {
	case 0:
		return registerNode(node(), fmt.Sprintf("0%d", small("incarnation", 3)))
	case 1:
		return &metav1.Command{Command: &metav1.Command_SetNodeState{SetNodeState: &metav1.SetNodeState{
			NodeId: node(), State: metav1.NodeState(small("state", 3)),
		}}}
	case 2:
		return &metav1.Command{Command: &metav1.Command_RemoveNode{RemoveNode: &metav1.RemoveNode{
			NodeId: node(), Incarnation: fmt.Sprintf("0%d", small("incarnation", 3)),
		}}}
	case 3:
		return createShard(uint32(small("shard", 2)), replica())
	case 4:
		ids := make([]string, small("replicas", 4))
		for i := range ids {
			ids[i] = replica()
		}
		return setReplicas(uint32(small("shard", 2)), uint64(small("version", 6)), ids...)
	case 5:
		return noteReplica(uint32(small("shard", 2)), replica(), metav1.ReplicaState(small("state", 3)))
	case 6:
		return createTopic(byte(small("uuid", 3)), fmt.Sprintf("t%d", small("topic", 2)), uint32(small("partitions", 4)),
			rapid.SampledFrom(allConfigs).Draw(t, "config"))
	case 7:
		return &metav1.Command{Command: &metav1.Command_AlterTopic{AlterTopic: &metav1.AlterTopic{
			Name: fmt.Sprintf("t%d", small("topic", 2)), SetConfig: rapid.SampledFrom(allConfigs).Draw(t, "config"),
			Partitions: uint32(small("partitions", 6)),
		}}}
	case 8:
		return deleteTopic(byte(small("uuid", 3)), fmt.Sprintf("t%d", small("topic", 2)))
	case 9:
		return purgeTopic(byte(small("uuid", 3)), uint32(small("shard", 2)))
	case 10, 11, 12:
		return drawCommit(t, object())
	case 13:
		return trim(uint64(small("partition", 6)), int64(small("start", 12)))
	case 14:
		return drop(object(), object())
	case 15:
		return replace(object(), drawCommit(t, object()))
	default:
		return forget(object())
	}
}

func drawCommit(t *rapid.T, object string) *metav1.Command {
	var entries []*metav1.SegmentEntry
	for range rapid.IntRange(1, 3).Draw(t, "segments") {
		base := rapid.Int64Range(0, 8).Draw(t, "base")
		entries = append(entries, segment(rapid.Uint64Range(1, 6).Draw(t, "partition"), base, base+rapid.Int64Range(0, 4).Draw(t, "length")))
	}
	return commit(object, rapid.Uint32Range(0, 2).Draw(t, "shard"), entries...)
}

// TestProperties applies random histories. After every command all invariants
// hold, what was given out before has not changed, and a refusal changes nothing.
func TestProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := New()
		_, err := s.Apply(1, initCluster(rapid.Uint32Range(1, 3).Draw(t, "shards")))
		require.NoError(t, err)
		ends := make(map[uint64]int64)
		starts := make(map[uint64]int64)
		for i := range uint64(rapid.IntRange(1, 60).Draw(t, "commands")) {
			cmd := drawCommand(t)
			before := s.View()
			was := dump(before)
			res, err := s.Apply(i+2, cmd)
			require.NoError(t, err)
			v := s.View()
			require.NoError(t, v.Check(), "%v", cmd)
			require.Equal(t, was, dump(before), "a view has changed: %v", cmd)
			if res.GetRejection() != nil {
				after := *v
				after.index = before.index
				require.Equal(t, was, dump(&after), "a refused command has changed something: %v", cmd)
			}
			checkForward(t, v, ends, starts)
			checkAgain(t, s, i+3, cmd, res)
		}
		raw := snapshotOf(t, s.View())
		require.Equal(t, dump(s.View()), dump(restored(t, raw)))
		checkSameOnward(t, s, restored(t, raw))
	})
}

// checkForward holds that offsets never go back.
func checkForward(t *rapid.T, v *View, ends, starts map[uint64]int64) {
	for topic := range v.Topics() {
		for _, id := range topic.PartitionIDs {
			p, ok := v.Partition(id)
			require.True(t, ok)
			require.GreaterOrEqual(t, p.UploadedEnd, ends[id])
			require.GreaterOrEqual(t, p.LogStart, starts[id])
			ends[id], starts[id] = p.UploadedEnd, p.LogStart
		}
	}
}

// checkAgain holds that a command that was done succeeds again and then changes nothing.
func checkAgain(t *rapid.T, s *State, index uint64, cmd *metav1.Command, first *metav1.Result) {
	if first.GetRejection() != nil {
		return
	}
	before := *s.View()
	again := &State{view: s.View()}
	res, err := again.Apply(index, cmd)
	require.NoError(t, err)
	require.Nil(t, res.GetRejection(), "%v", cmd)
	before.index = index
	require.Equal(t, dump(&before), dump(again.View()), "%v", cmd)
	for i, o := range first.GetSegments() {
		if o == metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED {
			require.Equal(t, metav1.SegmentOutcome_SEGMENT_OUTCOME_ALREADY_COMMITTED, res.GetSegments()[i])
		}
	}
}

// checkSameOnward holds that a replica that restored a snapshot goes on like one that applied the log.
func checkSameOnward(t *rapid.T, s *State, v *View) {
	other := &State{view: v}
	for i := range uint64(10) {
		cmd := drawCommand(t)
		a, err := s.Apply(s.View().Index()+i+1, cmd)
		require.NoError(t, err)
		b, err := other.Apply(s.View().Index(), cmd)
		require.NoError(t, err)
		require.True(t, proto.Equal(a, b), "%v: %v and %v", cmd, a, b)
	}
	require.Equal(t, dump(s.View()), dump(other.View()))
}

// FuzzApply applies any commands whatever: encoded one behind the other, each
// with its length in front. Nothing panics and all invariants hold.
func FuzzApply(f *testing.F) {
	var all []byte
	for _, c := range []*metav1.Command{
		initCluster(2), registerNode("n1", "01"), createShard(0, "n1/a"), createTopic(1, "t", 3, nil),
		commit("o", 0, segment(2, 0, 5)), replace("o", commit("p", 0, segment(2, 0, 5))), trim(2, 3), deleteTopic(1, "t"), purgeTopic(1, 0), drop("o"),
		{Command: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIDs{Count: 7}}},
		{Command: &metav1.Command_SetFeatureLevel{SetFeatureLevel: &metav1.SetFeatureLevel{Level: 1}}},
	} {
		raw, err := proto.Marshal(c)
		require.NoError(f, err)
		all = append(append(all, byte(len(raw))), raw...)
	}
	f.Add(all)
	f.Fuzz(func(t *testing.T, raw []byte) {
		s := New()
		for i := uint64(1); len(raw) > 1; i++ {
			n := min(int(raw[0]), len(raw)-1)
			var cmd metav1.Command
			if proto.Unmarshal(raw[1:1+n], &cmd) == nil && cmd.GetCreateTopic().GetPartitions() < 1000 && cmd.GetAlterTopic().GetPartitions() < 1000 {
				if _, err := s.Apply(i, &cmd); err != nil {
					require.ErrorIs(t, err, ErrUnknownCommand)
				}
				require.NoError(t, s.View().Check(), "%v", &cmd)
			}
			raw = raw[1+n:]
		}
		require.Equal(t, dump(s.View()), dump(restored(t, snapshotOf(t, s.View()))))
	})
}

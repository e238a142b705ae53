package shard

import (
	"bytes"
	"flag"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

var updateGroups = flag.Bool("update-groups", false, "write the golden file of groups anew")

// runGroup applies a command to a group; a heartbeat finds three partitions of t.
func (m *machine) runGroup(timeMs int64, cmd *metav1.GroupCommand) applied {
	m.t.Helper()
	if hb := cmd.GetHeartbeat(); hb != nil {
		hb.Topics = []*metav1.GroupTopic{{Name: "t", PartitionIds: []uint64{1, 2, 3}}}
	}
	data, err := encodeGroup(timeMs, cmd)
	require.NoError(m.t, err)
	res := m.apply(data)
	require.NoError(m.t, res.err)
	return res
}

// withGroups returns a machine with a group that rebalances, and one that was left.
func withGroups(tb testing.TB) *machine {
	tb.Helper()
	m := newMachine(tb)
	run := func(timeMs int64, cmd *metav1.GroupCommand) { require.NoError(tb, m.runGroup(timeMs, cmd).refused) }
	run(10, heartbeat("g", "a", 0, 1))
	run(20, heartbeat("g", "b", 0, 1))
	run(30, heartbeat("g", "a", 1, 2, 1, 2, 3))
	run(40, heartbeat("left", "c", 0, 1))
	require.NoError(tb, m.apply(encodeMemberCommit(50, offsetCommit{group: "left", member: "c", epoch: 1, offsets: []GroupOffset{{1, 7, "x"}}})).refused)
	run(60, leave("left", "c", 1))
	return m
}

func restored(tb testing.TB, data []byte) *machine {
	tb.Helper()
	m := newMachine(tb)
	require.NoError(tb, m.fsm.Restore(io.NopCloser(bytes.NewReader(data))))
	return m
}

// Snapshots with groups are read for ever, also those with the members inside the group's item and without the index of the
// last change, and the same state gives the same bytes.
func TestGoldenSnapshotOfGroups(t *testing.T) {
	const path = "testdata/snapshot-v1-group-items.golden"
	if *updateGroups {
		require.NoError(t, os.WriteFile(path, persist(t, withGroups(t)), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, persist(t, withGroups(t)))
	for _, old := range []string{path, "testdata/snapshot-v1-groups.golden"} {
		data, err := os.ReadFile(old)
		require.NoError(t, err)
		m := restored(t, data)
		if old == path {
			require.NotZero(t, m.fsm.state.groupsIndex)
		}
		m.fsm.state.groupsIndex = withGroups(t).fsm.state.groupsIndex
		require.Equal(t, want, persist(t, m), old)
		require.Equal(t, int64(60), m.fsm.state.groups["left"].changedMs)
		require.Equal(t, withGroups(t).fsm.state.size, m.fsm.state.size)
	}
}

// A replica that was restored knows when a group was used last, also where the offset of that time is gone: else it would
// delete the group at another time than the others.
func TestSnapshotKeepsWhenAGroupWasUsed(t *testing.T) {
	m := newMachine(t)
	commit := func(timeMs int64, id uint64) {
		require.NoError(t, m.apply(encodeOffsetCommit(timeMs, offsetCommit{group: "g", offsets: []GroupOffset{{PartitionID: id}}})).refused)
	}
	commit(10, 1)
	require.Equal(t, m.fsm.state.groups, restored(t, persist(t, m)).fsm.state.groups)
	commit(20, 2)
	require.NoError(t, m.apply(encodeDrop(30, []uint64{2})).err)
	again := restored(t, persist(t, m))
	require.Equal(t, int64(20), again.fsm.state.groups["g"].changedMs)
	require.Equal(t, persist(t, m), persist(t, again))
	for _, x := range []*machine{m, again} {
		unused := &metav1.GroupCommand{Group: "g", Command: &metav1.GroupCommand_Delete{Delete: &metav1.GroupDelete{UnchangedSinceMs: 15}}}
		require.NoError(t, x.runGroup(40, unused).refused)
		require.Contains(t, x.fsm.state.groups, "g")
	}
}

// Topics and members belong to the group before them.
func TestSnapshotRefusesMembersWithoutGroup(t *testing.T) {
	header := &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Header{Header: &metav1.ShardSnapshotHeader{Version: snapshotVersion, Shard: 1}}}
	begun := &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Group{Group: &metav1.ShardGroup{Group: "g", Epoch: 1}}}
	offset := &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_GroupOffset{GroupOffset: &metav1.ShardGroupOffset{Group: "g"}}}
	of := &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_GroupMember{GroupMember: &metav1.ShardGroupMember{Spec: &metav1.GroupMemberSpec{MemberId: "a"}}}}
	topic := &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_GroupTopic{GroupTopic: &metav1.GroupTopic{Name: "t"}}}
	for name, items := range map[string][]*metav1.ShardSnapshotItem{
		"member first":          {header, of},
		"topic first":           {header, topic},
		"member behind offsets": {header, begun, offset, of},
		"member twice":          {header, begun, of, of, offset},
	} {
		rs := newRestorer(1)
		var err error
		for _, item := range items {
			if err == nil {
				err = rs.add(item)
			}
		}
		require.Error(t, err, name)
	}
}

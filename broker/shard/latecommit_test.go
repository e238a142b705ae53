package shard

import (
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/fsm"
)

// numbered is a commit of member a of group g for partition 1.
func numbered(epoch int32, sequence, offset int64) offsetCommit {
	return offsetCommit{group: "g", member: "a", epoch: epoch, sequence: sequence, offsets: []GroupOffset{{PartitionID: 1, Offset: offset}}}
}

// commit applies a commit and returns its refusal.
func (m *machine) commit(timeMs int64, c offsetCommit) error {
	m.t.Helper()
	res := m.apply(encodeMemberCommit(timeMs, c))
	require.NoError(m.t, res.err)
	return res.refused
}

func (m *machine) requireOffset(want int64) {
	m.t.Helper()
	require.Equal(m.t, []GroupOffset{{PartitionID: 1, Offset: want}}, m.fsm.state.groupOffsets("g", nil))
}

// The network holds the first try of a commit until a retry of it, and then a newer commit, were taken. It changes nothing when
// it comes, also on a replica that has its state from a snapshot.
func TestLateCommit(t *testing.T) {
	m := newMachine(t)
	require.NoError(t, m.runGroup(10, heartbeat("g", "a", 0, 1)).refused)
	first := numbered(1, 1, 5)
	require.NoError(t, m.commit(20, first), "the retry")
	require.NoError(t, m.commit(30, first), "a try that comes behind the one that was stored is answered as that was")
	require.Equal(t, int64(20), m.fsm.state.groups["g"].changedMs, "and changes nothing")
	require.NoError(t, m.commit(40, numbered(1, 2, 9)))
	for _, x := range []*machine{m, restored(t, persist(t, m))} {
		x.index = 100
		before := x.fsm.state.groups["g"].members.State()
		require.ErrorIs(t, x.commit(50, first), group.ErrStaleCommit)
		x.requireOffset(9)
		require.Equal(t, int64(40), x.fsm.state.groups["g"].changedMs)
		require.Equal(t, before, x.fsm.state.groups["g"].members.State())
		require.NoError(t, x.commit(60, numbered(1, 3, 2)), "a newer one may go back on purpose")
		x.requireOffset(2)
		require.NoError(t, x.commit(70, numbered(1, 0, 3)), "without a sequence as ever")
		require.ErrorIs(t, x.commit(80, numbered(1, 2, 9)), group.ErrStaleCommit)
	}
}

// A commit that was refused is none: the same one is stored when it comes again and is right. One that was stored is answered
// as stored, though the member's epoch has changed since.
func TestRetriesOfACommitOverARebalance(t *testing.T) {
	m := newMachine(t)
	require.NoError(t, m.runGroup(10, heartbeat("g", "a", 0, 1)).refused)
	require.ErrorIs(t, m.commit(20, numbered(7, 1, 5)), group.ErrFencedEpoch)
	require.NoError(t, m.commit(30, numbered(1, 1, 5)))
	require.NoError(t, m.runGroup(40, heartbeat("g", "b", 0, 1)).refused)
	require.NoError(t, m.runGroup(50, heartbeat("g", "a", 1, 2, 1, 2, 3)).refused)
	require.NoError(t, m.runGroup(60, heartbeat("g", "a", 1, 3, 1)).refused) // it has epoch 2 now
	require.ErrorIs(t, m.commit(70, numbered(1, 2, 6)), group.ErrFencedEpoch)
	require.NoError(t, m.commit(80, numbered(1, 1, 5)), "stored before")
	require.NoError(t, m.commit(90, numbered(2, 2, 6)))
	require.ErrorIs(t, m.commit(100, numbered(2, 1, 5)), group.ErrStaleCommit)
	m.requireOffset(6)
}

// However the tries of commits are delayed and repeated, the offset is that of the newest commit that came.
func TestCommitsInAnyOrder(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := newState()
		_, err := s.heartbeat("g", group.Heartbeat{
			Spec: group.Spec{MemberID: "a", Topics: []string{"t"}}, Sequence: 1, Topics: map[string][]uint64{"t": {1}},
		})
		require.NoError(t, err)
		offsets := rapid.SliceOfN(rapid.Int64Range(0, 50), 1, 8).Draw(rt, "offsets")
		newest := 0
		for range rapid.IntRange(1, 30).Draw(rt, "deliveries") {
			i := rapid.IntRange(1, len(offsets)).Draw(rt, "commit")
			err := s.commitOffsets(numbered(1, int64(i), offsets[i-1]))
			if (err != nil) != (i < newest) {
				rt.Fatalf("commit %d behind commit %d: %v", i, newest, err)
			}
			newest = max(newest, i)
			if got := s.groupOffsets("g", nil)[0].Offset; got != offsets[newest-1] {
				rt.Fatalf("behind commit %d of %d the offset is %d, after %d", newest, offsets[newest-1], got, i)
			}
		}
	})
}

// Snapshots with the sequence of a commit are read for ever.
func TestGoldenSnapshotOfCommitSequence(t *testing.T) {
	const path = "testdata/snapshot-v1-commit-sequence.golden"
	m := newMachine(t)
	require.NoError(t, m.runGroup(10, heartbeat("g", "a", 0, 1)).refused)
	require.NoError(t, m.commit(20, numbered(1, 300, 5)))
	if *updateGroups {
		require.NoError(t, os.WriteFile(path, persist(t, m), 0o600))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, want, persist(t, m))
	require.Equal(t, int64(300), restored(t, want).fsm.state.groups["g"].members.State().Members[0].CommitSequence)
}

// While a node may be too old for it, no sequence is logged: the commit is stored as one without.
func TestCommitSequenceWaitsForTheFeatureLevel(t *testing.T) {
	n := newNode(t, 1, nil)
	n.run(heartbeat("g", "a", 0, 1))
	n.metadata.mu.Lock()
	upgraded := n.metadata.state
	n.metadata.state = fsm.New()
	n.metadata.mu.Unlock()
	for _, cmd := range []*metav1.Command{
		{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{ClusterId: "C1", ClusterName: "c", Shards: 1}}},
		{Command: &metav1.Command_SetFeatureLevel{SetFeatureLevel: &metav1.SetFeatureLevel{Level: fsm.FeatureLevelCommitSequence - 1}}},
	} {
		n.metadata.do(t, cmd)
	}
	commit := func(sequence, offset int64) error {
		return n.shard.CommitOffsets(t.Context(), "g", Committer{MemberID: "a", Epoch: 1, Sequence: sequence}, []GroupOffset{{PartitionID: 1, Offset: offset}})
	}
	stored := func() int64 {
		states, err := n.shard.GroupStates([]string{"g"})
		require.NoError(t, err)
		return states[0].GetMembers()[0].GetCommitSequence()
	}
	require.NoError(t, commit(5, 1))
	require.Zero(t, stored())

	n.metadata.mu.Lock()
	n.metadata.state = upgraded
	n.metadata.mu.Unlock()
	require.NoError(t, commit(5, 1))
	require.Equal(t, int64(5), stored())
	require.ErrorIs(t, commit(4, 0), group.ErrStaleCommit)
	n.restart()
	require.Equal(t, int64(5), stored(), "from the log")
	require.ErrorIs(t, commit(4, 0), group.ErrStaleCommit)
}

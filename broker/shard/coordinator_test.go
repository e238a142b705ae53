package shard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
)

// heartbeat is one of a member that subscribes to t.
func heartbeat(name, member string, epoch int32, sequence int64, owned ...uint64) *metav1.GroupCommand {
	return &metav1.GroupCommand{Group: name, Command: &metav1.GroupCommand_Heartbeat{Heartbeat: &metav1.GroupHeartbeat{
		Member: &metav1.GroupMemberSpec{MemberId: member, Topics: []string{"t"}, SessionTimeoutMs: 60_000, RebalanceTimeoutMs: 60_000},
		Epoch:  epoch, Sequence: sequence, Owned: owned,
	}}}
}

func leave(name, member string, epoch int32) *metav1.GroupCommand {
	return &metav1.GroupCommand{Group: name, Command: &metav1.GroupCommand_Leave{Leave: &metav1.GroupLeave{MemberId: member, Epoch: epoch}}}
}

func deleteGroup(name string) *metav1.GroupCommand {
	return &metav1.GroupCommand{Group: name, Command: &metav1.GroupCommand_Delete{Delete: &metav1.GroupDelete{}}}
}

func (n *node) run(cmd *metav1.GroupCommand) group.Answer {
	n.t.Helper()
	answer, err := n.shard.RunGroup(n.t.Context(), cmd)
	require.NoError(n.t, err)
	return answer
}

// Two members share a topic: the first gives up what the second gets, and only then does the second get it.
func TestGroupHandsOverPartitions(t *testing.T) {
	n := newNode(t, 4, nil)
	require.Equal(t, group.Answer{Epoch: 1, Assigned: []uint64{1, 2, 3, 4}, Completed: true}, n.run(heartbeat("g", "a", 0, 1)))
	require.Empty(t, n.run(heartbeat("g", "b", 0, 1)).Assigned)
	first := n.run(heartbeat("g", "a", 1, 2, 1, 2, 3, 4))
	require.Equal(t, []uint64{1, 2}, first.Assigned)
	require.Empty(t, n.run(heartbeat("g", "b", 2, 2)).Assigned, "a still works on them")
	require.Equal(t, int32(2), n.run(heartbeat("g", "a", 1, 3, 1, 2)).Epoch)
	require.Equal(t, []uint64{3, 4}, n.run(heartbeat("g", "b", 2, 3)).Assigned)
	require.Equal(t, map[string]uint64{"g": 2}, n.shard.Rebalances())
	require.Equal(t, int32(3), n.run(leave("g", "b", 2)).Epoch+3)
	require.Equal(t, []uint64{1, 2, 3, 4}, n.run(heartbeat("g", "a", 2, 4, 1, 2)).Assigned)
}

// A heartbeat that changes nothing is not logged.
func TestSettledHeartbeatIsNotLogged(t *testing.T) {
	n := newNode(t, 2, nil)
	n.run(heartbeat("g", "a", 0, 1))
	before := n.shard.Replica().Raft().LastIndex()
	for i := range int64(10) {
		require.Equal(t, []uint64{1, 2}, n.run(heartbeat("g", "a", 1, 2+i, 1, 2)).Assigned)
	}
	require.Equal(t, before, n.shard.Replica().Raft().LastIndex())
	_, err := n.shard.RunGroup(t.Context(), heartbeat("g", "a", 1, 3, 1, 2))
	require.ErrorIs(t, err, group.ErrFencedEpoch, "a newer one was seen")
}

// Commits are fenced by membership, epoch and ownership.
func TestCommitsAreFenced(t *testing.T) {
	n := newNode(t, 2, nil)
	commit := func(by Committer, ids ...uint64) error {
		var offsets []GroupOffset
		for _, id := range ids {
			offsets = append(offsets, GroupOffset{PartitionID: id})
		}
		return n.shard.CommitOffsets(t.Context(), "g", by, offsets)
	}
	require.NoError(t, commit(Committer{}, 1), "nobody is there")
	require.ErrorIs(t, commit(Committer{MemberID: "a", Epoch: 1}, 1), group.ErrUnknownMember)
	n.run(heartbeat("g", "a", 0, 1))
	require.NoError(t, commit(Committer{MemberID: "a", Epoch: 1}, 1, 2))
	require.ErrorIs(t, commit(Committer{}, 1), group.ErrNotEmpty)
	require.ErrorIs(t, commit(Committer{MemberID: "a", Epoch: 2}, 1), group.ErrFencedEpoch)
	n.run(heartbeat("g", "b", 0, 1))
	require.ErrorIs(t, commit(Committer{MemberID: "b", Epoch: 2}, 2), group.ErrNotOwned)
	_, err := n.shard.RunGroup(t.Context(), deleteGroup("g"))
	require.ErrorIs(t, err, group.ErrNotEmpty)
	n.run(leave("g", "a", 1))
	n.run(leave("g", "b", 2))
	n.run(deleteGroup("g"))
	offsets, err := n.shard.Offsets("g", nil)
	require.NoError(t, err)
	require.Empty(t, offsets)
	_, err = n.shard.RunGroup(t.Context(), deleteGroup("g"))
	require.ErrorIs(t, err, ErrNoGroup)
}

// A member that is silent for its session is removed, and its partitions go to the others.
func TestSilentMemberIsRemoved(t *testing.T) {
	n := newNode(t, 2, nil)
	dead := heartbeat("g", "dead", 0, 1)
	dead.GetHeartbeat().GetMember().SessionTimeoutMs = 100
	require.Len(t, n.run(dead).Assigned, 2)
	n.run(heartbeat("g", "a", 0, 1))
	sequence := int64(1)
	require.Eventually(t, func() bool {
		sequence++
		answer, err := n.shard.RunGroup(t.Context(), heartbeat("g", "a", 2, sequence))
		if err != nil { // the epoch has grown by the other's end
			answer = n.run(heartbeat("g", "a", 0, sequence+1))
			sequence++
		}
		return len(answer.Assigned) == 2
	}, 20*time.Second, 20*time.Millisecond)
	require.ErrorIs(t, n.shard.CommitOffsets(t.Context(), "g", Committer{MemberID: "dead", Epoch: 1}, []GroupOffset{{PartitionID: 1}}), group.ErrUnknownMember)
	_, err := n.shard.RunGroup(t.Context(), heartbeat("g", "dead", 1, 2, 1, 2))
	require.ErrorIs(t, err, group.ErrUnknownMember)
}

// From when a member's removal is decided until it is logged, no heartbeat is answered; then it may join again. That its
// partitions go to others can then not escape it.
func TestMemberIsFencedBeforeItIsRemoved(t *testing.T) {
	n := newNode(t, 2, nil)
	n.run(heartbeat("g", "a", 0, 1))
	hour := time.Now().Add(time.Hour)
	require.Len(t, n.shard.sessions.expired(n.shard.members(), hour), 1)
	_, err := n.shard.RunGroup(t.Context(), heartbeat("g", "a", 1, 2, 1, 2))
	require.ErrorIs(t, err, group.ErrFencedEpoch)
	underWay := ToHeartbeat(heartbeat("g", "a", 1, 2, 1, 2).GetHeartbeat())
	underWay.Spec.Topics = []string{"t", "u"}
	_, err = n.shard.heartbeat(t.Context(), "g", underWay)
	require.ErrorIs(t, err, group.ErrFencedEpoch, "one that was seen before, and logged after")
	states, err := n.shard.GroupStates([]string{"g"})
	require.NoError(t, err)
	require.Len(t, states, 1, "it is a member still")

	sequence := int64(2)
	require.Eventually(t, func() bool {
		sequence++
		answer, err := n.shard.RunGroup(t.Context(), heartbeat("g", "a", 0, sequence))
		if err != nil {
			require.ErrorIs(t, err, ErrNotReady)
			return false
		}
		return len(answer.Assigned) == 2 && answer.Epoch == 1 // a group that was gone, and began anew
	}, 20*time.Second, 20*time.Millisecond)
}

// A second member with the same instance id is refused, and told whom to end and how long to wait. When the first has
// died without leaving, it gets in once that one's session has ended.
func TestInstanceIDInUse(t *testing.T) {
	n := newNode(t, 2, nil)
	static := func(member string, sequence int64) *metav1.GroupCommand {
		cmd := heartbeat("g", member, 0, sequence)
		cmd.GetHeartbeat().Member.InstanceId, cmd.GetHeartbeat().Member.ClientHost = "i", "10.0.0."+member
		cmd.GetHeartbeat().Member.SessionTimeoutMs = map[string]int32{"1": 1000, "2": 30_000}[member]
		return cmd
	}
	n.run(static("1", 1))
	_, err := n.shard.RunGroup(t.Context(), static("2", 1))
	require.ErrorIs(t, err, group.ErrInstanceInUse)
	var held *InstanceInUseError
	require.ErrorAs(t, err, &held)
	require.Equal(t, "1", held.Member.MemberID)
	require.Positive(t, held.Wait)
	require.LessOrEqual(t, held.Wait, time.Second+sessionTick)
	require.ErrorContains(t, err, "10.0.0.1")

	sequence := int64(1)
	require.Eventually(t, func() bool {
		sequence++
		answer, err := n.shard.RunGroup(t.Context(), static("2", sequence))
		if err != nil {
			require.ErrorIs(t, err, group.ErrInstanceInUse)
			return false
		}
		return len(answer.Assigned) == 2
	}, 20*time.Second, 50*time.Millisecond)
	_, err = n.shard.RunGroup(t.Context(), static("1", 2))
	require.ErrorIs(t, err, group.ErrInstanceInUse, "now the first is the second")
}

// A group without members goes, with its offsets, when its retention is over; one that is used stays.
func TestUnusedGroupExpires(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.GroupOffsetsRetention = time.Millisecond })
	n.run(heartbeat("live", "a", 0, 1))
	require.NoError(t, n.shard.CommitOffsets(t.Context(), "live", Committer{MemberID: "a", Epoch: 1}, []GroupOffset{{PartitionID: 1}}))
	require.NoError(t, n.shard.CommitOffsets(t.Context(), "idle", Committer{}, []GroupOffset{{PartitionID: 1}}))
	require.Eventually(t, func() bool {
		states, err := n.shard.GroupStates(nil)
		return err == nil && len(states) == 1 && states[0].GetGroup() == "live"
	}, 20*time.Second, 20*time.Millisecond)
}

// Deleting a topic takes the committed offsets of all groups for it, whichever shard has its partitions, and what lag is
// counted from; a group that has nothing else goes with it. Deleting a group takes the rest.
func TestDeletedTopicLeavesNoOffsets(t *testing.T) {
	n := newNode(t, 2, nil)
	n.metadata.do(t, &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "other", Uuid: []byte("uuid-of-other-one"[:16]), Partitions: 1,
	}}})
	other, ok := n.metadata.View().Topic("other")
	require.True(t, ok)
	commit := func(name string, by Committer, ids ...uint64) {
		var offsets []GroupOffset
		for _, id := range ids {
			offsets = append(offsets, GroupOffset{PartitionID: id})
		}
		require.NoError(t, n.shard.CommitOffsets(t.Context(), name, by, offsets))
	}
	commit("only", Committer{}, 1, 2)
	commit("both", Committer{}, 1, other.PartitionIDs[0])
	require.Equal(t, []uint64{1, 2}, n.run(heartbeat("live", "a", 0, 1)).Assigned)
	commit("live", Committer{MemberID: "a", Epoch: 1}, 1)
	require.ElementsMatch(t, []GroupProgress{
		{"only", 1, 0}, {"only", 2, 0}, {"both", 1, 0}, {"both", other.PartitionIDs[0], 0}, {"live", 1, 0}, {"live", 2, -1},
	}, n.shard.Progress())

	n.metadata.do(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: []byte("uuid-of-the-topic"[:16])}}})
	require.Eventually(t, func() bool { return len(n.metadata.View().DeletedTopics()) == 0 }, 20*time.Second, 10*time.Millisecond)
	require.Empty(t, n.run(heartbeat("live", "a", 1, 2, 1, 2)).Assigned)
	n.run(heartbeat("live", "a", 1, 3))
	require.Equal(t, []GroupProgress{{"both", other.PartitionIDs[0], 0}}, n.shard.Progress())
	require.Error(t, n.shard.CommitOffsets(t.Context(), "only", Committer{}, []GroupOffset{{PartitionID: 1}}), "a late commit")

	states, err := n.shard.GroupStates(nil)
	require.NoError(t, err)
	require.Len(t, states, 2)
	n.run(deleteGroup("both"))
	require.Empty(t, n.shard.Progress())
}

// Members, epochs and assignments are there after a restart, from the log and from a snapshot.
func TestRestartKeepsGroups(t *testing.T) {
	for name, checkpoint := range map[string]bool{"from the log": false, "from a snapshot": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 2, func(c *Config) { c.UploadInterval, c.UploadBytes = time.Hour, 1<<30 })
			n.run(heartbeat("g", "a", 0, 1))
			n.run(heartbeat("g", "b", 0, 1))
			before, err := n.shard.GroupStates([]string{"g", "nope"})
			require.NoError(t, err)
			require.Len(t, before, 1)
			if checkpoint {
				n.checkpoint()
			}
			n.restart()
			after, err := n.shard.GroupStates(nil)
			require.NoError(t, err)
			require.Len(t, after, 1)
			require.Equal(t, before[0].String(), after[0].String())
			require.Equal(t, []uint64{1}, n.run(heartbeat("g", "a", 1, 2, 1, 2)).Assigned)
		})
	}
}

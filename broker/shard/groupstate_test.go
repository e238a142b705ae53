package shard

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
)

// join is a member's first heartbeat.
func join(member string, topics ...string) group.Heartbeat {
	return group.Heartbeat{Spec: group.Spec{MemberID: member, Topics: topics}, Sequence: 1}
}

// requireSize checks the counts of the state against the groups.
func requireSize(t *testing.T, s *state) {
	t.Helper()
	var size group.Size
	offsets := 0
	for _, g := range s.groups {
		size = size.Add(g.members.Size())
		offsets += len(g.offsets)
	}
	require.Equal(t, size, s.size)
	require.Equal(t, offsets, s.offsets)
}

func TestGroupsOfAShardAreBounded(t *testing.T) {
	s := newState()
	for i := range maxGroups {
		require.NoError(t, s.commitOffsets(offsetCommit{group: fmt.Sprint(i), offsets: []GroupOffset{{PartitionID: 1}}}))
	}
	one := offsetCommit{group: "one more", offsets: []GroupOffset{{PartitionID: 1}}}
	require.ErrorIs(t, s.commitOffsets(one), ErrTooManyGroups)
	_, err := s.heartbeat("one more", join("m", "t"))
	require.ErrorIs(t, err, ErrTooManyGroups)
	_, err = s.heartbeat("7", join("m", "t"))
	require.NoError(t, err, "a group that is there takes members")
	require.NoError(t, s.deleteGroup("8", 0))
	require.NoError(t, s.commitOffsets(one))
	requireSize(t, s)
}

func TestMembersOfAShardAreBounded(t *testing.T) {
	s := newState()
	for i := range maxMembers {
		_, err := s.heartbeat(fmt.Sprint(i/4), join(fmt.Sprint(i%4), "t"))
		require.NoError(t, err)
	}
	_, err := s.heartbeat("one more", join("m", "t"))
	require.ErrorIs(t, err, ErrTooManyMembers)
	require.NotContains(t, s.groups, "one more")
	again := join("0", "t")
	again.Sequence, again.Epoch = 2, 1
	_, err = s.heartbeat("0", again)
	require.NotErrorIs(t, err, ErrTooManyMembers, "a member goes on")
	_, err = s.leave("0", leave("0", "0", 0).GetLeave())
	require.NoError(t, err)
	_, err = s.heartbeat("one more", join("m", "t"))
	require.NoError(t, err)
	requireSize(t, s)
}

func TestTopicsOfMembersAreBounded(t *testing.T) {
	s := newState()
	long := strings.Repeat("x", maxTopicBytes/4)
	for i := range 4 {
		_, err := s.heartbeat("g", join(fmt.Sprint(i), long))
		require.NoError(t, err)
	}
	_, err := s.heartbeat("h", join("m", "t"))
	require.ErrorIs(t, err, ErrTooManyTopics)
	resubscribed := join("0", "t")
	resubscribed.Sequence = 2
	_, err = s.heartbeat("g", resubscribed)
	require.NoError(t, err, "fewer are always taken")
	_, err = s.heartbeat("h", join("m", "t"))
	require.NoError(t, err)
	requireSize(t, s)
}

// A static member that comes back under another id is no member more.
func TestSizeOfStaticMember(t *testing.T) {
	s := newState()
	static := func(id string, sequence int64, topics ...string) group.Heartbeat {
		h := join(id, topics...)
		h.Spec.InstanceID, h.Sequence = "i", sequence
		return h
	}
	_, err := s.heartbeat("g", static("a", 1, "t"))
	require.NoError(t, err)
	away := leave("g", "a", 1).GetLeave()
	away.Away = true
	_, err = s.leave("g", away)
	require.NoError(t, err)
	require.Equal(t, group.Size{Members: 0, TopicBytes: 1}, s.groups["g"].members.Growth(static("b", 1, "tt")))
	_, err = s.heartbeat("g", static("b", 1, "tt"))
	require.NoError(t, err)
	require.Equal(t, group.Size{Members: 1, TopicBytes: 2}, s.size)
	requireSize(t, s)
}

// The retention of a group counts from when its last member left, or from its last commit, by the times of the entries:
// a replica that was restored, or becomes the leader, comes to the same.
func TestRetentionCountsFromTheLastUse(t *testing.T) {
	unused := func(name string, since int64) *metav1.GroupCommand {
		return &metav1.GroupCommand{Group: name, Command: &metav1.GroupCommand_Delete{Delete: &metav1.GroupDelete{UnchangedSinceMs: since}}}
	}
	m := newMachine(t)
	commit := func(timeMs int64, c offsetCommit) {
		c.offsets = []GroupOffset{{PartitionID: 1}}
		data := encodeOffsetCommit(timeMs, c)
		if c.member != "" {
			data = encodeMemberCommit(timeMs, c)
		}
		require.NoError(t, m.apply(data).refused)
	}
	commit(10, offsetCommit{group: "never had members"})
	require.NoError(t, m.runGroup(20, heartbeat("has members", "a", 0, 1)).refused)
	commit(30, offsetCommit{group: "has members", member: "a", epoch: 1})
	require.NoError(t, m.runGroup(40, heartbeat("was left", "a", 0, 1)).refused)
	commit(50, offsetCommit{group: "was left", member: "a", epoch: 1})
	require.NoError(t, m.runGroup(9000, leave("was left", "a", 1)).refused)

	for _, x := range []*machine{m, restored(t, persist(t, m))} {
		x.index = 100
		for name, last := range map[string]int64{"never had members": 10, "was left": 9000} {
			require.NoError(t, x.runGroup(20_000, unused(name, last-1)).refused)
			require.Contains(t, x.fsm.state.groups, name, "used since")
			require.NoError(t, x.runGroup(20_000, unused(name, last)).refused)
			require.NotContains(t, x.fsm.state.groups, name)
		}
		require.ErrorIs(t, x.runGroup(20_000, unused("has members", 19_000)).refused, group.ErrNotEmpty)
		require.Contains(t, x.fsm.state.groups, "has members")
	}
}

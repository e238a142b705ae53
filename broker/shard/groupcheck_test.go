package shard

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// A command that replicas could not apply, or not read from a snapshot again, never gets into the log.
func TestBadGroupCommandsAreNotLogged(t *testing.T) {
	n := newNode(t, 1, nil)
	n.run(heartbeat("g", "a", 0, 1))
	before := n.shard.Replica().Raft().LastIndex()
	change := func(f func(*metav1.GroupHeartbeat)) *metav1.GroupCommand {
		cmd := proto.CloneOf(heartbeat("g", "b", 0, 1))
		f(cmd.GetHeartbeat())
		return cmd
	}
	for field, cmd := range map[string]*metav1.GroupCommand{
		"group":                     deleteGroup(""),
		"command":                   {Group: "g"},
		"leave.member_id":           leave("g", "", 1),
		"leave.epoch":               leave("g", "a", -1),
		"delete.unchanged_since_ms": {Group: "g", Command: &metav1.GroupCommand_Delete{Delete: &metav1.GroupDelete{UnchangedSinceMs: -1}}},
		"heartbeat.epoch":           change(func(h *metav1.GroupHeartbeat) { h.Epoch = -1 }),
		"heartbeat.sequence":        change(func(h *metav1.GroupHeartbeat) { h.Sequence = 0 }),
		"member.member_id":          change(func(h *metav1.GroupHeartbeat) { h.Member = nil }),
		"member.instance_id":        change(func(h *metav1.GroupHeartbeat) { h.Member.InstanceId = "a b" }),
		"member.client_id":          change(func(h *metav1.GroupHeartbeat) { h.Member.ClientHost = strings.Repeat("x", 256) }),
		"member.topics":             change(func(h *metav1.GroupHeartbeat) { h.Member.Topics = nil }),
		"member.session_timeout_ms": change(func(h *metav1.GroupHeartbeat) { h.Member.SessionTimeoutMs = 0 }),
	} {
		_, err := n.shard.RunGroup(t.Context(), cmd)
		var bad *FieldError
		require.ErrorAs(t, err, &bad, field)
		require.Equal(t, field, bad.Field)
	}
	for _, offsets := range [][]GroupOffset{{{PartitionID: 1, Offset: -1}}, {{PartitionID: 1, Metadata: strings.Repeat("x", MaxCommitMetadata+1)}}} {
		var bad *FieldError
		require.ErrorAs(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, offsets), &bad)
	}
	var bad *FieldError
	require.ErrorAs(t, n.shard.CommitOffsets(t.Context(), "", Committer{}, nil), &bad)
	require.ErrorAs(t, n.shard.CommitOffsets(t.Context(), "g", Committer{MemberID: "a b"}, nil), &bad)
	require.ErrorAs(t, n.shard.CommitOffsets(t.Context(), "g", Committer{MemberID: "a", Epoch: 1, Sequence: -1}, nil), &bad)
	require.Equal(t, "commit_sequence", bad.Field)
	require.ErrorAs(t, n.shard.CommitOffsets(t.Context(), "g", Committer{Sequence: 1}, nil), &bad)
	require.Equal(t, "commit_sequence", bad.Field)
	require.Equal(t, before, n.shard.Replica().Raft().LastIndex())
}

// While a node may be too old for members of groups, their entries are not logged. Offsets without members always are.
func TestGroupsWaitForTheFeatureLevel(t *testing.T) {
	n := newNode(t, 1, nil)
	n.metadata.mu.Lock()
	upgraded := n.metadata.state
	n.metadata.state = fsm.New()
	n.metadata.mu.Unlock()
	before := n.shard.Replica().Raft().LastIndex()
	_, err := n.shard.RunGroup(t.Context(), heartbeat("g", "a", 0, 1))
	require.ErrorIs(t, err, ErrFeatureLevel)
	require.ErrorContains(t, err, "upgrade every node")
	require.ErrorIs(t, n.shard.CommitOffsets(t.Context(), "g", Committer{MemberID: "a", Epoch: 1}, nil), ErrFeatureLevel)
	require.Equal(t, before, n.shard.Replica().Raft().LastIndex())
	require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: 1}}))

	n.metadata.mu.Lock()
	n.metadata.state = upgraded
	n.metadata.mu.Unlock()
	n.run(heartbeat("g", "a", 0, 1))
}

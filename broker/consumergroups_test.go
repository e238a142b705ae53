package broker

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/fsm"
)

// joining is a member's first heartbeat.
func joining() *streamhousev1.GroupHeartbeatRequest {
	return &streamhousev1.GroupHeartbeatRequest{Group: "g", MemberId: "m", Sequence: 1, Topics: []string{"t"}}
}

func (f *fixture) beat(t *testing.T, req *streamhousev1.GroupHeartbeatRequest) *streamhousev1.GroupHeartbeatResponse {
	t.Helper()
	res, err := f.GroupHeartbeat(t.Context(), req, "10.0.0.1")
	require.NoError(t, err)
	return res
}

func (f *fixture) describe(t *testing.T, name string) *streamhousev1.DescribeGroupResponse {
	t.Helper()
	res, err := f.DescribeGroup(t.Context(), &streamhousev1.DescribeGroupRequest{Group: name})
	require.NoError(t, err)
	return res
}

// A node that has just started knows no shards. It does not take the first one for the coordinator of every group: two
// coordinators would give a partition to two members.
func TestGroupOnANodeThatKnowsNoShards(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 2, nil)
	name := ""
	for i := 0; name == ""; i++ {
		if g := fmt.Sprint("g", i); f.coordinator(t, g) == 1 {
			name = g
		}
	}
	f.shards[1].groupTopics = map[string][]uint64{"t": topic.PartitionIDs}
	join := joining()
	join.Group = name
	f.meta.lag, f.meta.visible = true, fsm.New().View()
	f.meta.down = metadata.ErrNoLeader
	_, err := f.GroupHeartbeat(t.Context(), join, "host")
	requireReason(t, reasonNoLeader, err)
	_, err = f.ListGroups(t.Context(), &streamhousev1.ListGroupsRequest{})
	requireReason(t, reasonNoLeader, err)

	f.meta.down = nil
	_, err = f.GroupHeartbeat(t.Context(), join, "host")
	require.NoError(t, err)
	require.Empty(t, f.shards[0].members)
	require.Contains(t, f.shards[1].members, name)
}

// A member joins through any node, and the group is shown with what it owns, its offsets and its lag.
func TestGroupThroughAnyNode(t *testing.T) {
	for _, replicas := range []bool{true, false} {
		f := newFixture(t, replicas)
		topic := f.meta.createTopic(t, "t", 2, nil)
		coordinator := f.coordinator(t, "g")
		f.shards[coordinator].groupTopics = map[string][]uint64{"t": topic.PartitionIDs}
		f.produce(t, 0, "0", "1", "2")

		res := f.beat(t, joining())
		require.Equal(t, int32(1), res.GetMemberEpoch())
		require.Equal(t, int32(3000), res.GetHeartbeatIntervalMs())
		require.Len(t, res.GetAssigned(), 1)
		require.Equal(t, []int32{0, 1}, res.GetAssigned()[0].GetPartitions())

		next := proto.CloneOf(joining())
		next.MemberEpoch, next.Sequence, next.SessionTimeoutMs, next.Owned = 1, 2, 6000, res.GetAssigned()
		require.Equal(t, int32(1000), f.beat(t, next).GetHeartbeatIntervalMs())

		f.shards[coordinator].set(func() {
			f.shards[coordinator].offsets["g"] = []shard.GroupOffset{{PartitionID: topic.PartitionIDs[0], Offset: 1, Metadata: "x"}}
		})
		d, err := f.DescribeGroup(t.Context(), &streamhousev1.DescribeGroupRequest{Group: "g"})
		require.NoError(t, err)
		require.Equal(t, streamhousev1.GroupState_GROUP_STATE_STABLE, d.GetState())
		require.Equal(t, fsm.NodeOf(f.shards[coordinator].leader), d.GetCoordinator())
		require.Equal(t, "10.0.0.1", d.GetMembers()[0].GetClientHost())
		require.Len(t, d.GetPartitions(), 2)
		require.Equal(t, "topic:\"t\" committed_offset:1 metadata:\"x\" high_watermark:3 lag:2 member_id:\"m\"", strings.ReplaceAll(d.GetPartitions()[0].String(), "  ", " "))
		require.Equal(t, int64(-1), d.GetPartitions()[1].GetCommittedOffset())

		list, err := f.ListGroups(t.Context(), &streamhousev1.ListGroupsRequest{})
		require.NoError(t, err)
		require.Len(t, list.GetGroups(), 1)
		require.Equal(t, int32(1), list.GetGroups()[0].GetMembers())

		leave := &streamhousev1.LeaveGroupRequest{Group: "g", MemberId: "m", MemberEpoch: 1}
		for range 2 {
			_, err = f.LeaveGroup(t.Context(), leave)
			require.NoError(t, err, "one that has left has left")
		}
		require.Len(t, f.describe(t, "g").GetPartitions(), 2, "what nobody began with is left to read too")
		_, err = f.DeleteGroup(t.Context(), &streamhousev1.DeleteGroupRequest{Group: "g"})
		require.NoError(t, err)
		_, err = f.DeleteGroup(t.Context(), &streamhousev1.DeleteGroupRequest{Group: "g"})
		requireReason(t, reasonGroupNotFound, err)
		_, err = f.DescribeGroup(t.Context(), &streamhousev1.DescribeGroupRequest{Group: "g"})
		requireReason(t, reasonGroupNotFound, err)
	}
}

// A group that never had members reads what it has committed for.
func TestGroupThatNeverHadMembers(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 3, nil)
	offsets := []shard.GroupOffset{{PartitionID: topic.PartitionIDs[1]}}
	for epoch, want := range []int{1, 3} {
		partitions, err := f.groupPartitions(t.Context(), &metav1.ShardGroup{Group: "g", Epoch: int32(epoch)}, offsets)
		require.NoError(t, err)
		require.Len(t, partitions, want, "in epoch %d", epoch)
	}
}

func TestGroupHeartbeatBounds(t *testing.T) {
	f := newFixture(t, true)
	for field, change := range map[string]func(*streamhousev1.GroupHeartbeatRequest){
		"group":                func(r *streamhousev1.GroupHeartbeatRequest) { r.Group = "a b" },
		"member_id":            func(r *streamhousev1.GroupHeartbeatRequest) { r.MemberId = "" },
		"instance_id":          func(r *streamhousev1.GroupHeartbeatRequest) { r.InstanceId = "a b" },
		"client_id":            func(r *streamhousev1.GroupHeartbeatRequest) { r.ClientId = strings.Repeat("x", 250) },
		"member_epoch":         func(r *streamhousev1.GroupHeartbeatRequest) { r.MemberEpoch = -1 },
		"sequence":             func(r *streamhousev1.GroupHeartbeatRequest) { r.Sequence = 0 },
		"topics":               func(r *streamhousev1.GroupHeartbeatRequest) { r.Topics = nil },
		"session_timeout_ms":   func(r *streamhousev1.GroupHeartbeatRequest) { r.SessionTimeoutMs = 999 },
		"rebalance_timeout_ms": func(r *streamhousev1.GroupHeartbeatRequest) { r.RebalanceTimeoutMs = -1 },
	} {
		t.Run(field, func(t *testing.T) {
			req := joining()
			change(req)
			_, err := f.GroupHeartbeat(t.Context(), req, "")
			require.Equal(t, field, requireReason(t, reasonInvalidField, err)["field"])
		})
	}
	req := joining()
	long := make([]string, 200)
	for i := range long {
		long[i] = fmt.Sprintf("%0200d", i)
	}
	for _, topics := range [][]string{{"a b"}, long} {
		req.Topics = topics
		_, err := f.GroupHeartbeat(t.Context(), req, "")
		requireReason(t, reasonInvalidField, err)
	}
}

// Who finds its instance id in use is told by whom, and for how long.
func TestInstanceInUseSaysHowLong(t *testing.T) {
	held := &shard.InstanceInUseError{Member: group.Spec{MemberID: "m1", ClientHost: "10.0.0.1"}, Wait: 1500 * time.Millisecond}
	meta := requireReason(t, reasonInstanceInUse, fmt.Errorf("x: %w", held))
	require.Equal(t, map[string]string{"member_id": "m1", "wait_ms": "1500"}, meta)
	require.ErrorContains(t, held, "wait 1.5s")
}

// What a member owns of a topic that this node has not heard of yet must not count as given up.
func TestOwnedPartitionOfUnseenTopic(t *testing.T) {
	f := newFixture(t, true)
	f.meta.lag = true
	topic := f.meta.createTopic(t, "t", 1, nil)
	ids, err := f.partitionIDs(t.Context(), []*streamhousev1.TopicPartitions{{Topic: "t", Partitions: []int32{0, 7}}, {Topic: "gone", Partitions: []int32{0}}})
	require.NoError(t, err)
	require.Equal(t, topic.PartitionIDs, ids)
}

// However much of what a member owns was deleted, a heartbeat waits for the metadata group once.
func TestOwnedPartitionsOfDeletedTopics(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 2, nil)
	owned := []*streamhousev1.TopicPartitions{{Topic: "t", Partitions: []int32{1, 0, 1}}}
	before := f.meta.barriers
	ids, err := f.partitionIDs(t.Context(), owned)
	require.NoError(t, err)
	require.Equal(t, topic.PartitionIDs, ids)
	require.Equal(t, before, f.meta.barriers, "all are known here")

	for i := range 50 {
		owned = append(owned, &streamhousev1.TopicPartitions{Topic: fmt.Sprint("gone", i), Partitions: []int32{0, 1, 2}})
	}
	ids, err = f.partitionIDs(t.Context(), owned)
	require.NoError(t, err)
	require.Equal(t, topic.PartitionIDs, ids)
	require.Equal(t, before+1, f.meta.barriers)

	for _, bad := range []*streamhousev1.TopicPartitions{{Topic: "a b"}, {Topic: "t", Partitions: []int32{-1}}} {
		_, err = f.partitionIDs(t.Context(), []*streamhousev1.TopicPartitions{bad})
		requireReason(t, reasonInvalidField, err)
	}
}

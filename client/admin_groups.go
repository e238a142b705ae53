package client

import (
	"context"
	"maps"
	"slices"
	"strings"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// GroupState is what a group does.
type GroupState string

// Group states.
const (
	// GroupEmpty: it has committed offsets, and no members.
	GroupEmpty GroupState = "empty"
	// GroupRebalancing: some members have not yet all that they should have, or too much.
	GroupRebalancing GroupState = "rebalancing"
	// GroupStable: every member has what it should have.
	GroupStable GroupState = "stable"
)

func groupStateFrom(s streamhousev1.GroupState) GroupState {
	return GroupState(strings.ToLower(strings.TrimPrefix(s.String(), "GROUP_STATE_")))
}

// GroupSummary is a group in a list.
type GroupSummary struct {
	// Name of the group.
	Name string
	// State is what the group does.
	State GroupState
	// Members is how many it has.
	Members int
	// Shard whose leader coordinates the group.
	Shard uint32
}

// Group is a consumer group with all that belongs to it.
type Group struct {
	// Name of the group.
	Name string
	// State is what the group does.
	State GroupState
	// Epoch grows with every rebalance.
	Epoch int32
	// Coordinator is the node that leads Shard.
	Coordinator string
	// Shard that the group's name hashes to.
	Shard uint32
	// Members are in the order of their ids.
	Members []GroupMember
	// Partitions are all of the topics that members subscribe to or that have a committed offset, in order. Of a group that
	// never had members only those with a committed offset.
	Partitions []GroupPartition
}

// GroupMember is one consumer.
type GroupMember struct {
	// ID is minted by the consumer when it is made.
	ID string
	// InstanceID is that of a static member, else empty.
	InstanceID string
	// ClientID is Config.ClientID.
	ClientID string
	// Host is the address that it calls from.
	Host string
	// Epoch is that of the group which the member has reached.
	Epoch int32
	// Topics are what it subscribes to, in order.
	Topics []string
	// Assigned is what it works on, Revoking what it has yet to give up.
	Assigned, Revoking []TopicPartition
	// Away is set for a static member that has left for a while.
	Away bool
}

// GroupPartition is how far a group is in a partition.
type GroupPartition struct {
	TopicPartition

	// Committed is nil where nothing was committed.
	Committed *Committed
	// LogStartOffset and HighWatermark bound the partition's log.
	LogStartOffset, HighWatermark int64
	// Lag is how many records there are between what was committed, or the log start, and the high watermark.
	Lag int64
	// MemberID is empty where no member owns the partition.
	MemberID string
}

// Lag is the sum over the partitions.
func (g Group) Lag() int64 {
	sum := int64(0)
	for _, p := range g.Partitions {
		sum += p.Lag
	}
	return sum
}

// ListGroups returns all groups by name.
func (a *Admin) ListGroups(ctx context.Context) ([]GroupSummary, error) {
	res, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.ListGroupsResponse, error) {
		return n.api().ListGroups(ctx, &streamhousev1.ListGroupsRequest{})
	})
	if err != nil {
		return nil, err
	}
	out := make([]GroupSummary, 0, len(res.GetGroups()))
	for _, g := range res.GetGroups() {
		out = append(out, GroupSummary{Name: g.GetGroup(), State: groupStateFrom(g.GetState()), Members: int(g.GetMembers()), Shard: g.GetShard()})
	}
	return out, nil
}

// DescribeGroup returns a group. It fails with ErrGroupNotFound.
func (a *Admin) DescribeGroup(ctx context.Context, name string) (Group, error) {
	res, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.DescribeGroupResponse, error) {
		return n.api().DescribeGroup(ctx, &streamhousev1.DescribeGroupRequest{Group: name})
	})
	if err != nil {
		return Group{}, err
	}
	g := Group{Name: res.GetGroup(), State: groupStateFrom(res.GetState()), Epoch: res.GetEpoch(), Coordinator: res.GetCoordinator(), Shard: res.GetShard()}
	for _, m := range res.GetMembers() {
		g.Members = append(g.Members, GroupMember{
			ID: m.GetMemberId(), InstanceID: m.GetInstanceId(), ClientID: m.GetClientId(), Host: m.GetClientHost(), Epoch: m.GetMemberEpoch(),
			Topics: m.GetTopics(), Assigned: partitionsFrom(m.GetAssigned()), Revoking: partitionsFrom(m.GetRevoking()), Away: m.GetAway(),
		})
	}
	for _, p := range res.GetPartitions() {
		gp := GroupPartition{
			TopicPartition: TopicPartition{p.GetTopic(), p.GetPartition()}, LogStartOffset: p.GetLogStartOffset(),
			HighWatermark: p.GetHighWatermark(), Lag: p.GetLag(), MemberID: p.GetMemberId(),
		}
		if p.GetCommittedOffset() >= 0 {
			gp.Committed = &Committed{p.GetCommittedOffset(), p.GetMetadata()}
		}
		g.Partitions = append(g.Partitions, gp)
	}
	return g, nil
}

func partitionsFrom(list []*streamhousev1.TopicPartitions) []TopicPartition {
	var out []TopicPartition
	for _, tp := range list {
		for _, number := range tp.GetPartitions() {
			out = append(out, TopicPartition{tp.GetTopic(), number})
		}
	}
	return sorted(out)
}

// DeleteGroup deletes a group with its committed offsets. It fails with ErrGroupNotFound, and with ErrGroupNotEmpty where
// it has members.
func (a *Admin) DeleteGroup(ctx context.Context, name string) error {
	_, err := call(ctx, a.c, once, func(ctx context.Context, n *conn) (*streamhousev1.DeleteGroupResponse, error) {
		return n.api().DeleteGroup(ctx, &streamhousev1.DeleteGroupRequest{Group: name})
	})
	return err
}

// CommittedOffsets returns what a group has committed of a topic, by partition; no partitions are all.
func (a *Admin) CommittedOffsets(ctx context.Context, group, topic string, partitions ...int32) (map[int32]Committed, error) {
	return a.c.committed(ctx, group, topic, partitions...)
}

// CommitOffsets moves what a group has committed of a topic, all or nothing. It fails with ErrGroupNotEmpty where the
// group has members, and with ErrOffsetOutOfRange above a high watermark.
func (a *Admin) CommitOffsets(ctx context.Context, group, topic string, offsets map[int32]Committed) error {
	req := &streamhousev1.CommitOffsetRequest{Group: group, Topic: topic}
	for _, p := range slices.Sorted(maps.Keys(offsets)) {
		req.Offsets = append(req.Offsets, &streamhousev1.CommittedOffset{Partition: p, Offset: offsets[p].Offset, Metadata: offsets[p].Metadata})
	}
	_, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.CommitOffsetResponse, error) {
		return n.api().CommitOffset(ctx, req)
	})
	return err
}

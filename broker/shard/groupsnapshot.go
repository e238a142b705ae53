package shard

import (
	"fmt"
	"maps"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
)

// groupItems returns groups as a snapshot has them, in order. A group that never had members is its offsets alone, where
// these tell when it was used last.
func groupItems(groups map[string]*consumerGroup) []*metav1.ShardSnapshotItem {
	var items []*metav1.ShardSnapshotItem
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		if g.members.Epoch() > 0 || g.changedMs > g.lastCommitMs() {
			items = append(items, memberItems(name, g)...)
		}
		for _, id := range slices.Sorted(maps.Keys(g.offsets)) {
			o := g.offsets[id]
			items = append(items, &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_GroupOffset{GroupOffset: &metav1.ShardGroupOffset{
				Group: name, PartitionId: id, Offset: o.offset, Metadata: o.metadata, TimeMs: o.timeMs,
			}}})
		}
	}
	return items
}

// memberItems returns a group without its offsets: topics and members come one by one, so that no item gets large.
func memberItems(name string, g *consumerGroup) []*metav1.ShardSnapshotItem {
	whole := FromState(name, g.changedMs, g.members.State())
	topics, members := whole.GetTopics(), whole.GetMembers()
	whole.Topics, whole.Members = nil, nil
	items := []*metav1.ShardSnapshotItem{{Item: &metav1.ShardSnapshotItem_Group{Group: whole}}}
	for _, t := range topics {
		items = append(items, &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_GroupTopic{GroupTopic: t}})
	}
	for _, m := range members {
		items = append(items, &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_GroupMember{GroupMember: m}})
	}
	return items
}

// lastCommitMs is when the newest of the offsets that are there was committed.
func (g *consumerGroup) lastCommitMs() int64 {
	var last int64
	for _, o := range g.offsets {
		last = max(last, o.timeMs)
	}
	return last
}

// addGroup begins a group; its topics and members follow, or are in the item, as they were once.
func (rs *restorer) addGroup(item *metav1.ShardGroup) error {
	name := item.GetGroup()
	if name == "" || rs.state.groups[name] != nil {
		return fmt.Errorf("group %q is there twice or behind its offsets", name)
	}
	rs.state.groups[name] = &consumerGroup{offsets: make(map[uint64]groupOffset), changedMs: item.GetChangedMs()}
	rs.group = item
	return nil
}

// addToGroup adds a topic or a member to the group that was begun. Every other item ends that group.
func (rs *restorer) addToGroup(item *metav1.ShardSnapshotItem) (added bool, err error) {
	switch it := item.GetItem().(type) {
	case *metav1.ShardSnapshotItem_GroupTopic:
		if rs.group != nil {
			rs.group.Topics = append(rs.group.Topics, it.GroupTopic)
			return true, nil
		}
		return false, fmt.Errorf("topic %q without a group", it.GroupTopic.GetName())
	case *metav1.ShardSnapshotItem_GroupMember:
		if rs.group != nil {
			rs.group.Members = append(rs.group.Members, it.GroupMember)
			return true, nil
		}
		return false, fmt.Errorf("member %q without a group", it.GroupMember.GetSpec().GetMemberId())
	default:
		return false, rs.endGroup()
	}
}

func (rs *restorer) endGroup() error {
	if rs.group == nil {
		return nil
	}
	name := rs.group.GetGroup()
	members, err := group.Restore(toState(rs.group))
	if err != nil {
		return fmt.Errorf("group %q: %w", name, err)
	}
	rs.group = nil
	g := rs.state.groups[name]
	g.members = *members
	rs.state.resized(group.Size{}, g)
	return nil
}

func (rs *restorer) addOffset(o *metav1.ShardGroupOffset) {
	g := rs.state.groups[o.GetGroup()]
	if g == nil {
		g = &consumerGroup{offsets: make(map[uint64]groupOffset)}
		rs.state.groups[o.GetGroup()] = g
	}
	if _, had := g.offsets[o.GetPartitionId()]; !had {
		rs.state.offsets++
	}
	g.offsets[o.GetPartitionId()] = groupOffset{offset: o.GetOffset(), metadata: o.GetMetadata(), timeMs: o.GetTimeMs()}
	g.changedMs = max(g.changedMs, o.GetTimeMs())
}

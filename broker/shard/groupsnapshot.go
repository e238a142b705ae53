package shard

import (
	"fmt"
	"maps"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
)

// groupItems returns groups as a snapshot has them, in order. A group that never had members is its offsets alone.
func groupItems(groups map[string]*consumerGroup) []*metav1.ShardSnapshotItem {
	var items []*metav1.ShardSnapshotItem
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		g := groups[name]
		if g.members.Epoch() > 0 {
			items = append(items, &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Group{
				Group: FromState(name, g.changedMs, g.members.State()),
			}})
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

func (rs *restorer) addGroup(item *metav1.ShardGroup) error {
	name := item.GetGroup()
	if name == "" || rs.state.groups[name] != nil {
		return fmt.Errorf("group %q is there twice or behind its offsets", name)
	}
	members, err := group.Restore(ToState(item))
	if err != nil {
		return fmt.Errorf("group %q: %w", name, err)
	}
	rs.state.groups[name] = &consumerGroup{
		members: *members, offsets: make(map[uint64]groupOffset), changedMs: item.GetChangedMs(),
	}
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

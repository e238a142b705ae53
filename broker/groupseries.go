package broker

import (
	"context"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
)

const (
	// groupsEvery is how often the series of groups are held against the groups that there are. They are, too, when a new
	// one is named, which may be gone before the next time, but no more often than groupsPause.
	groupsEvery = 10 * time.Second
	groupsPause = time.Second
	// groupsTimeout bounds the questions for that.
	groupsTimeout = 5 * time.Second
)

// syncGroupSeries keeps the series of groups in step with the groups until ctx ends.
func (b *Broker) syncGroupSeries(ctx context.Context) {
	tick := time.NewTicker(groupsEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-b.metrics.groupAdded:
		case <-tick.C:
		}
		b.showGroups()
		b.syncGroups(ctx)
		_ = pause.For(ctx, groupsPause) // the loop looks at ctx
	}
}

// showGroups makes the series of the groups that this node's replicas know, on every node that has one: of each group with
// the topics that it owns partitions of or has committed for.
func (b *Broker) showGroups() {
	view := b.meta.View()
	pairs := make(map[topicGroup]bool)
	for _, sh := range view.Shards() {
		local, ok := b.cfg.Shards.Local(sh.Number)
		if !ok {
			continue
		}
		for _, at := range local.AppliedProgress() {
			if topic, _, ok := partitionName(view, at.PartitionID); ok {
				pairs[topicGroup{topic, at.Group}] = true
			}
		}
	}
	b.metrics.show(pairs)
}

// show makes the series of pairs that exist.
func (m *Metrics) show(pairs map[topicGroup]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for pair := range pairs {
		if m.topics[pair.topic] != nil {
			m.pairLocked(pair)
		}
	}
}

// syncGroups removes the series of groups that are gone, and settles what waits for those that are there or not. Of a group
// whose coordinator does not answer only the errors are settled. All coordinators are asked at once: one that is gone takes the
// whole time.
func (b *Broker) syncGroups(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, groupsTimeout)
	defer cancel()
	byShard := make(map[uint32][]string)
	view := b.meta.View()
	for _, name := range b.metrics.groups() {
		if number, ok := view.GroupShard(name); ok {
			byShard[number] = append(byShard[number], name)
		} else {
			b.metrics.settleErrors(name)
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for number, names := range byShard {
		wg.Go(func() { b.syncGroupsOf(ctx, number, names) })
	}
}

// syncGroupsOf is syncGroups for groups that one shard coordinates.
func (b *Broker) syncGroupsOf(ctx context.Context, number uint32, names []string) {
	found, _, err := b.shardGroups(ctx, number, names...)
	if err != nil {
		for _, name := range names {
			b.metrics.settleErrors(name)
		}
		return
	}
	there := make(map[string]bool, len(found))
	for _, g := range found {
		there[g.GetGroup()] = true
	}
	for _, name := range names {
		b.metrics.settle(name, there[name])
	}
}

// removeGroupLocked removes the series of a group. It looks at those of the group only: reads are counted under the same
// lock.
func (m *Metrics) removeGroupLocked(name string) {
	for topic := range m.shown[name] {
		delete(m.topics[topic], name)
		m.pairs--
		m.consumerRecords.DeleteLabelValues(topic, name)
		for _, t := range consumerErrorTypes {
			m.consumerErrors.DeleteLabelValues(topic, name, t)
		}
	}
	delete(m.shown, name)
}

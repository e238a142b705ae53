package broker

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
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
	existing := make(map[string]bool)
	tick := time.NewTicker(groupsEvery)
	defer tick.Stop()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-b.metrics.groupAdded:
		case <-tick.C:
		}
		b.syncGroups(ctx, existing)
		_ = pause(ctx, groupsPause) // the loop looks at ctx
	}
}

// syncGroups removes the series of groups that have gone since the last time; existing has those that were there then,
// and is brought up to date. A group whose coordinator does not answer is left as it is, and so is one that was never
// there: a reader may name a group without ever committing.
func (b *Broker) syncGroups(ctx context.Context, existing map[string]bool) {
	ctx, cancel := context.WithTimeout(ctx, groupsTimeout)
	defer cancel()
	byShard := make(map[uint32][]string)
	view := b.meta.View()
	named := b.metrics.groups()
	maps.DeleteFunc(existing, func(name string, _ bool) bool { return !slices.Contains(named, name) })
	for _, name := range named {
		number := view.GroupShard(name)
		byShard[number] = append(byShard[number], name)
	}
	for number, names := range byShard {
		found, _, err := b.shardGroups(ctx, number, names...)
		if err != nil {
			continue
		}
		there := make(map[string]bool, len(found))
		for _, g := range found {
			there[g.GetGroup()] = true
		}
		for _, name := range names {
			switch {
			case there[name]:
				existing[name] = true
			case existing[name]:
				delete(existing, name)
				b.metrics.removeGroup(name)
			}
		}
	}
}

// groups returns the names of the groups that have series.
func (m *metrics) groups() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	seen := make(map[string]bool)
	var names []string
	for _, groups := range m.topics {
		for name := range groups {
			if name != "" && name != otherGroups && !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}

// removeGroup removes the series of a group.
func (m *metrics) removeGroup(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, groups := range m.topics {
		if groups[name] != nil {
			delete(groups, name)
			m.pairs--
		}
	}
	m.consumerRecords.DeletePartialMatch(prometheus.Labels{"consumer_group": name})
	m.consumerErrors.DeletePartialMatch(prometheus.Labels{"consumer_group": name})
}

package group

import (
	"maps"
	"slices"
)

// consumer is a member as the assignor sees it.
type consumer struct {
	id     string
	topics map[string]bool
	has    []uint64 // in order
}

// assign gives every partition of the topics to one member that subscribes to the topic: members get as many as each
// other, where subscriptions allow, and keep what they have unless it must move for that. It is the uniform, sticky
// assignor of KIP-848. The answer depends on the arguments alone; partitions are in order of their ids.
func assign(topics map[string][]uint64, consumers []consumer) map[string][]uint64 {
	a := &assignor{topicOf: make(map[uint64]string), consumers: make([]*consumer, len(consumers))}
	for topic, ids := range topics {
		for _, id := range ids {
			a.topicOf[id] = topic
		}
	}
	for i := range consumers {
		a.consumers[i] = &consumers[i]
	}
	slices.SortFunc(a.consumers, func(x, y *consumer) int { return compareID(x.id, y.id) })
	a.keep()
	a.spread()
	a.balance()
	target := make(map[string][]uint64, len(consumers))
	for _, c := range a.consumers {
		slices.Sort(c.has)
		target[c.id] = c.has
	}
	return target
}

func compareID(x, y string) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	default:
		return 0
	}
}

type assignor struct {
	topicOf   map[uint64]string
	consumers []*consumer
	free      []uint64
}

func (a *assignor) wants(c *consumer, id uint64) bool { return c.topics[a.topicOf[id]] }

// keep leaves to each member what it has and may have, once.
func (a *assignor) keep() {
	taken := make(map[uint64]bool, len(a.topicOf))
	for _, c := range a.consumers {
		kept := make([]uint64, 0, len(c.has))
		for _, id := range c.has {
			if _, exists := a.topicOf[id]; exists && a.wants(c, id) && !taken[id] {
				taken[id] = true
				kept = append(kept, id)
			}
		}
		c.has = kept
	}
	for _, id := range slices.Sorted(maps.Keys(a.topicOf)) {
		if !taken[id] {
			a.free = append(a.free, id)
		}
	}
}

// spread gives each free partition to the member with the fewest.
func (a *assignor) spread() {
	for _, id := range a.free {
		if c := a.fewest(id); c != nil {
			c.has = append(c.has, id)
		}
	}
}

// fewest returns the member with the fewest partitions of those that want this one.
func (a *assignor) fewest(id uint64) *consumer {
	var best *consumer
	for _, c := range a.consumers {
		if a.wants(c, id) && (best == nil || len(c.has) < len(best.has)) {
			best = c
		}
	}
	return best
}

// balance moves partitions, one at a time from the member with the most that can give one to a member that has at least
// two fewer, until there is none. Each move makes the sum of squares smaller, so it ends.
func (a *assignor) balance() {
	byLoad := slices.Clone(a.consumers)
	for {
		slices.SortStableFunc(byLoad, func(x, y *consumer) int { return len(y.has) - len(x.has) })
		if !slices.ContainsFunc(byLoad, a.giveOne) {
			return
		}
	}
}

// giveOne moves the newest partition that it can away from a member.
func (a *assignor) giveOne(from *consumer) bool {
	tried := make(map[string]bool) // by topic: all of a topic have the same takers
	for i, id := range slices.Backward(from.has) {
		if tried[a.topicOf[id]] {
			continue
		}
		tried[a.topicOf[id]] = true
		if to := a.fewest(id); to != nil && len(to.has)+1 < len(from.has) {
			from.has = slices.Delete(from.has, i, i+1)
			to.has = append(to.has, id)
			return true
		}
	}
	return false
}

package broker

import (
	"maps"
	"slices"
)

// maxWaiting bounds the pairs of topic and group whose counts wait. Those beyond are counted without a group.
const maxWaiting = 4096

// topicGroup names a pair of topic and consumer group.
type topicGroup struct{ topic, group string }

// waitingCounts is what was counted of a pair before it is known whether there is such a group.
type waitingCounts struct {
	records int
	errors  map[string]int // by error type
}

func (w *waitingCounts) add(records int, kind string) {
	w.records += records
	if kind == "" {
		return
	}
	if w.errors == nil {
		w.errors = make(map[string]int)
	}
	w.errors[kind]++
}

// count adds records, or an error where kind is set, of a topic and a group. Anybody may name any group, and a series is
// made for those only that exist: the counts of a pair that has no series wait for settle or settleErrors. A topic that does
// not exist is counted as "".
func (m *Metrics) count(topic, group string, records int, kind string) {
	if !m.countShown(topic, group, records, kind) && !m.wait(topicGroup{topic, group}, records, kind) {
		m.countShown(topic, "", records, kind)
	}
}

// countShown counts where there are series for it, and reports whether there are. It holds the lock to the end: a series
// that is removed meanwhile would be made again, and stay.
func (m *Metrics) countShown(topic, group string, records int, kind string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	groups, known := m.topics[topic]
	c := groups[group]
	if !known {
		topic, group, c = "", "", m.topicless
	}
	if c == nil {
		return false
	}
	c.Add(float64(records))
	if kind != "" {
		m.consumerErrors.WithLabelValues(topic, group, kind).Inc()
	}
	return true
}

// wait keeps counts for settle; false says that there is no room.
func (m *Metrics) wait(pair topicGroup, records int, kind string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.waiting[pair.group][pair.topic]
	if w == nil {
		if m.waitingPairs >= maxWaiting {
			return false
		}
		w = &waitingCounts{}
		m.waitingPairs++
		put(m.waiting, pair, w)
	}
	w.add(records, kind)
	select {
	case m.groupAdded <- struct{}{}:
	default:
	}
	return true
}

// settle counts what waits for a group: under its name where it exists, else as without a group. A group that does not
// exist loses its series.
func (m *Metrics) settle(group string, exists bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, w := range m.waiting[group] {
		if m.topics[topic] == nil {
			continue // it is gone
		}
		label := ""
		if exists {
			label = m.pairLocked(topicGroup{topic, group})
		}
		m.topics[topic][label].Add(float64(w.records))
		for kind, n := range w.errors {
			m.consumerErrors.WithLabelValues(topic, label, kind).Add(float64(n))
		}
	}
	m.waitingPairs -= len(m.waiting[group])
	delete(m.waiting, group)
	if !exists {
		m.removeGroupLocked(group)
	}
}

// settleErrors counts the errors that wait for a group as without a group: nobody says whether it exists, and an error is told
// while it matters. They do not move to the group later. Records go on waiting.
func (m *Metrics) settleErrors(group string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for topic, w := range m.waiting[group] {
		for kind, n := range w.errors {
			if m.topics[topic] != nil {
				m.consumerErrors.WithLabelValues(topic, "", kind).Add(float64(n))
			}
		}
		w.errors = nil
		if w.records == 0 {
			m.waitingPairs--
			drop(m.waiting, topicGroup{topic, group})
		}
	}
}

// put sets what by group and topic holds of a pair.
func put[V any](byGroup map[string]map[string]V, pair topicGroup, v V) {
	topics := byGroup[pair.group]
	if topics == nil {
		topics = make(map[string]V)
		byGroup[pair.group] = topics
	}
	topics[pair.topic] = v
}

// drop removes a pair, and its group with the last of its topics.
func drop[V any](byGroup map[string]map[string]V, pair topicGroup) {
	delete(byGroup[pair.group], pair.topic)
	if len(byGroup[pair.group]) == 0 {
		delete(byGroup, pair.group)
	}
}

// pairLocked makes the series of a pair, and returns the group under which it is counted.
func (m *Metrics) pairLocked(pair topicGroup) string {
	switch {
	case m.topics[pair.topic][pair.group] != nil:
		return pair.group
	case m.pairs < maxGroupSeries:
		m.pairs++
		put(m.shown, pair, m.addLocked(pair.topic, pair.group))
		return pair.group
	case m.topics[pair.topic][otherGroups] == nil:
		m.addLocked(pair.topic, otherGroups)
	}
	return otherGroups
}

// groups returns the names of the groups that have series, or counts that wait.
func (m *Metrics) groups() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	names := slices.Collect(maps.Keys(m.shown))
	for name := range m.waiting {
		if m.shown[name] == nil {
			names = append(names, name)
		}
	}
	return names
}

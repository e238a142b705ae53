package broker

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
// made for those only that exist: the counts of a pair that has no series wait for settle. A topic that does not exist is
// counted as "".
func (m *metrics) count(topic, group string, records int, kind string) {
	m.mu.RLock()
	groups, known := m.topics[topic]
	c := groups[group]
	m.mu.RUnlock()
	if !known {
		topic, group, c = "", "", m.topicless
	}
	if c == nil && !m.wait(topicGroup{topic, group}, records, kind) {
		group = ""
		m.mu.RLock()
		c = m.topics[topic][group]
		m.mu.RUnlock()
	}
	if c == nil {
		return // it waits, or the topic is gone
	}
	c.Add(float64(records))
	if kind != "" {
		m.consumerErrors.WithLabelValues(topic, group, kind).Inc()
	}
}

// wait keeps counts for settle; false says that there is no room.
func (m *metrics) wait(pair topicGroup, records int, kind string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.waiting[pair]
	if w == nil {
		if len(m.waiting) >= maxWaiting {
			return false
		}
		w = &waitingCounts{}
		m.waiting[pair] = w
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
func (m *metrics) settle(group string, exists bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for pair, w := range m.waiting {
		if pair.group != group {
			continue
		}
		delete(m.waiting, pair)
		if m.topics[pair.topic] == nil {
			continue // it is gone
		}
		label := ""
		if exists {
			label = m.pairLocked(pair)
		}
		m.topics[pair.topic][label].Add(float64(w.records))
		for kind, n := range w.errors {
			m.consumerErrors.WithLabelValues(pair.topic, label, kind).Add(float64(n))
		}
	}
	if !exists {
		m.removeGroupLocked(group)
	}
}

// pairLocked makes the series of a pair, and returns the group under which it is counted.
func (m *metrics) pairLocked(pair topicGroup) string {
	switch {
	case m.topics[pair.topic][pair.group] != nil:
		return pair.group
	case m.pairs < maxGroupSeries:
		m.pairs++
		m.addLocked(pair.topic, pair.group)
		return pair.group
	case m.topics[pair.topic][otherGroups] == nil:
		m.addLocked(pair.topic, otherGroups)
	}
	return otherGroups
}

// groups returns the names of the groups that have series, or counts that wait.
func (m *metrics) groups() []string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	seen := map[string]bool{"": true, otherGroups: true}
	var names []string
	add := func(name string) {
		if !seen[name] {
			seen[name] = true
			names = append(names, name)
		}
	}
	for _, groups := range m.topics {
		for name := range groups {
			add(name)
		}
	}
	for pair := range m.waiting {
		add(pair.group)
	}
	return names
}

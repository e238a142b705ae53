package history

// topicKind is what is done to a topic.
type topicKind uint8

const (
	createTopic topicKind = iota
	deleteTopic
	getTopic
)

func (k topicKind) String() string { return [...]string{"create", "delete", "get"}[k] }

// TopicOp is an operation on a topic's metadata.
type TopicOp struct {
	span
	h    *History
	kind topicKind
	node string
	name string
	// What the answer said: whether the topic was there, and its id, "" where that was not told.
	there bool
	id    string
	// raced says that another deletion of the name may have come in between, set by Check.
	raced bool
}

// CreateTopic notes that a node is asked to create a topic.
func (h *History) CreateTopic(node, name string) *TopicOp { return h.topicOp(createTopic, node, name) }

// DeleteTopic notes that a node is asked to delete a topic. It deletes the one that is there when the call comes: where
// another call has deleted that meanwhile it says yes all the same, as to a call that is tried again.
func (h *History) DeleteTopic(node, name string) *TopicOp { return h.topicOp(deleteTopic, node, name) }

// GetTopic notes that a node is asked for a topic. A node says yes from what it has, which may be old.
func (h *History) GetTopic(node, name string) *TopicOp { return h.topicOp(getTopic, node, name) }

func (h *History) topicOp(kind topicKind, node, name string) *TopicOp {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := &TopicOp{h: h, kind: kind, node: node, name: name}
	op.begin = h.tickLocked()
	h.topics = append(h.topics, op)
	return op
}

// OK notes that the topic was created or deleted, or is there. id is the topic's, "" where it is not known.
func (t *TopicOp) OK(id string) {
	t.h.end(&t.span, succeeded, nil, func() { t.id, t.there = id, t.kind != createTopic })
}

// Exists notes that it was not created because it is there.
func (t *TopicOp) Exists() { t.h.end(&t.span, succeeded, nil, func() { t.there = true }) }

// NotFound notes that it was not deleted or returned because it is not there.
func (t *TopicOp) NotFound() { t.h.end(&t.span, succeeded, nil, func() { t.there = false }) }

// Fail notes that nothing was done, and that nothing is known.
func (t *TopicOp) Fail(err error) { t.h.end(&t.span, failed, err, nil) }

// Unknown notes that it is not known whether it was done.
func (t *TopicOp) Unknown(err error) { t.h.end(&t.span, unknown, err, nil) }

// What a topic may be besides its id.
const (
	noTopic   = ""
	anonymous = "?" // it is there with an id that nobody has told yet
)

// step returns what a topic may be after the operation, nothing where its answer is impossible.
func (t *TopicOp) step(id string) []string {
	known := t.outcome == succeeded
	switch t.kind {
	case createTopic:
		return t.created(id, known)
	case deleteTopic:
		switch {
		case !known && id != noTopic:
			return []string{id, noTopic}
		case !known:
			return []string{id}
		case t.there == (id != noTopic), t.raced:
			return []string{noTopic}
		}
	case getTopic:
		switch {
		case !t.there && id == noTopic:
			return []string{noTopic}
		case t.there && id != noTopic && (t.id == "" || id == t.id):
			return []string{id}
		case t.there && id == anonymous:
			return []string{t.id}
		}
	}
	return nil
}

func (t *TopicOp) created(id string, known bool) []string {
	switch {
	case !known && id == noTopic:
		return []string{noTopic, anonymous}
	case !known:
		return []string{id}
	case t.there && id != noTopic: // it exists already
		return []string{id}
	case !t.there && id == noTopic && t.id == "":
		return []string{anonymous}
	case !t.there && id == noTopic:
		return []string{t.id}
	}
	return nil
}

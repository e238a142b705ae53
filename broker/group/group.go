package group

import (
	"maps"
	"slices"
)

// maxMembers bounds one group.
const maxMembers = 1000

// Group is one consumer group's membership. The zero value is an empty group. It is not safe for concurrent use.
type Group struct {
	epoch   int32
	topics  map[string][]uint64 // partition ids of what members subscribe to, as last told
	members map[string]*member
	owners  map[uint64]string // who has a partition assigned or still gives it up
	moving  bool              // the generation of epoch is not complete yet
	// topicBytes are the bytes of all members' topic names.
	topicBytes int
}

// member is one consumer.
type member struct {
	spec     Spec
	sequence int64 // of its newest heartbeat that changed something
	commit   int64 // sequence of its newest commit that was stored; 0 where none had one
	epoch    int32 // of the target that it has reached
	previous int32 // epoch before that, for an answer that was lost
	away     bool  // a static member that has left for a while
	assigned []uint64
	revoking []uint64 // to be given up before anything new is assigned
	target   []uint64
}

// Spec is what a member says of itself.
type Spec struct {
	// MemberID is minted by the client, and unique.
	MemberID string
	// InstanceID, when not empty, makes the member static: it may leave and come back without a rebalance.
	InstanceID string
	// ClientID and ClientHost are shown to operators.
	ClientID, ClientHost string
	// Topics are what it subscribes to, in order.
	Topics []string
	// SessionTimeoutMs is for how long it may be silent.
	SessionTimeoutMs int32
	// RebalanceTimeoutMs is for how long it may go on owning what it must give up.
	RebalanceTimeoutMs int32
}

func (s Spec) equal(o Spec) bool {
	return slices.Equal(s.Topics, o.Topics) && s.MemberID == o.MemberID && s.InstanceID == o.InstanceID && s.ClientID == o.ClientID &&
		s.ClientHost == o.ClientHost && s.SessionTimeoutMs == o.SessionTimeoutMs && s.RebalanceTimeoutMs == o.RebalanceTimeoutMs
}

// Heartbeat is a member's sign of life.
type Heartbeat struct {
	Spec Spec
	// Sequence grows with every heartbeat of a member. An attempt that arrives late, after a newer heartbeat, would tell of
	// partitions that the member did not own then and does now; it is known by its sequence.
	Sequence int64
	// Epoch is the member's; 0 joins.
	Epoch int32
	// Owned is what the member still works on.
	Owned []uint64
	// Topics are the partition ids of all topics of Spec.Topics and of Group.Topics that exist.
	Topics map[string][]uint64
}

// Answer is what a member gets.
type Answer struct {
	// Epoch is the member's from now on.
	Epoch int32
	// Assigned is what the member may work on, in order of ids. What it owns beside that it must give up.
	Assigned []uint64
	// Waiting is set while the member has not all that it should have, or too much: its next heartbeat should come soon.
	Waiting bool
	// Completed is set when this made the generation complete: every member has what it should have.
	Completed bool
}

// Epoch returns the group's epoch: it grows whenever members, subscriptions or partitions change.
func (g *Group) Epoch() int32 { return g.epoch }

// Empty reports whether the group has no members.
func (g *Group) Empty() bool { return len(g.members) == 0 }

// Topics returns the names of what the members subscribe to, in order.
func (g *Group) Topics() []string {
	names := make(map[string]bool)
	for _, m := range g.members {
		for _, t := range m.spec.Topics {
			names[t] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Heartbeat takes a member in, or lets it go on. Errors are ErrUnknownMember, ErrFencedEpoch, ErrInstanceInUse and
// ErrFull; then nothing has changed. The same heartbeat twice is answered twice and taken once.
func (g *Group) Heartbeat(h Heartbeat) (Answer, error) {
	m, err := g.find(h)
	if err != nil {
		return Answer{}, err
	}
	if m != nil && h.Sequence == m.sequence {
		return m.answer(), nil
	}
	isNew := false
	if m == nil {
		if m, isNew, err = g.join(h); err != nil {
			return Answer{}, err
		}
	}
	resubscribed := !slices.Equal(m.spec.Topics, h.Spec.Topics)
	g.topicBytes += h.Spec.TopicBytes() - m.spec.TopicBytes()
	m.spec, m.sequence, m.away = h.Spec, h.Sequence, false
	if topics := g.subscribed(h.Topics); isNew || resubscribed || !equalTopics(g.topics, topics) {
		g.topics = topics
		g.retarget()
	}
	if h.Epoch == 0 {
		h.Owned = nil
	}
	g.reconcile(m, h.Owned)
	answer := m.answer()
	answer.Completed = g.complete()
	return answer, nil
}

// Settled answers a heartbeat that changes nothing; ok is false for every other.
func (g *Group) Settled(h Heartbeat) (answer Answer, ok bool) {
	m := g.members[h.Spec.MemberID]
	if m == nil || m.away || h.Epoch == 0 || h.Epoch != m.epoch || h.Sequence < m.sequence || !m.spec.equal(h.Spec) ||
		!equalTopics(g.topics, g.subscribed(h.Topics)) {
		return Answer{}, false
	}
	if len(m.revoking) > 0 {
		return m.answer(), intersect(m.revoking, h.Owned)
	}
	if m.epoch != g.epoch {
		return Answer{}, false
	}
	for _, id := range m.target {
		if g.owners[id] == "" {
			return Answer{}, false
		}
	}
	return m.answer(), true
}

func (m *member) answer() Answer {
	return Answer{
		Epoch: m.epoch, Assigned: slices.Clone(m.assigned), Waiting: len(m.revoking) > 0 || len(m.assigned) != len(m.target),
	}
}

// find returns the member that a heartbeat comes from; nil when it is new.
func (g *Group) find(h Heartbeat) (*member, error) {
	m := g.members[h.Spec.MemberID]
	switch {
	case m == nil && h.Epoch == 0:
		return nil, nil
	case m == nil:
		return nil, ErrUnknownMember
	case m.away && (h.Epoch != 0 || h.Sequence <= m.sequence):
		return nil, ErrUnknownMember // it was sent before the member left; only a join brings it back
	case m.spec.InstanceID != h.Spec.InstanceID:
		return nil, ErrInstanceInUse
	case h.Sequence < m.sequence:
		return nil, ErrFencedEpoch
	case h.Epoch == 0, h.Epoch == m.epoch, h.Sequence == m.sequence:
		return m, nil
	case h.Epoch == m.previous && contains(m.assigned, h.Owned): // the answer that told the new epoch was lost
		return m, nil
	default:
		return nil, ErrFencedEpoch
	}
}

// join adds a member, or gives a static one that was away back what it had; then it is not new.
func (g *Group) join(h Heartbeat) (m *member, isNew bool, err error) {
	if old := g.instance(h.Spec.InstanceID); old != nil {
		if !old.away {
			return nil, false, ErrInstanceInUse
		}
		delete(g.members, old.spec.MemberID)
		g.members[h.Spec.MemberID] = old
		old.commit = 0 // another client, which counts anew
		g.own(h.Spec.MemberID, old.assigned)
		return old, false, nil
	}
	if len(g.members) >= maxMembers {
		return nil, false, ErrFull
	}
	m = &member{spec: h.Spec}
	g.topicBytes += h.Spec.TopicBytes()
	if g.members == nil {
		g.members, g.owners = make(map[string]*member), make(map[uint64]string)
	}
	g.members[h.Spec.MemberID] = m
	return m, true, nil
}

// instance returns the member with this instance id.
func (g *Group) instance(id string) *member {
	if id == "" {
		return nil
	}
	for _, m := range g.members {
		if m.spec.InstanceID == id {
			return m
		}
	}
	return nil
}

// Leave removes a member, which gives up all that it owns. With away a static member stays for its session, without
// what it owns being moved. epoch is the member's; 0 where it does not know it, since the answer to its join is not
// there; or negative where the coordinator removes it, because its session has ended or it did not give up what it had
// to. Errors are ErrUnknownMember and ErrFencedEpoch.
func (g *Group) Leave(memberID string, epoch int32, away bool) (completed bool, err error) {
	m := g.members[memberID]
	if m == nil {
		return false, ErrUnknownMember
	}
	if epoch > 0 && epoch != m.epoch && epoch != m.previous {
		return false, ErrFencedEpoch
	}
	if away && m.spec.InstanceID != "" {
		g.release(m.revoking)
		m.away, m.revoking = true, nil
		return g.complete(), nil
	}
	g.release(m.assigned)
	g.release(m.revoking)
	delete(g.members, memberID)
	g.topicBytes -= m.spec.TopicBytes()
	g.topics = g.subscribed(g.topics)
	g.retarget()
	return g.complete(), nil
}

// Check says whether a member may commit for a partition: in its own epoch, for what it owns or is giving up. Errors are
// ErrUnknownMember, ErrFencedEpoch and ErrNotOwned.
func (g *Group) Check(memberID string, epoch int32, partitionID uint64) error {
	m := g.members[memberID]
	switch {
	case m == nil || m.away:
		return ErrUnknownMember
	case epoch != m.epoch:
		return ErrFencedEpoch
	case g.owners[partitionID] != memberID:
		return ErrNotOwned
	default:
		return nil
	}
}

// Stored reports whether a member's commit was stored before: then it must change nothing, whatever the member's epoch is by
// now. A sequence of 0 is of no commit that is known. Errors are ErrUnknownMember, and ErrStaleCommit for a commit that comes
// behind a newer one.
func (g *Group) Stored(memberID string, sequence int64) (bool, error) {
	m := g.members[memberID]
	switch {
	case m == nil || m.away:
		return false, ErrUnknownMember
	case sequence == 0:
		return false, nil
	case sequence < m.commit:
		return false, ErrStaleCommit
	default:
		return sequence == m.commit, nil
	}
}

// Committed notes that a member's commit is stored. A sequence of 0 is forgotten.
func (g *Group) Committed(memberID string, sequence int64) {
	if m := g.members[memberID]; m != nil {
		m.commit = max(m.commit, sequence)
	}
}

// retarget begins a new epoch with a new target. Partitions that are gone have no owner.
func (g *Group) retarget() {
	g.epoch++
	g.moving = len(g.members) > 0
	consumers := make([]consumer, 0, len(g.members))
	for id, m := range g.members {
		c := consumer{id: id, topics: make(map[string]bool, len(m.spec.Topics)), has: slices.Clone(m.target)}
		for _, t := range m.spec.Topics {
			c.topics[t] = true
		}
		consumers = append(consumers, c)
	}
	target := assign(g.topics, consumers)
	for id, m := range g.members {
		m.target = target[id]
	}
}

// reconcile brings a member nearer to its target: first it gives up, then it takes what nobody has any more.
func (g *Group) reconcile(m *member, owned []uint64) {
	if intersect(m.revoking, owned) {
		return
	}
	g.release(m.revoking)
	m.revoking = without(m.assigned, m.target)
	m.assigned = without(m.assigned, m.revoking)
	if intersect(m.revoking, owned) {
		return
	}
	g.release(m.revoking)
	m.revoking = nil
	if m.epoch != g.epoch {
		m.previous, m.epoch = m.epoch, g.epoch
	}
	for _, id := range m.target {
		if g.owners[id] == "" {
			g.owners[id] = m.spec.MemberID
			m.assigned = append(m.assigned, id)
		}
	}
	slices.Sort(m.assigned)
}

func (g *Group) release(ids []uint64) {
	for _, id := range ids {
		delete(g.owners, id)
	}
}

func (g *Group) own(memberID string, ids []uint64) {
	for _, id := range ids {
		g.owners[id] = memberID
	}
}

// complete reports, once for each generation, that every member has its target.
func (g *Group) complete() bool {
	if !g.moving {
		return false
	}
	for _, m := range g.members {
		if m.epoch != g.epoch || len(m.assigned) != len(m.target) {
			return false
		}
	}
	g.moving = false
	return true
}

// subscribed returns those topics that a member subscribes to.
func (g *Group) subscribed(topics map[string][]uint64) map[string][]uint64 {
	out := make(map[string][]uint64, len(topics))
	for _, m := range g.members {
		for _, t := range m.spec.Topics {
			if ids, ok := topics[t]; ok {
				out[t] = ids
			}
		}
	}
	return out
}

func equalTopics(a, b map[string][]uint64) bool { return maps.EqualFunc(a, b, slices.Equal[[]uint64]) }

// contains reports whether all of part are in the ordered list all.
func contains(all, part []uint64) bool {
	for _, id := range part {
		if _, ok := slices.BinarySearch(all, id); !ok {
			return false
		}
	}
	return true
}

// intersect reports whether the ordered list a has something of b.
func intersect(a, b []uint64) bool {
	for _, id := range b {
		if _, ok := slices.BinarySearch(a, id); ok {
			return true
		}
	}
	return false
}

// without returns what of the ordered list a is not in the ordered list b, in a new slice.
func without(a, b []uint64) []uint64 {
	var out []uint64
	for _, id := range a {
		if _, ok := slices.BinarySearch(b, id); !ok {
			out = append(out, id)
		}
	}
	return out
}

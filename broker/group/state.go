package group

import (
	"fmt"
	"maps"
	"slices"
)

// State is all that a group is, to show it and to store it.
type State struct {
	// Epoch is the group's epoch.
	Epoch int32
	// Moving is set until every member has what the epoch gives to it.
	Moving bool
	// Topics are the partition ids of what members subscribe to.
	Topics map[string][]uint64
	// Members are in order of their ids.
	Members []Member
}

// Member is one member's part of a State.
type Member struct {
	Spec Spec
	// Sequence is that of the newest heartbeat that changed something.
	Sequence int64
	// CommitSequence is that of the newest commit that was stored, 0 where none had one.
	CommitSequence int64
	// Epoch is the one that the member has reached, PreviousEpoch the one before.
	Epoch, PreviousEpoch int32
	// Away is set for a static member that has left for a while.
	Away bool
	// Assigned is what the member may work on, Revoking what it has yet to give up, Target what it should have in the
	// end; partition ids in order.
	Assigned, Revoking, Target []uint64
}

// State returns a copy of the group's state.
func (g *Group) State() State {
	s := State{Epoch: g.epoch, Moving: g.moving, Topics: maps.Clone(g.topics)}
	for _, id := range slices.Sorted(maps.Keys(g.members)) {
		m := g.members[id]
		s.Members = append(s.Members, Member{
			Spec: m.spec, Sequence: m.sequence, CommitSequence: m.commit, Epoch: m.epoch, PreviousEpoch: m.previous, Away: m.away,
			Assigned: slices.Clone(m.assigned), Revoking: slices.Clone(m.revoking), Target: slices.Clone(m.target),
		})
	}
	return s
}

// Restore returns the group of a state. The error says what of the state can't be.
func Restore(s State) (*Group, error) {
	g := &Group{
		epoch: s.Epoch, moving: s.Moving, topics: s.Topics,
		members: make(map[string]*member, len(s.Members)), owners: make(map[uint64]string),
	}
	for _, m := range s.Members {
		id := m.Spec.MemberID
		if id == "" || g.members[id] != nil {
			return nil, fmt.Errorf("member %q is there twice or has no id", id)
		}
		if !slices.IsSorted(m.Assigned) || !slices.IsSorted(m.Revoking) || !slices.IsSorted(m.Target) {
			return nil, fmt.Errorf("partitions of member %q are not in order", id)
		}
		g.members[id] = &member{
			spec: m.Spec, sequence: m.Sequence, commit: m.CommitSequence, epoch: m.Epoch, previous: m.PreviousEpoch, away: m.Away,
			assigned: m.Assigned, revoking: m.Revoking, target: m.Target,
		}
		g.topicBytes += m.Spec.TopicBytes()
		for _, p := range slices.Concat(m.Assigned, m.Revoking) {
			if other := g.owners[p]; other != "" {
				return nil, fmt.Errorf("partition id %d has the owners %q and %q", p, other, id)
			}
			g.owners[p] = id
		}
	}
	return g, nil
}

// Each calls fn for every member, in no order.
func (g *Group) Each(fn func(s Spec, revoking bool)) {
	for _, m := range g.members {
		fn(m.spec, len(m.revoking) > 0)
	}
}

// Instance returns the member that has an instance id.
func (g *Group) Instance(id string) (s Spec, ok bool) {
	m := g.instance(id)
	if m == nil {
		return Spec{}, false
	}
	return m.spec, true
}

// EachOwned calls fn for every partition that a member has assigned or still gives up, in no order.
func (g *Group) EachOwned(fn func(partitionID uint64)) {
	for id := range g.owners {
		fn(id)
	}
}

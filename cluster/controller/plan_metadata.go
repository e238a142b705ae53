package controller

import (
	"cmp"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// wantedVoters is how many voters the metadata group has in a cluster of so many nodes.
func wantedVoters(nodes int) int {
	switch {
	case nodes >= 5:
		return 5
	case nodes >= 3:
		return 3
	default:
		return 1
	}
}

// metadataNode returns the node whose present metadata replica this is.
func (p *planner) metadataNode(replicaID string) (*fsm.Node, bool) {
	n, ok := p.view.Node(fsm.NodeOf(replicaID))
	if !ok || n.MetadataReplicaID != replicaID {
		return nil, false
	}
	return n, true
}

// lives reports whether a replica of the metadata group is its node's present one, and the node is there.
func (p *planner) lives(replicaID string) bool {
	n, ok := p.metadataNode(replicaID)
	return ok && p.o.Alive[n.ID]
}

// keepsVote reports whether a voter of the metadata group is to stay one.
func (p *planner) keepsVote(replicaID string) bool {
	n, ok := p.metadataNode(replicaID)
	return ok && n.State == metav1.NodeState_NODE_STATE_ACTIVE && !p.o.deadLong(n.ID)
}

// planMetadata takes one step towards: every node has a replica of the metadata
// group, and 1, 3 or 5 of them vote.
func (p *planner) planMetadata() {
	g := p.o.group(Metadata)
	if !g.Known() {
		return
	}
	want, keep := wantedVoters(p.members()), p.keptVotes(g)
	if keep < want && p.promoteMetadata(g) {
		return
	}
	if p.addMetadata(g) {
		return
	}
	if p.removeStale(g, keep >= want) {
		return
	}
	if len(g.voters()) > want && keep >= want {
		p.demoteMetadata(g)
	}
	if keep < want && p.metadataCandidates(g) > 0 {
		p.busy[Metadata] = true // Somebody is catching up.
	}
}

func (p *planner) keptVotes(g *Group) int {
	keep := 0
	for _, s := range g.voters() {
		if p.keepsVote(s.ReplicaID) {
			keep++
		}
	}
	return keep
}

// metadataLooks returns the non-voters of which it matters whether they have
// caught up: those that may get a vote that is missing, and those of nodes that
// were removed and should learn it.
func (p *planner) metadataLooks(g *Group) []string {
	missing := p.keptVotes(g) < wantedVoters(p.members())
	var ids []string
	for _, s := range g.Servers {
		_, known := p.view.Node(fsm.NodeOf(s.ReplicaID))
		if !s.Voter && (!known || missing && p.mayVote(s)) {
			ids = append(ids, s.ReplicaID)
		}
	}
	return ids
}

// mayVote reports whether a non-voter may become a voter.
func (p *planner) mayVote(s Server) bool {
	n, ok := p.metadataNode(s.ReplicaID)
	return ok && !s.Voter && p.usable(n)
}

func (p *planner) metadataCandidates(g *Group) int {
	n := 0
	for _, s := range g.Servers {
		if p.mayVote(s) {
			n++
		}
	}
	return n
}

// promoteMetadata makes a non-voter that has caught up a voter: of a zone with the fewest votes, then by its id.
func (p *planner) promoteMetadata(g *Group) bool {
	voting := make(map[string]bool)
	for _, s := range g.voters() {
		if p.keepsVote(s.ReplicaID) {
			voting[fsm.NodeOf(s.ReplicaID)] = true
		}
	}
	zones := p.zonesOf(voting)
	zone := func(replicaID string) int {
		n, _ := p.view.Node(fsm.NodeOf(replicaID))
		return zones[n.Zone]
	}
	ready := slices.DeleteFunc(slices.Clone(g.Servers), func(s Server) bool { return !p.mayVote(s) || !s.CaughtUp })
	if len(ready) == 0 {
		return false
	}
	best := slices.MinFunc(ready, func(a, b Server) int {
		return cmp.Or(cmp.Compare(zone(a.ReplicaID), zone(b.ReplicaID)), cmp.Compare(a.ReplicaID, b.ReplicaID))
	})
	p.change(Metadata, nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE, best.ReplicaID)
	return true
}

// addMetadata gives a node its replica of the metadata group.
func (p *planner) addMetadata(g *Group) bool {
	for _, n := range p.view.Nodes() {
		if _, ok := g.server(n.MetadataReplicaID); ok || !p.o.Alive[n.ID] {
			continue
		}
		p.change(Metadata, nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER, n.MetadataReplicaID)
		return true
	}
	return false
}

// removeStale removes a server that is no node's present replica. A voter goes
// only once it is replaced; a node that was removed from the cluster first learns it.
func (p *planner) removeStale(g *Group, replaced bool) bool {
	for _, s := range g.Servers {
		if _, ok := p.metadataNode(s.ReplicaID); ok {
			continue
		}
		if s.Voter && !replaced {
			continue
		}
		_, known := p.view.Node(fsm.NodeOf(s.ReplicaID))
		if !s.Voter && !known && s.Answers && !s.CaughtUp {
			p.busy[Metadata] = true
			continue
		}
		if p.remove(Metadata, s, p.lives) {
			return true
		}
	}
	return false
}

// demoteMetadata takes the vote from one that should not have it, or from one too
// many. It is removed, and comes back as a non-voter.
func (p *planner) demoteMetadata(g *Group) {
	voters := g.voters()
	rank := func(s Server) int {
		switch {
		case !p.keepsVote(s.ReplicaID):
			return 0
		case !p.lives(s.ReplicaID):
			return 1
		case s.ReplicaID != g.Leader:
			return 2
		default:
			return 3
		}
	}
	slices.SortFunc(voters, func(a, b Server) int {
		return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(b.ReplicaID, a.ReplicaID))
	})
	p.remove(Metadata, voters[0], p.lives)
}

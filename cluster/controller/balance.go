package controller

import (
	"slices"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// spreadGap is how many more replicas or leaderships a node must have than
	// another before one moves; below 2 they would move for ever.
	spreadGap = 2
	// spreadAfter is how long a leader must have led before it hands over only to even out.
	spreadAfter = 5 * time.Second
)

// move is one replica to be had by another node.
type move struct {
	shard    *fsm.Shard
	to       string
	zoneGain int
	gap      int
}

func (m *move) better(than *move) bool {
	if than == nil {
		return true
	}
	if m.zoneGain != than.zoneGain {
		return m.zoneGain > than.zoneGain
	}
	return m.gap > than.gap
}

// balanceReplicas wishes for one replica on a node that has fewer than others or
// is in a zone of its own. The shard then has one too many, and gives up the one
// that is worst placed. One shard moves at a time, when all others are settled.
func (p *planner) balanceReplicas() {
	for n := range p.view.NumShards() {
		if !p.settled(GroupID(n)) {
			return
		}
	}
	var best *move
	for _, s := range p.view.Shards() {
		if len(s.Replicas) > wantedReplicas || !p.allFine(s) {
			continue
		}
		for _, n := range p.view.Nodes() {
			if m := p.moveTo(s, n); m != nil && m.better(best) {
				best = m
			}
		}
	}
	if best == nil {
		return
	}
	p.load[best.to]++
	p.wish(best.shard, append(slices.Clip(best.shard.Replicas), p.newReplica(best.to)))
}

func (p *planner) allFine(s *fsm.Shard) bool {
	for _, r := range s.Replicas {
		if !p.fine(r) || !p.o.Alive[r.GetNodeId()] {
			return false
		}
	}
	return len(s.Replicas) == wantedReplicas
}

// moveTo returns what a replica of the shard on another node would gain, or nil.
func (p *planner) moveTo(s *fsm.Shard, to *fsm.Node) *move {
	if !p.usable(to) {
		return nil
	}
	nodes := make(map[string]bool)
	for _, r := range s.Replicas {
		nodes[r.GetNodeId()] = true
	}
	if nodes[to.ID] {
		return nil
	}
	var best *move
	for _, r := range s.Replicas {
		before := len(p.zonesOf(nodes))
		nodes[r.GetNodeId()], nodes[to.ID] = false, true
		after := len(p.zonesOf(nodes))
		nodes[r.GetNodeId()], nodes[to.ID] = true, false
		m := &move{shard: s, to: to.ID, zoneGain: after - before, gap: p.load[r.GetNodeId()] - p.load[to.ID]}
		if (m.zoneGain > 0 || m.zoneGain == 0 && m.gap >= spreadGap) && m.better(best) {
			best = m
		}
	}
	return best
}

// spreadLeaders hands over one shard, led for longest, from a node that leads
// more than another of its replicas' nodes by spreadGap.
func (p *planner) spreadLeaders() {
	leads := p.leaders()
	var best *Transfer
	var bestGap int
	var bestLed time.Duration
	for _, s := range p.view.Shards() {
		id := GroupID(s.Number)
		g := p.o.group(id)
		if !p.settled(id) || g.LedFor < spreadAfter {
			continue
		}
		good := p.goodVoter(s)
		for _, srv := range g.voters() {
			nodeID := fsm.NodeOf(srv.ReplicaID)
			gap := leads[fsm.NodeOf(g.Leader)] - leads[nodeID]
			if gap < spreadGap || !good(srv.ReplicaID) || !p.nodeUsable(nodeID) {
				continue
			}
			if gap > bestGap || gap == bestGap && g.LedFor > bestLed {
				best = &Transfer{Group: id, Leader: g.Leader, To: srv.ReplicaID, Spread: true}
				bestGap, bestLed = gap, g.LedFor
			}
		}
	}
	if best != nil {
		p.add(best.Group, best)
	}
}

// activeNodes returns the nodes that may hold replicas.
func activeNodes(view *fsm.View, alive func(nodeID string) bool) []*fsm.Node {
	var active []*fsm.Node
	for _, n := range view.Nodes() {
		if n.State == metav1.NodeState_NODE_STATE_ACTIVE && alive(n.ID) {
			active = append(active, n)
		}
	}
	return active
}

package controller

import (
	"cmp"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// wantedReplicas is how many replicas a shard has where there are nodes for them.
const wantedReplicas = 3

// Plan returns the next steps, at most one membership change or wish for each
// group. It is pure; the steps may be taken at once.
func Plan(view *fsm.View, o *Observation) []Action {
	return newPlanner(view, o).plan()
}

// planner gathers the steps of one look.
type planner struct {
	view    *fsm.View
	o       *Observation
	actions []Action
	busy    map[GroupID]bool // a step was found, or something is under way
	// load counts the replicas that a node is to hold, with what is planned here.
	load map[string]int
}

func newPlanner(view *fsm.View, o *Observation) *planner {
	p := &planner{view: view, o: o, busy: make(map[GroupID]bool), load: make(map[string]int)}
	for _, s := range view.Shards() {
		for _, r := range s.Replicas {
			if !isLost(r) {
				p.load[r.GetNodeId()]++
			}
		}
	}
	return p
}

func (p *planner) plan() []Action {
	if p.view.ClusterID() == "" {
		return nil
	}
	p.raiseFeatureLevel()
	p.planMetadata()
	p.createShards()
	for _, s := range p.view.Shards() {
		p.planShard(s)
	}
	p.balanceReplicas()
	p.spreadLeaders()
	p.removeNodes()
	return p.actions
}

// raiseFeatureLevel switches the cluster to what all its nodes support. It concerns no group, so none waits for it.
func (p *planner) raiseFeatureLevel() {
	nodes := p.view.Nodes()
	if len(nodes) == 0 {
		return
	}
	level := uint32(fsm.FeatureLevel)
	for _, n := range nodes {
		level = min(level, n.FeatureLevel)
	}
	if level > p.view.FeatureLevel() {
		p.actions = append(p.actions, &Propose{Command: &metav1.Command{Command: &metav1.Command_SetFeatureLevel{
			SetFeatureLevel: &metav1.SetFeatureLevel{Level: level},
		}}})
	}
}

func (p *planner) add(id GroupID, a Action) {
	p.busy[id] = true
	p.actions = append(p.actions, a)
}

// settled reports whether a group is known and nothing is to be done or under way in it.
func (p *planner) settled(id GroupID) bool { return !p.busy[id] && p.o.group(id).Known() }

// waiting reports whether something is under way, so that the next look should come soon.
func (p *planner) waiting() bool { return len(p.busy) > 0 }

func isLost(r *metav1.Replica) bool { return r.GetState() == metav1.ReplicaState_REPLICA_STATE_LOST }

func isStarted(r *metav1.Replica) bool {
	return r.GetState() == metav1.ReplicaState_REPLICA_STATE_STARTED
}

// usable reports whether a node may get replicas.
func (p *planner) usable(n *fsm.Node) bool {
	return n.State == metav1.NodeState_NODE_STATE_ACTIVE && p.o.Alive[n.ID]
}

func (p *planner) nodeUsable(nodeID string) bool {
	n, ok := p.view.Node(nodeID)
	return ok && p.usable(n)
}

// leaving reports whether a node is to give its replicas away.
func (p *planner) leaving(nodeID string) bool {
	n, ok := p.view.Node(nodeID)
	return !ok || n.State != metav1.NodeState_NODE_STATE_ACTIVE
}

// members counts the nodes that the cluster is to be served by, whether or not
// they are there now. Only decommissioning makes it smaller.
func (p *planner) members() int {
	n := 0
	for _, node := range p.view.Nodes() {
		if node.State != metav1.NodeState_NODE_STATE_DECOMMISSIONING {
			n++
		}
	}
	return n
}

// place returns the best node for one more replica beside those on the nodes of
// taken, and false when there is none: another zone first, then the least loaded.
func (p *planner) place(taken map[string]bool) (string, bool) {
	zones := p.zonesOf(taken)
	var best []*fsm.Node
	for _, n := range p.view.Nodes() {
		if p.usable(n) && !taken[n.ID] {
			best = append(best, n)
		}
	}
	if len(best) == 0 {
		return "", false
	}
	return slices.MinFunc(best, func(a, b *fsm.Node) int {
		return cmp.Or(
			cmp.Compare(zones[a.Zone], zones[b.Zone]),
			cmp.Compare(p.load[a.ID], p.load[b.ID]),
			cmp.Compare(a.ID, b.ID),
		)
	}).ID, true
}

// zonesOf counts how many of the nodes are in each zone.
func (p *planner) zonesOf(nodes map[string]bool) map[string]int {
	zones := make(map[string]int)
	for id, in := range nodes {
		if n, ok := p.view.Node(id); ok && in {
			zones[n.Zone]++
		}
	}
	return zones
}

func (p *planner) change(id GroupID, change nodev1.MembershipChange, replicaID string) {
	g := p.o.group(id)
	p.add(id, &ChangeMembership{Group: id, Leader: g.Leader, Change: change, ReplicaID: replicaID, Index: g.Index})
}

// remove removes a server from a group, if that leaves a majority that is there.
// The leader hands over first.
func (p *planner) remove(id GroupID, s Server, good func(replicaID string) bool) bool {
	g := p.o.group(id)
	if !s.Voter {
		p.change(id, nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE, s.ReplicaID)
		return true
	}
	if !g.majorityWithout(s.ReplicaID, good) {
		return false
	}
	if s.ReplicaID == g.Leader {
		return p.transfer(id, good)
	}
	p.change(id, nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE, s.ReplicaID)
	return true
}

// transfer hands a group over to the good voter whose node leads the fewest shards.
func (p *planner) transfer(id GroupID, good func(replicaID string) bool) bool {
	g := p.o.group(id)
	leads := p.leaders()
	to := ""
	for _, s := range g.voters() {
		if s.ReplicaID == g.Leader || !good(s.ReplicaID) {
			continue
		}
		if to == "" || leads[fsm.NodeOf(s.ReplicaID)] < leads[fsm.NodeOf(to)] {
			to = s.ReplicaID
		}
	}
	if to == "" {
		return false
	}
	p.add(id, &Transfer{Group: id, Leader: g.Leader, To: to})
	return true
}

// leaders counts the shards that each node leads.
func (p *planner) leaders() map[string]int {
	leads := make(map[string]int)
	for _, s := range p.view.Shards() {
		if g := p.o.group(GroupID(s.Number)); g.Known() {
			leads[fsm.NodeOf(g.Leader)]++
		}
	}
	return leads
}

// removeNodes forgets nodes that were decommissioned and hold nothing any more.
func (p *planner) removeNodes() {
	for _, n := range p.view.Nodes() {
		if n.State != metav1.NodeState_NODE_STATE_DECOMMISSIONING || !p.empty(n) {
			continue
		}
		p.busy[Metadata] = true
		p.actions = append(p.actions, &Propose{Command: &metav1.Command{Command: &metav1.Command_RemoveNode{
			RemoveNode: &metav1.RemoveNode{NodeId: n.ID, Incarnation: n.Incarnation},
		}}})
	}
}

// empty reports whether a node holds no replica, neither in the wish nor in any
// configuration, and has no vote in the metadata group.
func (p *planner) empty(n *fsm.Node) bool {
	meta := p.o.group(Metadata)
	if !meta.Known() {
		return false
	}
	if s, ok := meta.server(n.MetadataReplicaID); ok && s.Voter {
		return false
	}
	for _, s := range p.view.Shards() {
		if slices.ContainsFunc(s.Replicas, func(r *metav1.Replica) bool { return r.GetNodeId() == n.ID }) {
			return false
		}
		g := p.o.group(GroupID(s.Number))
		if !g.Known() || slices.ContainsFunc(g.Servers, func(s Server) bool { return fsm.NodeOf(s.ReplicaID) == n.ID }) {
			return false
		}
	}
	return true
}

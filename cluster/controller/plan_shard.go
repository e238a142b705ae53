package controller

import (
	"cmp"
	"slices"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// unstartedAfter is how long the node may be away that is to begin a shard; nothing
// was written then, so another one may begin it.
const unstartedAfter = 10 * time.Second

// createShards creates the shards that are missing, spread over the nodes.
func (p *planner) createShards() {
	for n := range p.view.NumShards() {
		s, ok := p.view.Shard(n)
		if ok && !p.stuck(s) {
			continue
		}
		taken := make(map[string]bool)
		if ok {
			taken[fsm.NodeOf(s.Initial)] = !p.nodeUsable(fsm.NodeOf(s.Initial))
		}
		nodeID, found := p.place(taken)
		if !found {
			continue
		}
		p.load[nodeID]++
		p.add(GroupID(n), &Propose{Command: &metav1.Command{Command: &metav1.Command_CreateShard{
			CreateShard: &metav1.CreateShard{Shard: n, Replica: p.newReplica(nodeID)},
		}}})
	}
}

// stuck reports whether a shard has not begun and won't where it is to begin.
func (p *planner) stuck(s *fsm.Shard) bool {
	r, ok := s.Replica(s.Initial)
	if !ok {
		return false
	}
	dead := !p.o.Alive[r.GetNodeId()] && p.o.DeadFor[r.GetNodeId()] >= min(unstartedAfter, p.o.ReplaceAfter)
	return isLost(r) || dead
}

func (p *planner) newReplica(nodeID string) *metav1.Replica {
	return &metav1.Replica{
		ReplicaId: p.o.NewReplicaID(nodeID), NodeId: nodeID, State: metav1.ReplicaState_REPLICA_STATE_NEW,
	}
}

// planShard takes one step in one shard: the truth follows the wish, then the wish changes.
func (p *planner) planShard(s *fsm.Shard) {
	id := GroupID(s.Number)
	if p.busy[id] {
		return
	}
	if s.Initial != "" {
		p.busy[id] = true // It is about to begin.
		return
	}
	g := p.o.group(id)
	if !g.Known() {
		return
	}
	if p.leaveLead(s, g) || p.followWish(s, g) || p.busy[id] {
		return
	}
	if !p.completeWish(s) {
		p.reduceWish(s, g)
	}
}

// leaveLead takes the leadership from a node that is to be emptied.
func (p *planner) leaveLead(s *fsm.Shard, g *Group) bool {
	if !p.leaving(fsm.NodeOf(g.Leader)) {
		return false
	}
	good := p.goodVoter(s)
	return p.transfer(GroupID(s.Number), func(replicaID string) bool {
		return good(replicaID) && !p.leaving(fsm.NodeOf(replicaID))
	})
}

// goodVoter returns what says whether a voter of the shard counts: it is wished
// for, not lost, and its node is there.
func (p *planner) goodVoter(s *fsm.Shard) func(replicaID string) bool {
	return func(replicaID string) bool {
		r, ok := s.Replica(replicaID)
		return ok && isStarted(r) && p.o.Alive[r.GetNodeId()]
	}
}

// followWish changes the configuration by one server towards the wish.
func (p *planner) followWish(s *fsm.Shard, g *Group) bool {
	id := GroupID(s.Number)
	for _, srv := range g.Servers {
		r, ok := s.Replica(srv.ReplicaID)
		if !ok || srv.Voter || isLost(r) || !p.o.Alive[r.GetNodeId()] {
			continue
		}
		if srv.CaughtUp {
			p.change(id, nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE, srv.ReplicaID)
			return true
		}
		p.busy[id] = true // It is catching up.
	}
	for _, r := range s.Replicas {
		if _, ok := g.server(r.GetReplicaId()); ok || isLost(r) {
			continue
		}
		if isStarted(r) && p.o.Alive[r.GetNodeId()] {
			p.change(id, nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER, r.GetReplicaId())
			return true
		}
		p.busy[id] = p.busy[id] || p.o.Alive[r.GetNodeId()] // Its node is about to start it.
	}
	for _, srv := range g.Servers {
		r, ok := s.Replica(srv.ReplicaID)
		lostNonVoter := ok && isLost(r) && !srv.Voter
		if (!ok || lostNonVoter) && p.remove(id, srv, p.goodVoter(s)) {
			return true
		}
	}
	return false
}

// fine reports whether a wished replica is to stay.
func (p *planner) fine(r *metav1.Replica) bool {
	return !isLost(r) && !p.leaving(r.GetNodeId()) && !p.o.deadLong(r.GetNodeId())
}

// completeWish wishes for replicas that are missing, where there are nodes for them.
func (p *planner) completeWish(s *fsm.Shard) bool {
	taken := make(map[string]bool)
	fine := 0
	for _, r := range s.Replicas {
		if p.fine(r) {
			fine++
		}
		if !isLost(r) {
			taken[r.GetNodeId()] = true
		}
	}
	wish := slices.Clone(s.Replicas)
	for fine < min(wantedReplicas, p.members()) && len(wish) < fsm.MaxReplicas {
		nodeID, ok := p.place(taken)
		if !ok {
			break
		}
		taken[nodeID] = true
		p.load[nodeID]++
		wish = append(wish, p.newReplica(nodeID))
		fine++
	}
	if len(wish) == len(s.Replicas) {
		return false
	}
	p.wish(s, wish)
	return true
}

func (p *planner) wish(s *fsm.Shard, replicas []*metav1.Replica) {
	p.add(GroupID(s.Number), &Propose{Command: &metav1.Command{Command: &metav1.Command_SetShardReplicas{
		SetShardReplicas: &metav1.SetShardReplicas{Shard: s.Number, Replicas: replicas, Version: s.Version},
	}}})
}

// reduceWish gives up one replica: one that can't count any more, once others
// have its place, or one too many.
func (p *planner) reduceWish(s *fsm.Shard, g *Group) {
	var stay []*metav1.Replica // fine, and voters
	var gone []*metav1.Replica
	for _, r := range s.Replicas {
		srv, in := g.server(r.GetReplicaId())
		switch {
		case isLost(r) && (!in || !srv.Voter):
			p.wish(s, without(s.Replicas, r)) // It never counted.
			return
		case !p.fine(r):
			gone = append(gone, r)
		case in && srv.Voter:
			stay = append(stay, r)
		}
	}
	want := min(wantedReplicas, p.members())
	if len(gone) > 0 && len(stay) >= want {
		if g.majorityWithout(gone[0].GetReplicaId(), p.goodVoter(s)) {
			p.wish(s, without(s.Replicas, gone[0]))
		}
		return
	}
	if len(gone) > 0 || len(stay) <= wantedReplicas {
		return
	}
	r := p.surplus(stay, g)
	if !g.majorityWithout(r.GetReplicaId(), p.goodVoter(s)) {
		return
	}
	p.load[r.GetNodeId()]--
	p.wish(s, without(s.Replicas, r))
}

// surplus chooses the replica to give up: one that is away, of a zone that has
// most, on the node that has most; and rather not the leader.
func (p *planner) surplus(replicas []*metav1.Replica, g *Group) *metav1.Replica {
	nodes := make(map[string]bool)
	for _, r := range replicas {
		nodes[r.GetNodeId()] = true
	}
	zones := p.zonesOf(nodes)
	key := func(r *metav1.Replica) [4]int {
		k := [4]int{0, 0, p.load[r.GetNodeId()], 0}
		if !p.o.Alive[r.GetNodeId()] {
			k[0] = 1
		}
		if n, ok := p.view.Node(r.GetNodeId()); ok {
			k[1] = zones[n.Zone]
		}
		if r.GetReplicaId() != g.Leader {
			k[3] = 1
		}
		return k
	}
	return slices.MaxFunc(replicas, func(a, b *metav1.Replica) int {
		ka, kb := key(a), key(b)
		return cmp.Or(slices.Compare(ka[:], kb[:]), cmp.Compare(a.GetNodeId(), b.GetNodeId()))
	})
}

func without(replicas []*metav1.Replica, drop *metav1.Replica) []*metav1.Replica {
	return slices.DeleteFunc(slices.Clone(replicas), func(r *metav1.Replica) bool { return r == drop })
}

package controller

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
)

const (
	// askTimeout bounds one question to one node.
	askTimeout = time.Second
	// maxAsking is how many groups are looked at at once.
	maxAsking = 16
	// looks is how many times in a row a replica must have all to be caught up.
	looks = 2
	// lookTime is how long one look waits for what the leader has committed: a follower hears of it with the next message.
	lookTime = 500 * time.Millisecond
	// lookTick is how often it asks meanwhile.
	lookTick = 25 * time.Millisecond
	// stateLeader is what hashicorp/raft calls the state of a leader.
	stateLeader = "Leader"
)

// watched is what is remembered of a group between two looks.
type watched struct {
	leader string
	since  time.Time
}

// observer looks at the cluster. It is for one goroutine.
type observer struct {
	cfg       *Config
	deadSince map[string]time.Time
	groups    map[GroupID]watched
}

func newObserver(cfg *Config) *observer {
	return &observer{cfg: cfg, deadSince: make(map[string]time.Time), groups: make(map[GroupID]watched)}
}

// forget forgets what was watched, since watching has stopped.
func (ob *observer) forget() {
	clear(ob.deadSince)
	clear(ob.groups)
}

// look asks the leader of every group.
func (ob *observer) look(ctx context.Context, view *fsm.View) *Observation {
	o := &Observation{
		Alive:        make(map[string]bool),
		DeadFor:      make(map[string]time.Duration),
		Groups:       make(map[GroupID]*Group),
		ReplaceAfter: ob.cfg.ReplaceAfter,
		NewReplicaID: func(nodeID string) string { return nodeID + "/" + ulid.Make().String() },
	}
	ob.lookAtNodes(view, o)
	asked := map[GroupID][]string{Metadata: {ob.cfg.NodeID}}
	for _, s := range view.Shards() {
		if s.Initial == "" {
			asked[GroupID(s.Number)] = ob.whomToAsk(s)
		}
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxAsking)
	for id, nodes := range asked {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if g := ob.lookAtGroup(ctx, view, o, id, nodes); g != nil {
				mu.Lock()
				defer mu.Unlock()
				o.Groups[id] = g
			}
		})
	}
	wg.Wait()
	ob.noteLeaders(o)
	return o
}

func (ob *observer) lookAtNodes(view *fsm.View, o *Observation) {
	now := ob.cfg.Now()
	known := make(map[string]bool)
	for _, n := range view.Nodes() {
		known[n.ID] = true
		if n.ID == ob.cfg.NodeID || ob.cfg.Gossip.IncarnationAlive(n.ID, n.Incarnation) {
			o.Alive[n.ID] = true
			delete(ob.deadSince, n.ID)
			continue
		}
		if _, ok := ob.deadSince[n.ID]; !ok {
			ob.deadSince[n.ID] = now
		}
		o.DeadFor[n.ID] = now.Sub(ob.deadSince[n.ID])
	}
	for id := range ob.deadSince {
		if !known[id] {
			delete(ob.deadSince, id)
		}
	}
}

// whomToAsk returns the nodes that may have the shard's leader, the last one first.
func (ob *observer) whomToAsk(s *fsm.Shard) []string {
	var nodes []string
	if w, ok := ob.groups[GroupID(s.Number)]; ok {
		nodes = append(nodes, fsm.NodeOf(w.leader))
	}
	for _, r := range s.Replicas {
		if isStarted(r) && !slices.Contains(nodes, r.GetNodeId()) {
			nodes = append(nodes, r.GetNodeId())
		}
	}
	return nodes
}

// lookAtGroup returns what the leader of a group says, or nil when there is none.
func (ob *observer) lookAtGroup(ctx context.Context, view *fsm.View, o *Observation, id GroupID, nodes []string) *Group {
	leader := ob.findLeader(ctx, o, id, nodes)
	if leader == nil {
		return nil
	}
	g := &Group{Leader: leader.GetReplicaId(), Index: leader.GetConfigurationIndex()}
	var ask []string
	for _, s := range leader.GetServers() {
		g.Servers = append(g.Servers, Server{ReplicaID: s.GetReplicaId(), Voter: s.GetVoter()})
		if id != Metadata && !s.GetVoter() {
			ask = append(ask, s.GetReplicaId())
		}
	}
	slices.SortFunc(g.Servers, func(a, b Server) int { return strings.Compare(a.ReplicaID, b.ReplicaID) })
	if id == Metadata {
		ask = newPlanner(view, o).metadataLooks(g)
	}
	for i := range g.Servers {
		if s := &g.Servers[i]; slices.Contains(ask, s.ReplicaID) {
			s.Answers, s.CaughtUp = ob.lookAtReplica(ctx, id, leader, s.ReplicaID)
		}
	}
	return g
}

// findLeader asks the node that led last, then all others at once, and then those that these follow: a replica may lead that is
// not wished for any more, and that this observer has never seen lead.
func (ob *observer) findLeader(ctx context.Context, o *Observation, id GroupID, nodes []string) *nodev1.GetReplicaResponse {
	if len(nodes) == 0 {
		return nil
	}
	leads := func(r *nodev1.GetReplicaResponse) bool { return r.GetState() == stateLeader && r.GetReplicaId() != "" }
	last := ob.ask(ctx, id, nodes[0])
	if leads(last) {
		return last
	}
	answers := append(ob.askAll(ctx, o, id, nodes[1:]), last)
	var followed []string
	for _, r := range answers {
		if node := fsm.NodeOf(r.GetLeaderReplicaId()); node != "" && !slices.Contains(nodes, node) && !slices.Contains(followed, node) {
			followed = append(followed, node)
		}
	}
	answers = append(answers, ob.askAll(ctx, o, id, followed)...)
	var best *nodev1.GetReplicaResponse
	for _, r := range answers {
		if leads(r) && (best == nil || r.GetTerm() > best.GetTerm()) {
			best = r
		}
	}
	return best
}

// askAll asks those of the nodes that are alive, all at once. Who does not answer is nil.
func (ob *observer) askAll(ctx context.Context, o *Observation, id GroupID, nodes []string) []*nodev1.GetReplicaResponse {
	answers := make([]*nodev1.GetReplicaResponse, len(nodes))
	var wg sync.WaitGroup
	for i, nodeID := range nodes {
		if o.Alive[nodeID] {
			wg.Go(func() { answers[i] = ob.ask(ctx, id, nodeID) })
		}
	}
	wg.Wait()
	return answers
}

// lookAtReplica looks twice whether a replica has applied what the leader had committed before.
func (ob *observer) lookAtReplica(ctx context.Context, id GroupID, leader *nodev1.GetReplicaResponse, replicaID string) (answers, caughtUp bool) {
	for i := range looks {
		if i > 0 {
			leader = ob.ask(ctx, id, fsm.NodeOf(leader.GetReplicaId()))
			if leader.GetState() != stateLeader {
				return answers, false
			}
		}
		if answers, caughtUp = ob.awaitApplied(ctx, id, leader.GetCommitIndex(), replicaID); !caughtUp {
			return answers, false
		}
	}
	return true, true
}

// awaitApplied waits until a replica has applied the entry at index, for lookTime.
func (ob *observer) awaitApplied(ctx context.Context, id GroupID, index uint64, replicaID string) (answers, applied bool) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	for {
		r := ob.ask(ctx, id, fsm.NodeOf(replicaID))
		if r.GetReplicaId() != replicaID {
			return answers, false
		}
		answers = true
		if r.GetAppliedIndex() >= index {
			return true, true
		}
		if pause.For(ctx, lookTick) != nil {
			return true, false
		}
	}
}

// ask returns nil when the node does not answer or has no replica of the group.
func (ob *observer) ask(ctx context.Context, id GroupID, nodeID string) *nodev1.GetReplicaResponse {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	client, err := ob.cfg.Peers.Client(nodeID)
	if err != nil {
		return nil
	}
	r, err := client.GetReplica(ctx, &nodev1.GetReplicaRequest{Group: id.proto()})
	if err != nil {
		return nil
	}
	return r
}

// noteLeaders remembers who leads since when.
func (ob *observer) noteLeaders(o *Observation) {
	now := ob.cfg.Now()
	for id, g := range o.Groups {
		w, ok := ob.groups[id]
		if !ok || w.leader != g.Leader {
			w = watched{leader: g.Leader, since: now}
			ob.groups[id] = w
		}
		g.LedFor = now.Sub(w.since)
	}
}

// hold lets a group be for a while, as if its leader were new.
func (ob *observer) hold(id GroupID) {
	if w, ok := ob.groups[id]; ok {
		w.since = ob.cfg.Now()
		ob.groups[id] = w
	}
}

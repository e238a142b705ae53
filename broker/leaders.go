package broker

import (
	"context"
	"sync"
	"time"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// askTimeout bounds one question to one replica.
	askTimeout = time.Second
	// noLeaderFor is how long a fruitless search is not made again.
	noLeaderFor = 50 * time.Millisecond
	// leaderFor is how long a leader that was found is told to clients without asking again. Calls need no such limit:
	// a node that leads no more says so.
	leaderFor = time.Second
)

// leaders remembers who leads the shards that this node has no replica of.
type leaders struct {
	mu     sync.Mutex
	led    map[uint32]foundLeader // guarded by mu; who led last
	failed map[uint32]time.Time   // guarded by mu; last fruitless search
}

type foundLeader struct {
	nodeID string
	at     time.Time
}

func newLeaders() *leaders {
	return &leaders{led: make(map[uint32]foundLeader), failed: make(map[uint32]time.Time)}
}

// get returns the leader that was found last, and how long ago; searched says that none was found just now.
func (l *leaders) get(shard uint32) (nodeID string, age time.Duration, searched bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.led[shard]
	return found.nodeID, time.Since(found.at), time.Since(l.failed[shard]) < noLeaderFor
}

func (l *leaders) set(shard uint32, nodeID string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if nodeID == "" {
		delete(l.led, shard)
		l.failed[shard] = time.Now()
		return
	}
	l.led[shard] = foundLeader{nodeID: nodeID, at: time.Now()}
	delete(l.failed, shard)
}

// learn forgets a leader that failed, and returns the node that the error names instead, if any.
func (l *leaders) learn(shard uint32, err *Error) (hint string) {
	if decide(err.Reason, true) == verdictFail {
		return "" // the leader itself refused
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.led, shard)
	if err.Reason != reasonNotLeader {
		return ""
	}
	hint = fsm.NodeOf(err.Metadata["leader"])
	if hint != "" {
		l.led[shard] = foundLeader{nodeID: hint, at: time.Now()}
	}
	return hint
}

// findLeader returns where the shard is led: by the hint of who was asked last, by what this node's replica knows, by
// what was known before, or by asking all replicas.
func (b *Broker) findLeader(ctx context.Context, shard uint32, hint string) (target, error) {
	if hint != "" {
		return b.target(shard, hint)
	}
	if local, ok := b.cfg.Shards.Local(shard); ok {
		id, ok := local.Leader()
		if !ok {
			return target{}, noLeader(shard)
		}
		return b.target(shard, fsm.NodeOf(id))
	}
	nodeID, _, searched := b.leaders.get(shard)
	if nodeID != "" {
		return b.target(shard, nodeID)
	}
	if searched {
		return target{}, noLeader(shard)
	}
	nodeID = b.askForLeader(ctx, shard)
	b.leaders.set(shard, nodeID)
	if nodeID == "" {
		return target{}, noLeader(shard)
	}
	return b.target(shard, nodeID)
}

// knownLeader returns the node that leads the shard, for a client that will go there: what this node's replica knows,
// else what its other replicas say, "" when none knows a leader.
func (b *Broker) knownLeader(ctx context.Context, shard uint32) string {
	if local, ok := b.cfg.Shards.Local(shard); ok {
		if id, ok := local.Leader(); ok {
			return fsm.NodeOf(id)
		}
	}
	nodeID, age, searched := b.leaders.get(shard)
	switch {
	case nodeID != "" && age < leaderFor:
		return nodeID
	case searched:
		return ""
	}
	nodeID = b.askForLeader(ctx, shard)
	b.leaders.set(shard, nodeID)
	return nodeID
}

// leads returns this node's replica of a shard where it leads it.
func (b *Broker) leads(shard uint32) (LocalShard, bool) {
	local, ok := b.cfg.Shards.Local(shard)
	if !ok {
		return nil, false
	}
	id, ok := local.Leader()
	return local, ok && fsm.NodeOf(id) == b.cfg.NodeID
}

func (b *Broker) target(shard uint32, nodeID string) (target, error) {
	if nodeID == b.cfg.NodeID {
		local, ok := b.cfg.Shards.Local(shard)
		if !ok {
			return target{}, noLeader(shard)
		}
		return target{nodeID: nodeID, local: local}, nil
	}
	client, err := b.cfg.Peers.Client(nodeID)
	if err != nil {
		e := noLeader(shard)
		e.Cause = err
		return target{}, e
	}
	return target{nodeID: nodeID, client: client}, nil
}

// askForLeader asks all wished replicas at once and believes the one with the highest term.
func (b *Broker) askForLeader(ctx context.Context, shard uint32) string {
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	nodes := b.replicaNodes(shard)
	answers := make(chan *nodev1.GetReplicaResponse, len(nodes))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, nodeID := range nodes {
		wg.Go(func() { answers <- b.askReplica(ctx, nodeID, &nodev1.Group{Shard: shard}) })
	}
	var best *nodev1.GetReplicaResponse
	for range nodes {
		res := <-answers
		if replica.Leads(res) {
			return fsm.NodeOf(res.GetReplicaId())
		}
		if res.GetLeaderReplicaId() != "" && (best == nil || res.GetTerm() > best.GetTerm()) {
			best = res
		}
	}
	return fsm.NodeOf(best.GetLeaderReplicaId())
}

// askReplica returns what another node tells about its replica of a group, nil when it does not answer.
func (b *Broker) askReplica(ctx context.Context, nodeID string, group *nodev1.Group) *nodev1.GetReplicaResponse {
	client, err := b.cfg.Peers.Client(nodeID)
	if err != nil {
		return nil
	}
	res, err := client.GetReplica(ctx, &nodev1.GetReplicaRequest{Group: group})
	if err != nil {
		return nil
	}
	return res
}

// replicaNodes returns the other nodes that are wished to hold a replica of the shard.
func (b *Broker) replicaNodes(number uint32) []string {
	sh, ok := b.meta.View().Shard(number)
	if !ok {
		return nil
	}
	var nodes []string
	for _, r := range sh.Replicas {
		if r.GetNodeId() != b.cfg.NodeID {
			nodes = append(nodes, r.GetNodeId())
		}
	}
	return nodes
}

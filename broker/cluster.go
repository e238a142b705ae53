package broker

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"
	"sync"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

// Roles of a replica in its group.
const (
	roleVoter    = "voter"
	roleNonVoter = "non-voter"
	roleWished   = "wished"
)

// statusParallel is how many questions a status asks at once.
const statusParallel = 32

// GetClusterStatus describes nodes and shards. It asks every node for its replicas; what does not answer within a second
// is shown as far as it is known here.
func (b *Broker) GetClusterStatus(ctx context.Context, _ *streamhousev1.GetClusterStatusRequest) (*streamhousev1.GetClusterStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*askTimeout)
	defer cancel()
	view := b.meta.View()
	leader, _ := b.meta.Leader()
	res := &streamhousev1.GetClusterStatusResponse{
		ClusterId: view.ClusterID(), ClusterName: view.ClusterName(), NodeId: b.cfg.NodeID, MetadataLeader: leader,
		ObjectStore: view.ObjectStore(),
	}
	metaRoles := b.metadataRoles(ctx, leader)
	replicas, leaders := make(map[string]int32), make(map[string]int32)
	for _, s := range b.describeShards(ctx, view) {
		res.Shards = append(res.Shards, s)
		leaders[s.GetLeader()]++
	}
	for _, sh := range view.Shards() {
		for _, r := range sh.Replicas {
			replicas[r.GetNodeId()]++
		}
	}
	for _, n := range view.Nodes() {
		res.Nodes = append(res.Nodes, &streamhousev1.NodeStatus{
			NodeId: n.ID, Zone: n.Zone, State: publicState(n.State), Alive: b.cfg.Alive(n.ID),
			MetadataRole: metaRoles[n.MetadataReplicaID], GrpcAddr: n.GRPCAddr, HttpAddr: n.HTTPAddr, RaftAddr: n.RaftAddr,
			Replicas: replicas[n.ID], Leaders: leaders[n.ID],
		})
	}
	return res, nil
}

func publicState(s metav1.NodeState) streamhousev1.NodeState {
	switch s {
	case metav1.NodeState_NODE_STATE_ACTIVE:
		return streamhousev1.NodeState_NODE_STATE_ACTIVE
	case metav1.NodeState_NODE_STATE_DRAINING:
		return streamhousev1.NodeState_NODE_STATE_DRAINING
	case metav1.NodeState_NODE_STATE_DECOMMISSIONING:
		return streamhousev1.NodeState_NODE_STATE_DECOMMISSIONING
	default:
		return streamhousev1.NodeState_NODE_STATE_UNSPECIFIED
	}
}

// metadataRoles returns the roles in the metadata group by replica id, from its leader or from what is known here.
func (b *Broker) metadataRoles(ctx context.Context, leader string) map[string]string {
	group := &nodev1.Group{Metadata: true}
	res := b.describe(ctx, leader, group)
	if res == nil {
		res = b.describe(ctx, b.cfg.NodeID, group)
	}
	return roles(res)
}

func roles(res *nodev1.GetReplicaResponse) map[string]string {
	out := make(map[string]string)
	for _, s := range res.GetServers() {
		out[s.GetReplicaId()] = roleNonVoter
		if s.GetVoter() {
			out[s.GetReplicaId()] = roleVoter
		}
	}
	return out
}

// describe returns what a node tells of its replica of a group, nil when it does not answer.
func (b *Broker) describe(ctx context.Context, nodeID string, group *nodev1.Group) *nodev1.GetReplicaResponse {
	if nodeID == b.cfg.NodeID {
		res, err := b.cfg.Groups.Describe(group)
		if err != nil {
			return nil
		}
		return res
	}
	if nodeID == "" || !b.cfg.Alive(nodeID) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	return b.askReplica(ctx, nodeID, group)
}

// shardReplica is one replica of a shard, which is the one at an index of a view's shards.
type shardReplica struct {
	index int
	id    string
}

// describeShards asks the replicas that are wished, then those that these name besides: one that is to be removed may lead.
func (b *Broker) describeShards(ctx context.Context, view *fsm.View) []*streamhousev1.ShardStatus {
	shards := view.Shards()
	answers := make([]map[string]*nodev1.GetReplicaResponse, len(shards)) // by the id of the replica that was asked for
	var wished, others []shardReplica
	for i, sh := range shards {
		answers[i] = make(map[string]*nodev1.GetReplicaResponse)
		for _, r := range sh.Replicas {
			wished = append(wished, shardReplica{i, r.GetReplicaId()})
		}
	}
	b.askReplicas(ctx, shards, wished, answers)
	for i := range shards {
		named := roles(newest(answers[i]))
		for _, a := range answers[i] {
			if id := a.GetLeaderReplicaId(); id != "" {
				named[id] = ""
			}
		}
		for id := range named {
			if _, asked := answers[i][id]; !asked {
				others = append(others, shardReplica{i, id})
			}
		}
	}
	b.askReplicas(ctx, shards, others, answers)
	out := make([]*streamhousev1.ShardStatus, len(shards))
	for i, sh := range shards {
		out[i] = shardStatus(sh, answers[i])
	}
	return out
}

// askReplicas puts what the replicas tell into answers, nil for each that does not answer.
func (b *Broker) askReplicas(ctx context.Context, shards []*fsm.Shard, replicas []shardReplica, answers []map[string]*nodev1.GetReplicaResponse) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, statusParallel)
	for _, r := range replicas {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			res := b.describe(ctx, fsm.NodeOf(r.id), &nodev1.Group{Shard: shards[r.index].Number})
			mu.Lock()
			defer mu.Unlock()
			answers[r.index][r.id] = res
		})
	}
	wg.Wait()
}

// newest returns the answer that counts most: of the highest term, of those the leader's, else the one that knows the newest
// configuration. It is nil without one.
func newest(answers map[string]*nodev1.GetReplicaResponse) *nodev1.GetReplicaResponse {
	var best *nodev1.GetReplicaResponse
	for _, id := range slices.Sorted(maps.Keys(answers)) {
		if a := answers[id]; a != nil && (best == nil || compareNews(a, best) > 0) {
			best = a
		}
	}
	return best
}

func compareNews(a, b *nodev1.GetReplicaResponse) int {
	leads := func(a *nodev1.GetReplicaResponse) int {
		if replica.Leads(a) {
			return 1
		}
		return 0
	}
	return cmp.Or(cmp.Compare(a.GetTerm(), b.GetTerm()), cmp.Compare(leads(a), leads(b)),
		cmp.Compare(a.GetConfigurationIndex(), b.GetConfigurationIndex()))
}

// shardStatus puts together what the replicas of a shard told.
func shardStatus(sh *fsm.Shard, answers map[string]*nodev1.GetReplicaResponse) *streamhousev1.ShardStatus {
	best := newest(answers)
	applied := make(map[string]uint64)
	for _, a := range answers {
		applied[a.GetReplicaId()] = a.GetAppliedIndex()
	}
	s := &streamhousev1.ShardStatus{
		Shard: sh.Number, Leader: fsm.NodeOf(best.GetLeaderReplicaId()), Term: best.GetTerm(), CommitIndex: best.GetCommitIndex(),
		UploadBacklogBytes: best.GetUploadBacklogBytes(), LogBytes: best.GetLogBytes(),
	}
	role := roles(best)
	for _, r := range sh.Replicas {
		if role[r.GetReplicaId()] == "" {
			role[r.GetReplicaId()] = roleWished
		}
	}
	for id, what := range role {
		s.Replicas = append(s.Replicas, &streamhousev1.ReplicaStatus{
			ReplicaId: id, NodeId: fsm.NodeOf(id), Role: what, AppliedIndex: applied[id],
		})
	}
	slices.SortFunc(s.Replicas, func(a, b *streamhousev1.ReplicaStatus) int {
		return strings.Compare(a.GetReplicaId(), b.GetReplicaId())
	})
	return s
}

// DrainNode moves replicas and leaderships away from a node.
func (b *Broker) DrainNode(ctx context.Context, req *streamhousev1.DrainNodeRequest) (*streamhousev1.DrainNodeResponse, error) {
	if err := b.empty(ctx, req.GetNodeId(), metav1.NodeState_NODE_STATE_DRAINING); err != nil {
		return nil, err
	}
	return &streamhousev1.DrainNodeResponse{}, nil
}

// DecommissionNode drains a node, and removes it from the cluster once it is empty.
func (b *Broker) DecommissionNode(ctx context.Context, req *streamhousev1.DecommissionNodeRequest) (*streamhousev1.DecommissionNodeResponse, error) {
	if err := b.empty(ctx, req.GetNodeId(), metav1.NodeState_NODE_STATE_DECOMMISSIONING); err != nil {
		return nil, err
	}
	return &streamhousev1.DecommissionNodeResponse{}, nil
}

// UndrainNode lets a drained node hold replicas again.
func (b *Broker) UndrainNode(ctx context.Context, req *streamhousev1.UndrainNodeRequest) (*streamhousev1.UndrainNodeResponse, error) {
	if err := b.knownNode(ctx, req.GetNodeId()); err != nil {
		return nil, err
	}
	if err := b.setNodeState(ctx, req.GetNodeId(), metav1.NodeState_NODE_STATE_ACTIVE); err != nil {
		return nil, err
	}
	return &streamhousev1.UndrainNodeResponse{}, nil
}

// empty sets a state in which a node gives its replicas away, where others can take them.
func (b *Broker) empty(ctx context.Context, nodeID string, state metav1.NodeState) error {
	if err := b.meta.Barrier(ctx); err != nil {
		return err
	}
	if err := b.knownNode(ctx, nodeID); err != nil {
		return err
	}
	if err := b.cfg.CanLeave(nodeID); err != nil {
		return &Error{
			Reason: reasonCannotPlace, Message: "replicas of node " + nodeID + " can't be placed elsewhere: " + err.Error(),
			Metadata: map[string]string{"node_id": nodeID}, Cause: err,
		}
	}
	return b.setNodeState(ctx, nodeID, state)
}

func (b *Broker) setNodeState(ctx context.Context, nodeID string, state metav1.NodeState) error {
	_, err := b.meta.Propose(ctx, &metav1.Command{Command: &metav1.Command_SetNodeState{
		SetNodeState: &metav1.SetNodeState{NodeId: nodeID, State: state},
	}})
	return err
}

// knownNode returns an error when the cluster has no such node, after a barrier.
func (b *Broker) knownNode(ctx context.Context, nodeID string) error {
	if nodeID == "" {
		return InvalidField("node_id", "it must be set")
	}
	if _, ok := b.meta.View().Node(nodeID); ok {
		return nil
	}
	if err := b.meta.Barrier(ctx); err != nil {
		return err
	}
	if _, ok := b.meta.View().Node(nodeID); ok {
		return nil
	}
	e := newError(reasonNodeNotFound, "the cluster has no node %q", nodeID)
	e.Metadata = map[string]string{"node_id": nodeID}
	return e
}

// TransferLeader hands a shard's leadership to the replica that a node holds.
func (b *Broker) TransferLeader(ctx context.Context, req *streamhousev1.TransferLeaderRequest) (*streamhousev1.TransferLeaderResponse, error) {
	if err := b.knownNode(ctx, req.GetNodeId()); err != nil {
		return nil, err
	}
	sh, ok := b.meta.View().Shard(req.GetShard())
	if !ok {
		return nil, newError(reasonShardNotFound, "the cluster has no shard %d", req.GetShard())
	}
	replicaID := ""
	for _, r := range sh.Replicas {
		if r.GetNodeId() == req.GetNodeId() {
			replicaID = r.GetReplicaId()
		}
	}
	if replicaID == "" {
		return nil, newError(reasonReplicaNotReady, "node %q holds no replica of shard %d", req.GetNodeId(), req.GetShard())
	}
	group := &nodev1.Group{Shard: req.GetShard()}
	err := b.onLeader(ctx, leaderCall{shard: req.GetShard()}, func(ctx context.Context, t target) error {
		switch {
		case t.nodeID == req.GetNodeId():
			return nil // it leads
		case t.local != nil:
			return b.cfg.Groups.TransferLeadership(ctx, group, replicaID)
		default:
			_, err := ask(ctx, b, &nodev1.TransferLeadershipRequest{Group: group, ReplicaId: replicaID}, t.client.TransferLeadership)
			return err
		}
	})
	if err != nil {
		return nil, err
	}
	return &streamhousev1.TransferLeaderResponse{}, nil
}

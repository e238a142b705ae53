package broker

import (
	"context"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

// Replicas describes and changes this node's replicas of all Raft groups. Safe for concurrent use.
type Replicas struct {
	metadata *replica.Replica
	shards   *Shards
	view     func() *fsm.View
}

var _ Groups = (*Replicas)(nil)

// NewReplicas takes the replica of the metadata group, the host of the shards' replicas, and the view of the metadata.
func NewReplicas(metadata *replica.Replica, shards *Shards, view func() *fsm.View) *Replicas {
	return &Replicas{metadata: metadata, shards: shards, view: view}
}

// find returns this node's replica of a group, and what of it waits for the object store.
func (r *Replicas) find(group *nodev1.Group) (rep *replica.Replica, backlogBytes int64, err error) {
	if group.GetMetadata() {
		return r.metadata, 0, nil
	}
	sh, ok := r.shards.Get(group.GetShard())
	if !ok {
		return nil, 0, newError(reasonShardNotFound, "this node has no replica of shard %d", group.GetShard())
	}
	return sh.Replica(), sh.PendingBytes(), nil
}

// Describe implements Groups.
func (r *Replicas) Describe(group *nodev1.Group) (*nodev1.GetReplicaResponse, error) {
	rep, backlog, err := r.find(group)
	if err != nil {
		return nil, err
	}
	res := describe(rep)
	res.UploadBacklogBytes = backlog
	return res, nil
}

// describe says how a replica is, but for what of it waits for the object store.
func describe(rep *replica.Replica) *nodev1.GetReplicaResponse {
	s := rep.Status()
	res := &nodev1.GetReplicaResponse{
		ReplicaId: s.ReplicaID, State: s.State, Term: s.Term, LeaderReplicaId: s.LeaderReplicaID, LastIndex: s.LastIndex,
		CommitIndex: s.CommitIndex, AppliedIndex: s.AppliedIndex, ConfigurationIndex: s.ConfigurationIndex,
		ConfigurationCurrent: s.ConfigurationCurrent, LogBytes: rep.LogBytes(), GivingUp: rep.GivingUp(),
	}
	for _, server := range s.Servers {
		res.Servers = append(res.Servers, &nodev1.Server{
			ReplicaId: server.ReplicaID, Address: server.Address, Voter: server.Voter,
		})
	}
	return res
}

// ChangeMembership implements Groups. The server's address is that of its node, as the metadata knows it.
func (r *Replicas) ChangeMembership(ctx context.Context, req *nodev1.ChangeMembershipRequest) (uint64, error) {
	rep, _, err := r.find(req.GetGroup())
	if err != nil {
		return 0, err
	}
	addr := ""
	if req.GetChange() != nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE {
		node, ok := r.view().Node(req.GetNodeId())
		if !ok {
			return 0, newError(reasonNodeNotFound, "the cluster has no node %q", req.GetNodeId())
		}
		addr = node.RaftAddr
	}
	return rep.ChangeMembership(ctx, req.GetChange(), req.GetReplicaId(), addr, req.GetPreviousIndex())
}

// TransferLeadership implements Groups.
func (r *Replicas) TransferLeadership(ctx context.Context, group *nodev1.Group, replicaID string) error {
	rep, _, err := r.find(group)
	if err != nil {
		return err
	}
	return rep.TransferTo(ctx, replicaID)
}

package client

import (
	"context"
	"strings"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// Roles of a replica in its group.
const (
	// RoleVoter is that of a full member, which counts for a majority.
	RoleVoter = "voter"
	// RoleNonVoter is that of a member that is to catch up first.
	RoleNonVoter = "non-voter"
	// RoleWished is that of one that the group does not have yet.
	RoleWished = "wished"
)

// NodeState is what an operator has decided for a node.
type NodeState string

// Node states.
const (
	// NodeActive: it holds replicas and leads.
	NodeActive NodeState = "active"
	// NodeDraining: it gives its replicas and leaderships away and takes no new ones.
	NodeDraining NodeState = "draining"
	// NodeDecommissioning: it drains, and is removed once it is empty.
	NodeDecommissioning NodeState = "decommissioning"
)

// Cluster is the state of a cluster as one node sees it.
type Cluster struct {
	// ID was minted when the cluster began, Name is its --cluster-name.
	ID, Name string
	// AskedNode is the node that answered.
	AskedNode string
	// MetadataLeader is the node that leads the metadata group, empty where it is not known.
	MetadataLeader string
	// ObjectStore is the URL of the object store, without credentials.
	ObjectStore string
	// Nodes in order of their ids.
	Nodes []Node
	// Shards in order of their numbers.
	Shards []Shard
}

// Node is one node.
type Node struct {
	// ID of the node, and the Zone that it was started with, which may be empty.
	ID, Zone string
	// State is what an operator has decided for it.
	State NodeState
	// Alive is what gossip says.
	Alive bool
	// MetadataRole is its part in the metadata group: RoleVoter, RoleNonVoter, or empty.
	MetadataRole string
	// GRPCAddr, HTTPAddr and RaftAddr are where others reach it, each HOST:PORT.
	GRPCAddr, HTTPAddr, RaftAddr string
	// Replicas that it is to hold, and Leaders: shards that it leads.
	Replicas, Leaders int
}

// Shard is one shard.
type Shard struct {
	// Number of the shard, from 0.
	Number uint32
	// Leader is a node, empty where nobody is known to lead.
	Leader string
	// Term of Raft, which grows with every election.
	Term uint64
	// CommitIndex is the last entry of the shard's log that is committed.
	CommitIndex uint64
	// UploadBacklogBytes are committed and not in the object store yet, LogBytes in the leader's local log.
	UploadBacklogBytes, LogBytes int64
	// Replicas of the shard, and those that it is to have.
	Replicas []Replica
}

// Replica is a node's part in a shard.
type Replica struct {
	// ID of the replica, empty where it is only wished, and the Node that holds it.
	ID, Node string
	// Role is RoleVoter, RoleNonVoter, or RoleWished.
	Role string
	// AppliedIndex is 0 where the node does not answer.
	AppliedIndex uint64
}

func (n *conn) cluster() streamhousev1.ClusterServiceClient {
	return streamhousev1.NewClusterServiceClient(n.grpc)
}

// ClusterStatus returns the state of the cluster.
func (a *Admin) ClusterStatus(ctx context.Context) (Cluster, error) {
	res, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.GetClusterStatusResponse, error) {
		return n.cluster().GetClusterStatus(ctx, &streamhousev1.GetClusterStatusRequest{})
	})
	if err != nil {
		return Cluster{}, err
	}
	c := Cluster{ID: res.GetClusterId(), Name: res.GetClusterName(), AskedNode: res.GetNodeId(), MetadataLeader: res.GetMetadataLeader(), ObjectStore: res.GetObjectStore()}
	for _, n := range res.GetNodes() {
		c.Nodes = append(c.Nodes, Node{
			ID: n.GetNodeId(), Zone: n.GetZone(), State: NodeState(strings.ToLower(strings.TrimPrefix(n.GetState().String(), "NODE_STATE_"))),
			Alive: n.GetAlive(), MetadataRole: n.GetMetadataRole(), GRPCAddr: n.GetGrpcAddr(), HTTPAddr: n.GetHttpAddr(), RaftAddr: n.GetRaftAddr(),
			Replicas: int(n.GetReplicas()), Leaders: int(n.GetLeaders()),
		})
	}
	for _, s := range res.GetShards() {
		shard := Shard{
			Number: s.GetShard(), Leader: s.GetLeader(), Term: s.GetTerm(), CommitIndex: s.GetCommitIndex(),
			UploadBacklogBytes: s.GetUploadBacklogBytes(), LogBytes: s.GetLogBytes(),
		}
		for _, r := range s.GetReplicas() {
			shard.Replicas = append(shard.Replicas, Replica{ID: r.GetReplicaId(), Node: r.GetNodeId(), Role: r.GetRole(), AppliedIndex: r.GetAppliedIndex()})
		}
		c.Shards = append(c.Shards, shard)
	}
	return c, nil
}

// DrainNode makes a node give away its replicas and leaderships, which goes on after the call. It fails with
// ErrNodeNotFound, and with the reason CANNOT_PLACE_REPLICAS where no other node could take the replicas.
func (a *Admin) DrainNode(ctx context.Context, node string) error {
	_, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.DrainNodeResponse, error) {
		return n.cluster().DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: node})
	})
	return err
}

// UndrainNode makes a draining node active again. It fails with ErrNodeNotFound.
func (a *Admin) UndrainNode(ctx context.Context, node string) error {
	_, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.UndrainNodeResponse, error) {
		return n.cluster().UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: node})
	})
	return err
}

// DecommissionNode drains a node and removes it from the cluster once it is empty, which goes on after the call. It fails
// as DrainNode does.
func (a *Admin) DecommissionNode(ctx context.Context, node string) error {
	_, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.DecommissionNodeResponse, error) {
		return n.cluster().DecommissionNode(ctx, &streamhousev1.DecommissionNodeRequest{NodeId: node})
	})
	return err
}

// TransferLeader makes a node the leader of a shard, of which it must hold a replica that is up to date.
func (a *Admin) TransferLeader(ctx context.Context, shard uint32, node string) error {
	_, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.TransferLeaderResponse, error) {
		return n.cluster().TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: shard, NodeId: node})
	})
	return err
}

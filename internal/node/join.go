package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/status"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/fsm"
)

// joinMetadata is what joiner needs of the metadata group.
type joinMetadata interface {
	IsLeader() bool
	ReadIndexLocal(ctx context.Context) (uint64, error)
	View() *fsm.View
	Propose(ctx context.Context, cmd *metav1.Command) (*metav1.Result, error)
}

// liveness is what joiner needs of gossip.
type liveness interface {
	IncarnationAlive(nodeID, incarnation string) bool
}

// joiner takes nodes into the cluster, on the metadata leader.
type joiner struct {
	clusterName string
	metadata    joinMetadata
	gossip      liveness
	now         func() time.Time
	log         *slog.Logger
}

// Join registers a node, or a new life of a known one. A refusal is a
// *fsm.Rejection; on another node than the leader the error is metadata.ErrNotLeader.
func (j *joiner) Join(ctx context.Context, req *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
	if !j.metadata.IsLeader() {
		return nil, metadata.ErrNotLeader
	}
	if _, err := j.metadata.ReadIndexLocal(ctx); err != nil {
		return nil, err
	}
	view := j.metadata.View()
	if err := j.check(view, req); err != nil {
		return nil, err
	}
	if known, ok := view.Node(req.GetNodeId()); ok && sameRegistration(known, req) {
		return &nodev1.JoinResponse{ClusterId: view.ClusterID(), Index: view.Index()}, nil
	}
	_, err := j.metadata.Propose(ctx, &metav1.Command{Command: &metav1.Command_RegisterNode{RegisterNode: &metav1.RegisterNode{
		NodeId:            req.GetNodeId(),
		Incarnation:       req.GetIncarnation(),
		MetadataReplicaId: req.GetMetadataReplicaId(),
		Zone:              req.GetZone(),
		RaftAddr:          req.GetRaftAddr(),
		GrpcAddr:          req.GetGrpcAddr(),
		HttpAddr:          req.GetHttpAddr(),
		GossipAddr:        req.GetGossipAddr(),
		FeatureLevel:      req.GetFeatureLevel(),
		TimeMs:            j.now().UnixMilli(),
	}}})
	if err != nil {
		return nil, err
	}
	j.log.Info("node is registered", "node", req.GetNodeId(), "incarnation", req.GetIncarnation(), "raft_addr", req.GetRaftAddr())
	return &nodev1.JoinResponse{ClusterId: view.ClusterID(), Index: j.metadata.View().Index()}, nil
}

// sameRegistration reports whether there is nothing new in req.
func sameRegistration(n *fsm.Node, req *nodev1.JoinRequest) bool {
	return n.Incarnation == req.GetIncarnation() && n.MetadataReplicaID == req.GetMetadataReplicaId() &&
		n.Zone == req.GetZone() && n.RaftAddr == req.GetRaftAddr() && n.GRPCAddr == req.GetGrpcAddr() &&
		n.HTTPAddr == req.GetHttpAddr() && n.GossipAddr == req.GetGossipAddr() && n.FeatureLevel == req.GetFeatureLevel()
}

func reject(reason streamhousev1.ErrorReason, format string, args ...any) error {
	return &fsm.Rejection{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// check refuses who must not come in.
func (j *joiner) check(view *fsm.View, req *nodev1.JoinRequest) error {
	if view.ClusterID() == "" {
		return metadata.ErrNoLeader // The founder has not begun the cluster yet.
	}
	if req.GetClusterName() != j.clusterName {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER,
			"this is cluster %q, the node wants %q", j.clusterName, req.GetClusterName())
	}
	if c := req.GetClusterId(); c != "" && c != view.ClusterID() {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER,
			"this is cluster %s, the node's --data-dir belongs to %s", view.ClusterID(), c)
	}
	if req.GetFeatureLevel() < view.FeatureLevel() {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE,
			"the cluster needs feature level %d, the node has %d: upgrade it", view.FeatureLevel(), req.GetFeatureLevel())
	}
	if fsm.NodeOf(req.GetMetadataReplicaId()) != req.GetNodeId() {
		return &fsm.Rejection{
			Reason: streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD, Field: "metadata_replica_id",
			Message: "metadata_replica_id does not begin with the node's id",
		}
	}
	return j.checkIncarnation(view, req)
}

// checkIncarnation lets one life of a node follow another, never two at once and never back.
func (j *joiner) checkIncarnation(view *fsm.View, req *nodev1.JoinRequest) error {
	known, ok := view.Node(req.GetNodeId())
	if !ok && req.GetRegistered() && req.GetRecoveryId() != view.RecoveryID() {
		return metadata.ErrNoLeader // Another life of the cluster has the node: its leader answers.
	}
	if !ok && req.GetRegistered() {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE,
			"node %q was removed from the cluster: empty this --data-dir to add it again as a new node", req.GetNodeId())
	}
	if !ok || known.Incarnation == req.GetIncarnation() {
		return nil
	}
	// ULIDs order by the time at which they were minted.
	if req.GetIncarnation() < known.Incarnation {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE,
			"node %q began anew with another data directory: empty this --data-dir, or give another --node-id", req.GetNodeId())
	}
	if j.gossip.IncarnationAlive(req.GetNodeId(), known.Incarnation) {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_NODE_ID_IN_USE,
			"node id %q is in use by a live node at %s: give this node another --node-id", req.GetNodeId(), known.RaftAddr)
	}
	return nil
}

// registrar registers this node with its cluster.
type registrar struct {
	cfg      *Config
	self     func() gossip.Member
	identity *identityFile
	gossip   membership
	peers    joinPeers
	// local is set once this node's metadata group is open.
	local *joiner
}

// joinPeers is what registrar needs of the peers.
type joinPeers interface {
	ClientAt(addr string) (nodev1.NodeServiceClient, error)
}

const joinAttemptTimeout = 5 * time.Second

// request is what registers this node.
func (r *registrar) request(clusterID, replicaID string) *nodev1.JoinRequest {
	self, id := r.self(), r.identity.get()
	return &nodev1.JoinRequest{
		ClusterName:       r.cfg.ClusterName,
		ClusterId:         clusterID,
		NodeId:            self.NodeID,
		Incarnation:       self.Incarnation,
		MetadataReplicaId: replicaID,
		Zone:              self.Zone,
		RaftAddr:          self.RaftAddr,
		GrpcAddr:          self.GRPCAddr,
		HttpAddr:          self.HTTPAddr,
		GossipAddr:        self.GossipAddr,
		FeatureLevel:      fsm.FeatureLevel,
		Registered:        id.Registered || len(id.MetadataVoters) > 0, // older programs wrote only the voters
		RecoveryId:        id.RecoveryID,
	}
}

// register asks the leader, wherever it is, once; it asks everybody who is seen alive.
func (r *registrar) register(ctx context.Context, clusterID, replicaID string) error {
	req := r.request(clusterID, replicaID)
	var errs []error
	if r.local != nil {
		_, err := r.local.Join(ctx, req)
		if !errors.Is(err, metadata.ErrNotLeader) {
			return err
		}
	}
	for _, addr := range r.addrs(clusterID) {
		err := r.ask(ctx, addr, req)
		if _, rejected := errors.AsType[*fsm.Rejection](err); err == nil || rejected {
			return err
		}
		errs = append(errs, fmt.Errorf("%s: %w", addr, err))
	}
	if len(errs) == 0 {
		return errors.New("no node of the cluster is seen alive")
	}
	return errors.Join(errs...)
}

// addrs returns the Raft addresses of everybody in the cluster who may be asked.
func (r *registrar) addrs(clusterID string) []string {
	seen := make(map[string]bool)
	var addrs []string
	add := func(nodeID, addr string) {
		if nodeID != r.cfg.NodeID && addr != "" && !seen[addr] {
			seen[addr] = true
			addrs = append(addrs, addr)
		}
	}
	for _, m := range r.gossip.Members() {
		if m.ClusterID == clusterID {
			add(m.NodeID, m.RaftAddr)
		}
	}
	for _, p := range r.identity.get().Peers {
		add(p.NodeID, p.RaftAddr)
	}
	return addrs
}

func (r *registrar) ask(ctx context.Context, addr string, req *nodev1.JoinRequest) error {
	client, err := r.peers.ClientAt(addr)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, joinAttemptTimeout)
	defer cancel()
	resp, err := client.Join(ctx, req)
	if err != nil {
		return rejectionOf(err)
	}
	if resp.GetClusterId() != req.GetClusterId() {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER,
			"the node at %s belongs to cluster %s, not %s", addr, resp.GetClusterId(), req.GetClusterId())
	}
	return nil
}

// rejectionOf turns a refusal that came over the wire back into a *fsm.Rejection;
// other errors stay what they are.
func rejectionOf(err error) error {
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	info, reason := streamhousev1.FindErrorInfo(st)
	switch reason {
	case streamhousev1.ErrorReason_ERROR_REASON_NODE_ID_IN_USE,
		streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER,
		streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE,
		streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD:
		return &fsm.Rejection{Reason: reason, Message: st.Message(), Field: info.GetMetadata()["field"]}
	default:
		return err
	}
}

package fsm

import (
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

func nodeNotFound(id string) *Rejection {
	return reject(streamhousev1.ErrorReason_ERROR_REASON_NODE_NOT_FOUND, "there is no node %s", quoteShort(id))
}

// setNode puts a node into the sorted list.
func (tx *txn) setNode(n *Node) {
	i, ok := tx.nodeIndex(n.ID)
	nodes := slices.Clone(tx.nodes)
	if ok {
		nodes[i] = n
	} else {
		nodes = slices.Insert(nodes, i, n)
	}
	tx.nodes = nodes
}

func validateRegistration(c *metav1.RegisterNode) *Rejection {
	if err := ValidateNodeID(c.GetNodeId()); err != nil {
		return invalid("node_id", "%v", err)
	}
	if !isName(c.GetIncarnation(), maxNodeIDBytes) {
		return invalid("incarnation", "%s is not an id", quoteShort(c.GetIncarnation()))
	}
	if r := validateReplicaID("metadata_replica_id", c.GetMetadataReplicaId(), c.GetNodeId()); r != nil {
		return r
	}
	for _, f := range []struct {
		name, value string
		required    bool
	}{
		{"zone", c.GetZone(), false},
		{"raft_addr", c.GetRaftAddr(), true},
		{"grpc_addr", c.GetGrpcAddr(), false},
		{"http_addr", c.GetHttpAddr(), false},
		{"gossip_addr", c.GetGossipAddr(), false},
	} {
		if r := validateString(f.name, f.value, f.required); r != nil {
			return r
		}
	}
	return nil
}

// registerNode adds a node, or a new life or new addresses of a known one. The
// proposer has made sure that the old life has ended; with it went its replicas.
func (tx *txn) registerNode(c *metav1.RegisterNode) *Rejection {
	if r := validateRegistration(c); r != nil {
		return r
	}
	if c.GetFeatureLevel() < tx.featureLevel {
		return wrongState("the cluster needs feature level %d, node %s has %d: upgrade it",
			tx.featureLevel, c.GetNodeId(), c.GetFeatureLevel())
	}
	n := &Node{
		ID:                c.GetNodeId(),
		Incarnation:       c.GetIncarnation(),
		MetadataReplicaID: c.GetMetadataReplicaId(),
		Zone:              c.GetZone(),
		RaftAddr:          c.GetRaftAddr(),
		GRPCAddr:          c.GetGrpcAddr(),
		HTTPAddr:          c.GetHttpAddr(),
		GossipAddr:        c.GetGossipAddr(),
		FeatureLevel:      c.GetFeatureLevel(),
		State:             metav1.NodeState_NODE_STATE_ACTIVE,
		RegisteredMs:      c.GetTimeMs(),
	}
	if known, ok := tx.Node(n.ID); ok {
		// Incarnations are ULIDs, which order by the time at which they were minted.
		if n.Incarnation < known.Incarnation {
			return reject(streamhousev1.ErrorReason_ERROR_REASON_NODE_ID_IN_USE,
				"node id %s is in use by a newer incarnation", n.ID)
		}
		n.State = known.State
		if n.Incarnation > known.Incarnation {
			tx.loseReplicas(n.ID)
		}
	}
	tx.setNode(n)
	return nil
}

// loseReplicas marks all replicas of a node lost.
func (tx *txn) loseReplicas(nodeID string) {
	for _, s := range tx.shards {
		if s == nil {
			continue
		}
		for _, r := range s.Replicas {
			if r.GetNodeId() == nodeID {
				tx.setReplicaState(s.Number, r.GetReplicaId(), metav1.ReplicaState_REPLICA_STATE_LOST)
			}
		}
	}
}

func (tx *txn) setNodeState(c *metav1.SetNodeState) *Rejection {
	known, ok := tx.Node(c.GetNodeId())
	if !ok {
		return nodeNotFound(c.GetNodeId())
	}
	switch c.GetState() {
	case metav1.NodeState_NODE_STATE_ACTIVE:
	case metav1.NodeState_NODE_STATE_DRAINING, metav1.NodeState_NODE_STATE_DECOMMISSIONING:
		active := func(n *Node) bool { return n.ID != known.ID && n.State == metav1.NodeState_NODE_STATE_ACTIVE }
		if !slices.ContainsFunc(tx.nodes, active) {
			return reject(streamhousev1.ErrorReason_ERROR_REASON_CANNOT_PLACE_REPLICAS,
				"node %s is the last active one", known.ID)
		}
	default:
		return invalid("state", "%d is not a state", c.GetState())
	}
	n := *known
	n.State = c.GetState()
	tx.setNode(&n)
	return nil
}

// removeNode forgets a node that was emptied. One that is not there any more is no error.
func (tx *txn) removeNode(c *metav1.RemoveNode) *Rejection {
	i, ok := tx.nodeIndex(c.GetNodeId())
	if !ok {
		return nil
	}
	n := tx.nodes[i]
	switch {
	case n.Incarnation != c.GetIncarnation():
		return wrongState("node %s is another incarnation by now", n.ID)
	case n.State != metav1.NodeState_NODE_STATE_DECOMMISSIONING:
		return wrongState("node %s is not being decommissioned", n.ID)
	}
	for _, s := range tx.shards {
		if s == nil {
			continue
		}
		for _, r := range s.Replicas {
			if r.GetNodeId() == n.ID {
				return wrongState("node %s is still to hold a replica of shard %d", n.ID, s.Number)
			}
		}
	}
	tx.nodes = slices.Delete(slices.Clone(tx.nodes), i, i+1)
	return nil
}

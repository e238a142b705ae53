package controller

import (
	"fmt"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// CheckDrain says whether a node can be drained or decommissioned: everything
// that it holds can be placed on other active nodes that are alive. The error is
// a *fsm.Rejection. A nil alive takes all nodes for alive.
func CheckDrain(view *fsm.View, nodeID string, alive func(nodeID string) bool) error {
	node, ok := view.Node(nodeID)
	if !ok {
		return &fsm.Rejection{
			Reason:  streamhousev1.ErrorReason_ERROR_REASON_NODE_NOT_FOUND,
			Message: fmt.Sprintf("there is no node %q", nodeID),
		}
	}
	if alive == nil {
		alive = func(string) bool { return true }
	}
	var others []*fsm.Node
	for _, n := range activeNodes(view, alive) {
		if n.ID != nodeID {
			others = append(others, n)
		}
	}
	if node.State == metav1.NodeState_NODE_STATE_ACTIVE {
		staying := 0
		for _, n := range view.Nodes() {
			if n.State != metav1.NodeState_NODE_STATE_DECOMMISSIONING {
				staying++
			}
		}
		if want := min(wantedReplicas, staying); len(others) < want {
			return cannotPlace("node %s can't be emptied: %d other active nodes are alive, %d are needed; add a node first",
				nodeID, len(others), want)
		}
	}
	for _, s := range view.Shards() {
		if !holds(s, nodeID) {
			continue
		}
		free, holding := false, 0
		for _, n := range others {
			if holds(s, n.ID) {
				holding++
			} else {
				free = true
			}
		}
		// In the middle of a move there is one replica too many, and the others are enough already.
		if !free && holding < wantedReplicas {
			return cannotPlace("node %s can't be emptied: no other active node that is alive can take its replica of shard %d; add a node first",
				nodeID, s.Number)
		}
	}
	return nil
}

func cannotPlace(format string, args ...any) error {
	return &fsm.Rejection{
		Reason:  streamhousev1.ErrorReason_ERROR_REASON_CANNOT_PLACE_REPLICAS,
		Message: fmt.Sprintf(format, args...),
	}
}

// holds reports whether a node is wished to hold a replica of the shard.
func holds(s *fsm.Shard, nodeID string) bool {
	for _, r := range s.Replicas {
		if r.GetNodeId() == nodeID && !isLost(r) {
			return true
		}
	}
	return false
}

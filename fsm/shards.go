package fsm

import (
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

func shardNotFound(number uint32) *Rejection {
	return reject(streamhousev1.ErrorReason_ERROR_REASON_SHARD_NOT_FOUND, "there is no shard %d", number)
}

func (tx *txn) setShard(s *Shard) {
	shards := slices.Clone(tx.shards)
	shards[s.Number] = s
	tx.shards = shards
}

// setReplicaState moves a replica forward: new, started, lost. It reports false where that would be a step back.
func (tx *txn) setReplicaState(number uint32, replicaID string, state metav1.ReplicaState) bool {
	s := *tx.shards[number]
	i := slices.IndexFunc(s.Replicas, func(r *metav1.Replica) bool { return r.GetReplicaId() == replicaID })
	r := s.Replicas[i]
	if state <= r.GetState() {
		return state == r.GetState()
	}
	s.Replicas = slices.Clone(s.Replicas)
	s.Replicas[i] = &metav1.Replica{ReplicaId: r.GetReplicaId(), NodeId: r.GetNodeId(), State: state}
	if state == metav1.ReplicaState_REPLICA_STATE_STARTED {
		s.Initial = ""
	}
	tx.setShard(&s)
	return true
}

func (tx *txn) checkReplica(field string, r *metav1.Replica) *Rejection {
	if _, ok := tx.Node(r.GetNodeId()); !ok {
		return nodeNotFound(r.GetNodeId())
	}
	return validateReplicaID(field, r.GetReplicaId(), r.GetNodeId())
}

// createShard creates a shard with the replica that begins it. While that one
// has not started, nothing can have been written, and another may take its place.
func (tx *txn) createShard(c *metav1.CreateShard) *Rejection {
	number := c.GetShard()
	if number >= tx.NumShards() {
		return invalid("shard", "%d is not below %d", number, tx.NumShards())
	}
	id := c.GetReplica().GetReplicaId()
	version := uint64(1)
	if s, ok := tx.Shard(number); ok {
		if _, wished := s.Replica(id); wished {
			return nil
		}
		if s.Initial == "" {
			return wrongState("shard %d has begun already", number)
		}
		version = s.Version + 1
	}
	if r := tx.checkReplica("replica", c.GetReplica()); r != nil {
		return r
	}
	tx.setShard(&Shard{
		Number:   number,
		Replicas: []*metav1.Replica{newReplica(c.GetReplica())},
		Version:  version,
		Initial:  id,
	})
	return nil
}

func newReplica(r *metav1.Replica) *metav1.Replica {
	return &metav1.Replica{
		ReplicaId: r.GetReplicaId(), NodeId: r.GetNodeId(), State: metav1.ReplicaState_REPLICA_STATE_NEW,
	}
}

// setShardReplicas replaces the wish. Replicas keep the state that they have; new
// ones are new, whatever the command says.
func (tx *txn) setShardReplicas(c *metav1.SetShardReplicas) *Rejection {
	s, ok := tx.Shard(c.GetShard())
	if !ok {
		return shardNotFound(c.GetShard())
	}
	if sameReplicas(s.Replicas, c.GetReplicas()) {
		return nil
	}
	if c.GetVersion() != s.Version {
		return invalid("version", "the wish for shard %d has version %d, not %d", s.Number, s.Version, c.GetVersion())
	}
	if n := len(c.GetReplicas()); n < 1 || n > MaxReplicas {
		return invalid("replicas", "%d is not from 1 to %d", n, MaxReplicas)
	}
	wish := make([]*metav1.Replica, 0, len(c.GetReplicas()))
	ids, nodes := make(map[string]bool), make(map[string]bool)
	for _, r := range c.GetReplicas() {
		known, ok := s.Replica(r.GetReplicaId())
		if !ok {
			if rej := tx.checkReplica("replicas", r); rej != nil {
				return rej
			}
			known = newReplica(r)
		}
		if ids[known.GetReplicaId()] {
			return invalid("replicas", "%s is named twice", known.GetReplicaId())
		}
		ids[known.GetReplicaId()] = true
		if known.GetState() != metav1.ReplicaState_REPLICA_STATE_LOST {
			if nodes[known.GetNodeId()] {
				return invalid("replicas", "node %s is named twice", known.GetNodeId())
			}
			nodes[known.GetNodeId()] = true
		}
		wish = append(wish, known)
	}
	if s.Initial != "" && !ids[s.Initial] {
		return wrongState("shard %d has not begun, and %s is to begin it", s.Number, s.Initial)
	}
	tx.setShard(&Shard{Number: s.Number, Replicas: wish, Version: s.Version + 1, Initial: s.Initial})
	return nil
}

// sameReplicas compares two wishes by the replicas' ids, in any order.
func sameReplicas(a, b []*metav1.Replica) bool {
	ids := func(rs []*metav1.Replica) []string {
		out := make([]string, 0, len(rs))
		for _, r := range rs {
			out = append(out, r.GetReplicaId())
		}
		slices.Sort(out)
		return out
	}
	return slices.Equal(ids(a), ids(b))
}

// noteReplica notes that a replica has its files, or that they are gone.
func (tx *txn) noteReplica(c *metav1.NoteReplica) *Rejection {
	s, ok := tx.Shard(c.GetShard())
	if !ok {
		return shardNotFound(c.GetShard())
	}
	switch c.GetState() {
	case metav1.ReplicaState_REPLICA_STATE_STARTED, metav1.ReplicaState_REPLICA_STATE_LOST:
	default:
		return invalid("state", "%d can't be noted", c.GetState())
	}
	r, ok := s.Replica(c.GetReplicaId())
	if !ok {
		return wrongState("replica %s is not wished for in shard %d", quoteShort(c.GetReplicaId()), s.Number)
	}
	if s.Initial != "" && s.Initial != r.GetReplicaId() && c.GetState() == metav1.ReplicaState_REPLICA_STATE_STARTED {
		return wrongState("shard %d is to be begun by %s, not by %s", s.Number, s.Initial, r.GetReplicaId())
	}
	if !tx.setReplicaState(s.Number, r.GetReplicaId(), c.GetState()) {
		return wrongState("replica %s is lost", r.GetReplicaId())
	}
	return nil
}

package broker

import (
	"context"
	"fmt"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

// reopenHandOver bounds how long a damaged replica tries to give its leadership away.
const reopenHandOver = 5 * time.Second

// Reopen has a replica that was found damaged closed and opened again, soon: then its files are checked, and where they are
// damaged it is given up and replaced from the others. It is refused unless every other replica of the shard has all that
// this one has applied, since nothing that was acknowledged may be on damaged files alone. The only replica ends the node.
func (s *Shards) Reopen(ctx context.Context, number uint32, cause error) error {
	s.mu.RLock()
	h := s.running[number]
	s.mu.RUnlock()
	sh, ok := s.cfg.Metadata.View().Shard(number)
	if h == nil || !ok {
		return nil // it goes anyway
	}
	applied := h.shard.Replica().Raft().AppliedIndex()
	others := 0
	for _, r := range sh.Replicas {
		if r.GetNodeId() == s.cfg.NodeID || r.GetState() == metav1.ReplicaState_REPLICA_STATE_LOST {
			continue
		}
		if err := s.hasApplied(ctx, number, r, applied); err != nil {
			return fmt.Errorf("shard %d waits for its other replicas: %w", number, err)
		}
		others++
	}
	if others == 0 {
		s.cfg.Fatal(fmt.Errorf("the only replica of shard %d is damaged: %w", number, cause))
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reopen[number] = h.replicaID
	return nil
}

// hasApplied returns nil where another replica has applied an index.
func (s *Shards) hasApplied(ctx context.Context, number uint32, r *metav1.Replica, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	client, err := s.cfg.Peers.Client(r.GetNodeId())
	if err != nil {
		return err
	}
	res, err := client.GetReplica(ctx, &nodev1.GetReplicaRequest{Group: &nodev1.Group{Shard: number}})
	if err != nil {
		return fmt.Errorf("replica %s: %w", r.GetReplicaId(), err)
	}
	if res.GetReplicaId() != r.GetReplicaId() || res.GetAppliedIndex() < index {
		return fmt.Errorf("replica %s has applied index %d, not %d", res.GetReplicaId(), res.GetAppliedIndex(), index)
	}
	return nil
}

// toReopen reports, once, whether a running replica is to be closed and opened again.
func (s *Shards) toReopen(number uint32, h *hosted) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	id, ok := s.reopen[number]
	delete(s.reopen, number)
	return ok && h != nil && h.replicaID == id
}

// closeDamaged closes a replica; the next look opens it again.
func (s *Shards) closeDamaged(ctx context.Context, number uint32, h *hosted) error {
	s.log.Warn("replica is closed and checked, since it was found damaged", "shard", number, "replica", h.replicaID)
	ctx, cancel := context.WithTimeout(ctx, reopenHandOver)
	defer cancel()
	if err := h.shard.Replica().HandOver(ctx); err != nil {
		s.log.Info("leadership was not handed over", "shard", number, "error", err)
	}
	return s.stop(number, h)
}

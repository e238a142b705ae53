package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

// reopenHandOver bounds how long a damaged replica tries to give its leadership away.
const reopenHandOver = 5 * time.Second

// Reopen has a replica that was found damaged closed and opened again, soon: then its files are checked, and where they are
// damaged it is given up and replaced from the others. It is refused where GiveUp refuses it. The only replica ends the node.
func (s *Shards) Reopen(ctx context.Context, number uint32, cause error) error {
	s.mu.RLock()
	h := s.running[number]
	s.mu.RUnlock()
	if h == nil {
		return nil // it goes anyway
	}
	err := GiveUp(ctx, s.cfg.Peers, &nodev1.Group{Shard: number}, h.shard.Replica(), cause)
	switch {
	case errors.Is(err, ErrOnlyReplica):
		s.cfg.Fatal(fmt.Errorf("the only replica of shard %d is damaged: %w", number, cause))
		return nil
	case err != nil:
		return fmt.Errorf("shard %d: %w", number, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reopen[number] = h.replicaID
	return nil
}

// carriesWithout asks the other nodes for their replicas of a shard, and returns nil where those have all that is committed,
// and can go on without one of this node that does not run.
func (s *Shards) carriesWithout(ctx context.Context, sh *fsm.Shard, replicaID string) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	return replica.CarriesWithout(s.askOthers(ctx, sh), replicaID)
}

// askOthers asks the other nodes for their wished replicas of a shard.
func (s *Shards) askOthers(ctx context.Context, sh *fsm.Shard) []*nodev1.GetReplicaResponse {
	var nodes []nodev1.NodeServiceClient
	for _, r := range sh.Replicas {
		if r.GetNodeId() == s.cfg.NodeID {
			continue
		}
		if client, err := s.cfg.Peers.Client(r.GetNodeId()); err == nil {
			nodes = append(nodes, client)
		}
	}
	return replica.Ask(ctx, &nodev1.Group{Shard: sh.Number}, nodes)
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

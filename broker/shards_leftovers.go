package broker

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

// leftoversEvery is how often the host looks for files of replicas that this node does not have any more.
const leftoversEvery = 10 * time.Minute

// leftover is a directory with files of a replica that is neither wished nor running, as far as is known here.
type leftover struct {
	shard     uint32
	replicaID string
	dir       string
}

// discardLeftovers removes the files of replicas that were replaced while this node was away, and those that a crash has
// kept from being removed. No replica starts or stops meanwhile. What this node knows may be old, so it asks first: a
// replica's files go where it was noted as lost, or where the leader of its shard has a configuration without it.
func (s *Shards) discardLeftovers(ctx context.Context) error {
	found, err := s.leftovers(s.cfg.Metadata.View())
	if err != nil || len(found) == 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	if err := s.cfg.Metadata.Barrier(ctx); err != nil {
		return fmt.Errorf("the metadata group can't be asked: %w", err)
	}
	view := s.cfg.Metadata.View()
	former := make([]bool, len(found))
	var wg sync.WaitGroup
	for i, l := range found {
		wg.Go(func() { former[i] = s.isFormer(ctx, view, l) })
	}
	wg.Wait()
	for i, l := range found {
		if !former[i] {
			continue
		}
		if discardErr := replica.Discard(l.dir); discardErr != nil {
			err = errors.Join(err, discardErr)
			continue
		}
		s.log.Info("files of a former replica are removed", "shard", l.shard, "replica", l.replicaID)
	}
	return err
}

// isFormer reports whether a replica was noted as lost, or removed from its group.
func (s *Shards) isFormer(ctx context.Context, view *fsm.View, l leftover) bool {
	sh, ok := view.Shard(l.shard)
	if !ok || s.has(sh, l.replicaID) {
		return false
	}
	_, lost := sh.Replica(l.replicaID) // wished, and not to be had
	return lost || s.removed(ctx, sh, l.replicaID)
}

func (s *Shards) leftovers(view *fsm.View) ([]leftover, error) {
	var found []leftover
	for _, sh := range view.Shards() {
		names, err := replica.List(filepath.Join(s.cfg.Dir, strconv.FormatUint(uint64(sh.Number), 10)))
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if id := s.cfg.NodeID + "/" + name; !s.has(sh, id) {
				found = append(found, leftover{shard: sh.Number, replicaID: id, dir: s.dir(sh.Number, id)})
			}
		}
	}
	return found, nil
}

// has reports whether a replica of this node is running, or wished and not lost.
func (s *Shards) has(sh *fsm.Shard, replicaID string) bool {
	s.mu.RLock()
	h := s.running[sh.Number]
	s.mu.RUnlock()
	if h != nil && h.replicaID == replicaID {
		return true
	}
	r, wished := sh.Replica(replicaID)
	return wished && r.GetState() != metav1.ReplicaState_REPLICA_STATE_LOST
}

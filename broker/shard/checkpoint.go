package shard

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// checkpointTick is how often the local log's size is looked at.
	checkpointTick = time.Second
	// maxPinnedBytes is how much of the shard a snapshot may carry because the object store does not have it.
	maxPinnedBytes = 64 << 20
)

// errRestored says that a snapshot of the leader replaced the state in the middle of a checkpoint.
var errRestored = errors.New("state was replaced by the leader's snapshot")

// runCheckpoints cuts the local log when it has grown, on every replica.
func (s *Shard) runCheckpoints(ctx context.Context) {
	tick := time.NewTicker(checkpointTick)
	defer tick.Stop()
	var kept int64 // bytes of the log after the last checkpoint
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		bytes := s.replica.LogBytes()
		if bytes <= s.cfg.CheckpointBytes || bytes-kept < s.cfg.CheckpointBytes/4 || s.pendingBytes() > maxPinnedBytes {
			kept = min(kept, bytes)
			continue
		}
		if err := s.checkpoint(ctx); err != nil {
			if ctx.Err() == nil {
				s.log.Warn("checkpoint failed, trying again", "error", err, "log_bytes", bytes)
			}
			continue
		}
		kept = s.replica.LogBytes()
		if kept < bytes {
			s.log.Info("checkpoint", "log_bytes_before", bytes, "log_bytes", kept)
		}
	}
}

// checkpoint pins what the object store does not have, takes a Raft snapshot that carries it, and lets Raft cut the log.
func (s *Shard) checkpoint(ctx context.Context) error {
	l, err := s.pinPending(ctx)
	if err == nil {
		err = s.replica.Checkpoint()
	}
	first := s.replica.FirstIndex()
	s.fsm.mu.Lock()
	defer s.fsm.mu.Unlock()
	if first == 0 {
		first = s.fsm.snapshotted + 1 // the log was empty; entries may have come since
	}
	if s.fsm.local == l {
		l.pin, l.fresh = pinOff, nil
		l.trim(first)
	}
	return err
}

// pinPending reads every batch that is not in the object store into memory, outside of Raft's FSM goroutine. What is
// applied meanwhile is pinned as it comes, until the caller sets pinOff.
func (s *Shard) pinPending(ctx context.Context) (*local, error) {
	s.fsm.mu.Lock()
	l := s.fsm.local
	to, first := s.fsm.index, s.replica.FirstIndex()
	cursors := make(map[uint64]*cursor)
	ends, nexts := make(map[uint64]int64), make(map[uint64]int64)
	for id, p := range s.fsm.state.partitions {
		end := p.uploaded
		if run := l.pinned[id]; len(run) > 0 {
			end = run[len(run)-1].next()
		}
		if end == p.next {
			continue
		}
		cur, ok := s.fsm.cursorLocked(id, end, first)
		if !ok {
			s.fsm.mu.Unlock()
			return l, fmt.Errorf("partition id %d: offset %d is neither in memory nor in the log", id, end)
		}
		cursors[id], ends[id], nexts[id] = &cur, end, p.next
	}
	l.pin, l.fresh = pinFresh, make(map[uint64]memRun)
	s.fsm.mu.Unlock()

	older := make(map[uint64]memRun)
	err := s.scan(ctx, logRange{local: l, to: to}, cursors, func(id uint64, m memBatch) error {
		if m.base >= ends[id] {
			older[id] = append(older[id], m)
		}
		return nil
	})
	if err == nil {
		err = checkScanned(cursors, nexts)
	}

	s.fsm.mu.Lock()
	defer s.fsm.mu.Unlock()
	if s.fsm.local != l {
		return l, errRestored
	}
	if err != nil {
		return l, err
	}
	for id := range older {
		if s.fsm.state.partitions[id] == nil {
			delete(older, id) // dropped meanwhile
		}
	}
	l.pinOlder(older)
	for id := range l.pinned {
		l.unpin(id, s.fsm.state.partitions[id].uploaded)
	}
	return l, nil
}

// checkScanned says whether a scan of everything ended where the state machine was.
func checkScanned(cursors map[uint64]*cursor, nexts map[uint64]int64) error {
	for id, c := range cursors {
		if c.next != nexts[id] {
			return fmt.Errorf("partition id %d: the log was read up to offset %d, and has %d", id, c.next, nexts[id])
		}
	}
	return nil
}

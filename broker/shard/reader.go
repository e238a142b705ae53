package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/storage/record"
)

// cursor follows one partition through the Raft log: the batches from entry index on begin at offset next.
type cursor struct {
	index uint64
	next  int64
}

// HighWatermark returns the partition's high watermark as applied here, 0 for a partition without records.
func (s *Shard) HighWatermark(partitionID uint64) int64 {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.highWatermarkLocked(partitionID)
}

func (f *replicaFSM) highWatermarkLocked(partitionID uint64) int64 {
	if p := f.state.partitions[partitionID]; p != nil {
		return p.next
	}
	return 0
}

// LeaderHighWatermark returns the high watermark that includes all that was acknowledged before the call. It answers
// only on the leader, once that has applied what earlier leaders had committed: else *NotLeaderError or ErrNotReady.
func (s *Shard) LeaderHighWatermark(partitionID uint64) (int64, error) {
	if err := s.checkLeader(); err != nil {
		return 0, err
	}
	return s.HighWatermark(partitionID), nil
}

// WaitHighWatermark returns once the partition's high watermark here is at least atLeast, or with ctx's error.
func (s *Shard) WaitHighWatermark(ctx context.Context, partitionID uint64, atLeast int64) error {
	return s.wait(ctx, partitionID, func(p *partition) bool { return p.next >= atLeast })
}

// waitUploaded returns once the partition is in the object store up to end.
func (s *Shard) waitUploaded(ctx context.Context, partitionID uint64, end int64) error {
	return s.wait(ctx, partitionID, func(p *partition) bool { return p.uploaded >= end })
}

func (s *Shard) wait(ctx context.Context, partitionID uint64, reached func(*partition) bool) error {
	for {
		s.fsm.mu.Lock()
		p := s.fsm.state.partitions[partitionID]
		if p == nil {
			p = &partition{}
		}
		if reached(p) {
			s.fsm.mu.Unlock()
			return nil
		}
		changed := s.fsm.changedLocked(partitionID)
		s.fsm.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return ErrClosed
		}
	}
}

// Read returns whole record batches with their offsets filled in, from the one that holds offset, about maxBytes of
// them and at least one. It returns nothing at the high watermark, ErrBehind beyond it, and ErrBelowLocal where this
// replica has let go of the offset. The caller owns the result.
func (s *Shard) Read(ctx context.Context, partitionID uint64, offset int64, maxBytes int) ([]byte, error) {
	for try := 0; ; try++ {
		batches, err := s.readOnce(ctx, partitionID, offset, maxBytes)
		if errors.Is(err, raft.ErrLogNotFound) && try < maxReadTries {
			continue // cut while it was read: a checkpoint has pinned it, or it is uploaded
		}
		if errors.Is(err, raft.ErrLogNotFound) {
			return nil, ErrBelowLocal
		}
		if err != nil {
			return nil, err
		}
		return encodeBatches(batches), nil
	}
}

// maxReadTries is how often a read may run into a cut of the log.
const maxReadTries = 3

func (s *Shard) readOnce(ctx context.Context, partitionID uint64, offset int64, maxBytes int) ([]memBatch, error) {
	s.fsm.mu.RLock()
	hw := s.fsm.highWatermarkLocked(partitionID)
	if offset >= hw {
		s.fsm.mu.RUnlock()
		if offset > hw {
			return nil, ErrBehind
		}
		return nil, nil
	}
	batches := s.fsm.memoryLocked(partitionID, offset, maxBytes)
	from, inLog := s.fsm.cursorLocked(partitionID, offset, s.replica.FirstIndex())
	l, to := s.fsm.local, s.fsm.index
	s.fsm.mu.RUnlock()
	if len(batches) > 0 {
		return batches, nil
	}
	if !inLog {
		return nil, ErrBelowLocal
	}
	return s.readLog(ctx, logRange{local: l, to: to}, partitionID, from, offset, maxBytes)
}

// memoryLocked returns the batches from offset on that are in the tail or pinned, up to maxBytes and at least one.
func (f *replicaFSM) memoryLocked(partitionID uint64, offset int64, maxBytes int) []memBatch {
	run, ok := f.local.tail.runs[partitionID].from(offset)
	if !ok {
		run, ok = f.local.pinned[partitionID].from(offset)
	}
	if !ok {
		return nil
	}
	n, bytes := 1, len(run[0].data)
	for n < len(run) && bytes+len(run[n].data) <= maxBytes {
		bytes += len(run[n].data)
		n++
	}
	return append([]memBatch(nil), run[:n]...)
}

func (f *replicaFSM) cursorLocked(partitionID uint64, offset int64, first uint64) (cursor, bool) {
	x := f.local.index[partitionID]
	if x == nil || first == 0 { // the log is empty
		return cursor{}, false
	}
	p, ok := x.floor(offset, first)
	return cursor{index: p.index, next: p.base}, ok
}

// errEnough ends a scan early.
var errEnough = errors.New("enough")

func (s *Shard) readLog(ctx context.Context, r logRange, partitionID uint64, from cursor, offset int64, maxBytes int) ([]memBatch, error) {
	var batches []memBatch
	bytes := 0
	err := s.scan(ctx, r, map[uint64]*cursor{partitionID: &from}, func(_ uint64, m memBatch) error {
		if m.next() <= offset {
			return nil
		}
		if len(batches) > 0 && bytes+len(m.data) > maxBytes {
			return errEnough
		}
		batches = append(batches, m)
		bytes += len(m.data)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(batches) == 0 || batches[0].base > offset {
		return nil, fmt.Errorf("shard %d, partition id %d: offset %d is not where the log's index says", s.cfg.Shard, partitionID, offset)
	}
	return batches, nil
}

// logRange is how far a scan goes, and the index that its cursors came from.
type logRange struct {
	local *local
	to    uint64
}

// errOvertaken ends a scan when a checkpoint or a snapshot of the leader has overtaken it: which batches were
// stored is no longer known. It says what raft.ErrLogNotFound says.
var errOvertaken = fmt.Errorf("the log was cut while it was read: %w", raft.ErrLogNotFound)

// scan calls fn for the stored batches of the cursors' partitions, in the order of the Raft log, up to the range's end.
// fn may end it with errEnough. The batches alias memory that nobody writes.
func (s *Shard) scan(ctx context.Context, r logRange, cursors map[uint64]*cursor, fn func(partitionID uint64, m memBatch) error) error {
	from := r.to + 1
	for _, c := range cursors {
		from = min(from, c.index)
	}
	for index := from; index <= r.to; index++ {
		if err := ctx.Err(); err != nil {
			return err
		}
		l, err := s.replica.Log(index)
		if err != nil {
			return fmt.Errorf("read shard %d's log at %d: %w", s.cfg.Shard, index, err)
		}
		if l.Type != raft.LogCommand {
			continue
		}
		switch err := s.scanEntry(r.local, l, cursors, fn); {
		case errors.Is(err, errEnough):
			return nil
		case err != nil:
			return entryError(s.cfg.Shard, index, err)
		}
	}
	return nil
}

func (s *Shard) scanEntry(local *local, l *raft.Log, cursors map[uint64]*cursor, fn func(uint64, memBatch) error) error {
	kind, _, body, err := entryHeader(l.Data)
	if err != nil || kind != kindAppend {
		return err
	}
	s.fsm.mu.RLock()
	known := s.fsm.local == local && l.Index >= local.trimmed
	rejected := rejectedFrom(local.rejected, l.Index)
	s.fsm.mu.RUnlock()
	if !known {
		return errOvertaken
	}
	return eachAppend(body, func(i int, id uint64, b record.Batch) error {
		if len(rejected) > 0 && rejected[0] == (batchPlace{l.Index, i}) {
			rejected = rejected[1:]
			return nil
		}
		c := cursors[id]
		if c == nil || l.Index < c.index {
			return nil
		}
		m := memBatch{base: c.next, data: b}
		c.next = m.next()
		return fn(id, m)
	})
}

// encodeBatches copies batches into one buffer and fills their base offsets in; the CRC does not cover those.
func encodeBatches(batches []memBatch) []byte {
	n := 0
	for _, m := range batches {
		n += len(m.data)
	}
	if n == 0 {
		return nil
	}
	buf := make([]byte, 0, n)
	for _, m := range batches {
		at := len(buf)
		buf = append(buf, m.data...)
		binary.BigEndian.PutUint64(buf[at:], uint64(m.base))
	}
	return buf
}

// FindTime returns the first record here, behind what is in the object store, with the timestamp or a later one.
func (s *Shard) FindTime(ctx context.Context, partitionID uint64, timestampMs int64) (offset, foundMs int64, found bool, err error) {
	s.fsm.mu.RLock()
	if p := s.fsm.state.partitions[partitionID]; p != nil {
		offset = p.uploaded
	}
	s.fsm.mu.RUnlock()
	for {
		data, err := s.Read(ctx, partitionID, offset, findBytes)
		if err != nil || len(data) == 0 {
			return 0, 0, false, err
		}
		batches, err := record.Split(data)
		if err != nil {
			return 0, 0, false, err
		}
		for _, b := range batches {
			offset = b.NextOffset()
			if b.MaxTimestamp() < timestampMs {
				continue
			}
			for r, err := range b.All() {
				if err != nil {
					return 0, 0, false, err
				}
				if r.TimestampMs >= timestampMs {
					return r.Offset, r.TimestampMs, true, nil
				}
			}
		}
	}
}

// findBytes is how much FindTime reads at once.
const findBytes = 1 << 20

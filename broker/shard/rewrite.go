package shard

import (
	"context"
	"fmt"
	"time"

	"github.com/oklog/ulid/v2"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// rewriteTimeout bounds the rewriting of an object. What is cut short is repeated under another name.
const rewriteTimeout = 5 * time.Minute

// RewriteObject writes the segments of a damaged object that the log here still has into a new object, and has the manifest
// list that instead. It works on every replica: what is applied is committed, and the same everywhere. It returns how
// many segments were listed, which may be fewer than those asked for, and none where another node was faster. ErrBelowLocal says
// that the log has none of them whole, ErrOtherRecords that it has others; any other error may be another one at the next try,
// also one beside segments, which are listed then.
//
// The damaged object is let go of by the manifest and condemned by the janitor, not overwritten or deleted here. Whatever is
// not known to be listed, because of an error, is an object that nobody reads, and is removed by the janitor.
func (s *Shard) RewriteObject(ctx context.Context, name string, listed []*metav1.SegmentEntry) (segments int, err error) {
	ctx, cancel := context.WithTimeout(ctx, rewriteTimeout)
	defer cancel()
	if level := s.cfg.Metadata.View().FeatureLevel(); level < fsm.FeatureLevelReplace {
		return 0, fmt.Errorf("the cluster is at feature level %d, objects are written anew from %d on: upgrade all nodes", level, fsm.FeatureLevelReplace)
	}
	runs, err := s.listedRuns(ctx, listed)
	if err != nil {
		return 0, err
	}
	ids := make([]uint64, 0, len(runs))
	for _, e := range listed {
		if len(runs[e.GetPartitionId()]) > 0 {
			ids = append(ids, e.GetPartitionId())
		}
	}
	replacement, obj, err := s.buildObject(ulid.Make(), ids, runs)
	if err != nil || obj == nil {
		return 0, err
	}
	if err := sameSegments(obj.Segments, listed); err != nil {
		return 0, fmt.Errorf("object %s is not written anew: %w", name, err)
	}
	if err := s.cfg.Uploads.Put(ctx, replacement, obj.Body(), obj.SizeBytes); err != nil {
		return 0, fmt.Errorf("put object %s: %w", replacement, err)
	}
	res, err := s.proposeListing(ctx, replacement, &metav1.Command{Command: &metav1.Command_ReplaceSegments{ReplaceSegments: &metav1.ReplaceSegments{
		Object: name, Replacement: replacement, ReplacementBytes: uint64(obj.SizeBytes), Shard: s.cfg.Shard, Segments: obj.Segments,
	}}})
	if err != nil {
		return 0, err
	}
	for _, outcome := range res.GetSegments() {
		if outcome == metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED || outcome == metav1.SegmentOutcome_SEGMENT_OUTCOME_ALREADY_COMMITTED {
			segments++
		}
	}
	return segments, s.cfg.Metadata.Barrier(ctx)
}

// listedRuns reads the batches of those listed segments that the log here has whole, of each partition one. It returns
// ErrBelowLocal where it has none.
func (s *Shard) listedRuns(ctx context.Context, listed []*metav1.SegmentEntry) (map[uint64]memRun, error) {
	cursors := make(map[uint64]*cursor)
	want := make(map[uint64]*metav1.SegmentEntry)
	s.fsm.mu.RLock()
	r, first := logRange{local: s.fsm.local, to: s.fsm.index}, s.replica.FirstIndex()
	for _, e := range listed {
		id := e.GetPartitionId()
		cur, ok := s.fsm.cursorLocked(id, e.GetBaseOffset(), first)
		if ok && e.GetEndOffset() <= s.fsm.highWatermarkLocked(id) {
			cursors[id], want[id] = &cur, e
		}
	}
	s.fsm.mu.RUnlock()
	if len(want) == 0 {
		return nil, ErrBelowLocal
	}
	runs := make(map[uint64]memRun, len(want))
	left := len(want)
	err := s.scan(ctx, r, cursors, func(id uint64, m memBatch) error {
		e := want[id]
		if m.next() <= e.GetBaseOffset() || m.base >= e.GetEndOffset() {
			return nil
		}
		runs[id] = append(runs[id], m)
		if m.next() < e.GetEndOffset() {
			return nil
		}
		if left--; left == 0 {
			return errEnough
		}
		return nil
	})
	return runs, err // raft.ErrLogNotFound where the log was cut meanwhile: the next try has what is left
}

// sameSegments says what segments have, that were made from the log, that those have not which the manifest lists. Batches are
// stored byte for byte, so what has other bytes or times has other records, and is not what is missing.
func sameSegments(made, listed []*metav1.SegmentEntry) error {
	want := make(map[uint64]*metav1.SegmentEntry, len(listed))
	for _, e := range listed {
		want[e.GetPartitionId()] = e
	}
	for _, e := range made {
		w := want[e.GetPartitionId()]
		if e.GetBaseOffset() != w.GetBaseOffset() || e.GetEndOffset() != w.GetEndOffset() || e.GetSizeBytes() != w.GetSizeBytes() ||
			e.GetMaxTimestampMs() != w.GetMaxTimestampMs() {
			return fmt.Errorf("%w: partition id %d: the log has offsets %d to %d in %d bytes, the manifest %d to %d in %d", ErrOtherRecords, e.GetPartitionId(),
				e.GetBaseOffset(), e.GetEndOffset(), e.GetSizeBytes(), w.GetBaseOffset(), w.GetEndOffset(), w.GetSizeBytes())
		}
	}
	return nil
}

// buildObject makes an object of runs of partitions. It is nil where all of these are deleted.
func (s *Shard) buildObject(id ulid.ULID, ids []uint64, runs map[uint64]memRun) (name string, obj *segment.Object, err error) {
	name = segment.Name(s.cfg.ClusterID, s.cfg.Shard, id)
	view := s.cfg.Metadata.View()
	w := segment.NewWriter(segment.Source{
		ClusterID: s.cfg.ClusterID, NodeID: s.cfg.NodeID, Shard: s.cfg.Shard, CreatedMs: int64(id.Time()), RecoveryID: view.RecoveryID(),
	})
	known := false
	for _, pid := range ids {
		p, ok := view.Partition(pid)
		if !ok {
			continue // deleted since the cut; the sweep drops it
		}
		known = true
		w.Begin(segmentPartition(view, p))
		for _, m := range runs[pid] {
			w.Append(m.data, m.base)
		}
	}
	if !known {
		return name, nil, nil
	}
	obj, err = w.Finish()
	if err != nil {
		return name, nil, fmt.Errorf("build object %s: %w", name, err)
	}
	return name, obj, nil
}

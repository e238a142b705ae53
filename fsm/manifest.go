package fsm

import (
	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// maxSegmentBytes is far above what is ever uploaded at once, and keeps sums from overflowing.
const maxSegmentBytes = 1 << 40

func validateSegments(segments []*metav1.SegmentEntry, objectBytes uint64) *Rejection {
	if len(segments) == 0 {
		return invalid("segments", "must not be empty")
	}
	seen := make(map[uint64]bool, len(segments))
	for i, e := range segments {
		if seen[e.GetPartitionId()] {
			return invalid("segments", "number %d is the second one of partition id %d", i, e.GetPartitionId())
		}
		seen[e.GetPartitionId()] = true
		end := e.GetPosition() + e.GetSizeBytes()
		indexEnd := e.GetIndexPosition() + e.GetIndexBytes()
		switch {
		case e.GetBaseOffset() < 0 || e.GetEndOffset() <= e.GetBaseOffset():
			return invalid("segments", "number %d has the offsets %d to %d", i, e.GetBaseOffset(), e.GetEndOffset())
		case e.GetSizeBytes() == 0 || e.GetSizeBytes() > maxSegmentBytes ||
			end < e.GetPosition() || end > objectBytes:
			return invalid("segments", "number %d lies outside of its object", i)
		case indexEnd < e.GetIndexPosition() || indexEnd > objectBytes:
			return invalid("segments", "the index of number %d lies outside of its object", i)
		}
	}
	return nil
}

// commitSegments lists the segments of an object, each for itself: one that does
// not follow what its partition has is refused, the others are not.
func (tx *txn) commitSegments(c *metav1.CommitSegments) *Rejection {
	return tx.commitObject("object", c.GetObject(), c.GetObjectBytes(), c.GetSegments(), func(e *metav1.SegmentEntry) metav1.SegmentOutcome {
		return tx.commitSegment(c.GetObject(), c.GetShard(), e)
	})
}

// commitObject checks an object and the segments that it has, and lists it with those of them that commit takes.
func (tx *txn) commitObject(
	field, name string, bytes uint64, segments []*metav1.SegmentEntry, commit func(*metav1.SegmentEntry) metav1.SegmentOutcome,
) *Rejection {
	if r := validateString(field, name, true); r != nil {
		return r
	}
	if r := validateSegments(segments, bytes); r != nil {
		return r
	}
	if _, ok := tx.dropped.Get(name); ok {
		return invalid(field, "%s is condemned", name)
	}
	o, _ := tx.objects.Get(name)
	o.bytes = max(o.bytes, bytes)
	outcomes := make([]metav1.SegmentOutcome, 0, len(segments))
	for _, e := range segments {
		outcome := commit(e)
		if outcome == metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED {
			o.live++
		}
		outcomes = append(outcomes, outcome)
	}
	tx.setObject(name, o)
	tx.result.Segments = outcomes
	return nil
}

func (tx *txn) commitSegment(object string, shard uint32, e *metav1.SegmentEntry) metav1.SegmentOutcome {
	known, ok := tx.Partition(e.GetPartitionId())
	if !ok || known.Shard != shard {
		return metav1.SegmentOutcome_SEGMENT_OUTCOME_NO_PARTITION
	}
	seg := newSegment(object, e)
	if seg.BaseOffset != known.NextBase() {
		if ref, ok := known.FindSegment(seg.BaseOffset); ok && newSegment(ref.GetObject(), ref.GetEntry()) == seg {
			return metav1.SegmentOutcome_SEGMENT_OUTCOME_ALREADY_COMMITTED
		}
		return metav1.SegmentOutcome_SEGMENT_OUTCOME_STALE_BASE
	}
	p := *known
	p.Segments = append(p.Segments, seg)
	p.UploadedEnd = seg.EndOffset
	p.segmentBytes += int64(seg.SizeBytes)
	tx.partitions = tx.partitions.Set(p.ID, &p)
	return metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED
}

func (tx *txn) setObject(name string, o object) {
	tx.objects = tx.objects.Set(name, o)
	if o.live == 0 {
		tx.unused = tx.unused.Set(name, struct{}{})
	} else {
		tx.unused = tx.unused.Delete(name)
	}
}

// releaseSegments takes segments off the counts of their objects.
func (tx *txn) releaseSegments(segments []Segment) {
	for i := range segments {
		o, _ := tx.objects.Get(segments[i].Object)
		o.live--
		tx.setObject(segments[i].Object, o)
	}
}

// trimPartition moves the log start forward and lets go of the segments that
// are wholly below it.
func (tx *txn) trimPartition(c *metav1.TrimPartition) *Rejection {
	known, ok := tx.Partition(c.GetPartitionId())
	if !ok {
		return reject(streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND, "there is no partition with id %d", c.GetPartitionId())
	}
	start := c.GetLogStartOffset()
	if start < 0 {
		return invalid("log_start_offset", "%d is below 0", start)
	}
	if start <= known.LogStart {
		return nil
	}
	p := *known
	p.LogStart = start
	n := 0
	for n < len(p.Segments) && p.Segments[n].EndOffset <= start {
		p.segmentBytes -= int64(p.Segments[n].SizeBytes)
		n++
	}
	tx.releaseSegments(p.Segments[:n])
	p.Segments = p.Segments[n:]
	if len(p.Segments) == 0 {
		p.Segments = nil
	}
	tx.partitions = tx.partitions.Set(p.ID, &p)
	return nil
}

// dropObjects condemns objects. Those with live segments are left out.
func (tx *txn) dropObjects(c *metav1.DropObjects) *Rejection {
	for _, name := range c.GetObjects() {
		if r := validateString("objects", name, true); r != nil {
			return r
		}
	}
	for _, name := range c.GetObjects() {
		if o, ok := tx.objects.Get(name); ok {
			if o.live > 0 {
				continue
			}
			tx.objects = tx.objects.Delete(name)
			tx.unused = tx.unused.Delete(name)
		}
		if _, ok := tx.dropped.Get(name); !ok {
			tx.dropped = tx.dropped.Set(name, c.GetTimeMs())
		}
		tx.result.Dropped = append(tx.result.Dropped, name)
	}
	return nil
}

func (tx *txn) forgetObjects(c *metav1.ForgetObjects) *Rejection {
	for _, name := range c.GetObjects() {
		tx.dropped = tx.dropped.Delete(name)
	}
	return nil
}

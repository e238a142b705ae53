package fsm

import (
	"slices"
	"sort"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// replaceSegments lists segments of one object where another one has the same offsets, each for itself: what the manifest does
// not have in the other object, any more or at all, is refused, and the rest is not. So of two that write an object anew one
// is listed, and whoever comes late changes nothing. What the other object is left without is counted off it: an object
// without segments is for the janitor.
func (tx *txn) replaceSegments(c *metav1.ReplaceSegments) *Rejection {
	name := c.GetReplacement()
	if r := validateString("object", c.GetObject(), true); r != nil {
		return r
	}
	if name == c.GetObject() {
		return invalid("replacement", "%s can't replace itself", name)
	}
	var replaced []Segment
	r := tx.commitObject("replacement", name, c.GetReplacementBytes(), c.GetSegments(), func(e *metav1.SegmentEntry) metav1.SegmentOutcome {
		old, outcome := tx.replaceSegment(c.GetObject(), name, c.GetShard(), e)
		if outcome == metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED {
			replaced = append(replaced, old)
		}
		return outcome
	})
	tx.releaseSegments(replaced)
	return r
}

// replaceSegment returns the segment that the manifest had, where it was replaced.
func (tx *txn) replaceSegment(object, replacement string, shard uint32, e *metav1.SegmentEntry) (Segment, metav1.SegmentOutcome) {
	known, ok := tx.Partition(e.GetPartitionId())
	if !ok || known.Shard != shard {
		return Segment{}, metav1.SegmentOutcome_SEGMENT_OUTCOME_NO_PARTITION
	}
	seg := newSegment(replacement, e)
	i := sort.Search(len(known.Segments), func(i int) bool { return known.Segments[i].EndOffset >= seg.EndOffset })
	if i == len(known.Segments) {
		return Segment{}, metav1.SegmentOutcome_SEGMENT_OUTCOME_STALE_BASE
	}
	old := known.Segments[i]
	switch {
	case old == seg:
		return Segment{}, metav1.SegmentOutcome_SEGMENT_OUTCOME_ALREADY_COMMITTED
	case old.Object != object || old.BaseOffset != seg.BaseOffset || old.EndOffset != seg.EndOffset ||
		old.SizeBytes != seg.SizeBytes || old.MaxTimestampMs != seg.MaxTimestampMs:
		return Segment{}, metav1.SegmentOutcome_SEGMENT_OUTCOME_STALE_BASE
	}
	p := *known
	p.Segments = slices.Clone(p.Segments)
	p.Segments[i] = seg
	tx.partitions = tx.partitions.Set(p.ID, &p)
	return old, metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED
}

package controller

import (
	"cmp"
	"math"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// planRetention returns which partitions begin later from now on, at most limit
// of them, by retention.ms and retention.bytes. Only whole segments go. It begins
// behind the partition with the id after, and goes round, so that each has its
// turn where more are due than a round can do.
func planRetention(view *fsm.View, nowMs int64, after uint64, limit int) []*metav1.TrimPartition {
	var trims []*metav1.TrimPartition
	for t := range view.Topics() {
		c := t.EffectiveConfig()
		for _, id := range t.PartitionIDs {
			p, ok := view.Partition(id)
			if !ok {
				continue
			}
			if start := keptFrom(p, c, nowMs); start > p.LogStart {
				trims = append(trims, &metav1.TrimPartition{PartitionId: id, LogStartOffset: start})
			}
		}
	}
	// Counted from behind after on, what is up to it comes last: the numbers wrap.
	turn := func(t *metav1.TrimPartition) uint64 { return t.GetPartitionId() - after - 1 }
	slices.SortFunc(trims, func(a, b *metav1.TrimPartition) int { return cmp.Compare(turn(a), turn(b)) })
	return trims[:min(len(trims), limit)]
}

// keptFrom returns the offset from which a partition is kept.
func keptFrom(p *fsm.Partition, c fsm.EffectiveConfig, nowMs int64) int64 {
	oldest := int64(math.MinInt64)
	if c.RetentionMs != fsm.Unlimited && nowMs > math.MinInt64+c.RetentionMs {
		oldest = nowMs - c.RetentionMs
	}
	start, bytes := p.LogStart, p.SegmentBytes()
	for i := range p.Segments {
		s := &p.Segments[i]
		tooOld := s.MaxTimestampMs < oldest
		tooMuch := c.RetentionBytes != fsm.Unlimited && bytes-int64(s.SizeBytes) >= c.RetentionBytes
		if !tooOld && !tooMuch {
			break
		}
		start = s.EndOffset
		bytes -= int64(s.SizeBytes)
	}
	return start
}

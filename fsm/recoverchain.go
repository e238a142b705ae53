package fsm

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
)

// extend adds to each partition what newer objects have of it.
func (rb *rebuild) extend() error {
	earlier := make(map[string]bool)
	for id, found := range rb.found {
		p, ok := rb.partitions[id]
		if !ok {
			continue // Its number was taken by another partition, or its topic was replaced.
		}
		rb.renew(p, found)
		kept := history(found, func(object string) { earlier[object] = true })
		if _, known := rb.base.Partition(id); !known {
			// Whether the records before the first that was found were lost or removed by retention, nobody knows.
			p.LogStart = lowestBase(kept)
		}
		p.Segments = append(p.Segments, chain(rb.in.ClusterID, id, p.NextBase(), kept)...)
		if n := len(p.Segments); n > 0 {
			p.UploadedEnd = max(p.UploadedEnd, p.Segments[n-1].EndOffset)
		}
		if err := times(p); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(earlier)) {
		rb.out.skip(rb.there[name], "it has offsets at which a later life of the cluster went on")
	}
	return nil
}

// renew takes of segments that the checkpoint has those that were written anew after it, in place of damaged ones: of the same
// life and the same offsets, in a newer object.
func (rb *rebuild) renew(p *Partition, found []foundSegment) {
	for i := range found {
		f := &found[i]
		k, ok := slices.BinarySearchFunc(p.Segments, f.BaseOffset, func(s Segment, base int64) int { return cmp.Compare(s.BaseOffset, base) })
		if !ok || f.life != rb.base.recoveryID {
			continue
		}
		if known := &p.Segments[k]; f.EndOffset == known.EndOffset && !IsLost(known.Object) && compareAge(f.Object, known.Object) > 0 {
			*known = f.Segment
		}
	}
}

// history returns what is left without that which an earlier life of the cluster has of offsets at which, or before which, a
// later one went on; leftOut is told the objects of that. All are of one life but where the checkpoints of the later ones are
// damaged. Of the newest life everything is kept.
func history(found []foundSegment, leftOut func(object string)) []Segment {
	slices.SortStableFunc(found, func(a, b foundSegment) int { return cmp.Compare(b.life, a.life) })
	kept := make([]Segment, 0, len(found))
	end := int64(math.MaxInt64) // of the life
	for i := 0; i < len(found); {
		began := end // where the life after it began
		for life := found[i].life; i < len(found) && found[i].life == life; i++ {
			end = min(end, found[i].BaseOffset)
			if found[i].EndOffset <= began {
				kept = append(kept, found[i].Segment)
			} else {
				leftOut(found[i].Object)
			}
		}
	}
	return kept
}

func lowestBase(segments []Segment) int64 {
	low := int64(math.MaxInt64)
	for i := range segments {
		low = min(low, segments[i].BaseOffset)
	}
	return low
}

// times gives a lost run the time of the one before it: retention lets both go together, and nobody looks into it for a
// time.
func times(p *Partition) error {
	for i := range p.Segments {
		s := &p.Segments[i]
		if IsLost(s.Object) && i > 0 {
			s.MaxTimestampMs = p.Segments[i-1].MaxTimestampMs
		}
		if s.EndOffset <= s.BaseOffset || s.SizeBytes > maxSegmentBytes {
			return fmt.Errorf("partition id %d: object %s has a segment of %d bytes from offset %d to %d",
				p.ID, s.Object, s.SizeBytes, s.BaseOffset, s.EndOffset)
		}
	}
	return nil
}

// compareAge compares names of objects, the older one first. They end in ULIDs, which sort as text by the time when they were
// made; what is before that is of a hash.
func compareAge(a, b string) int {
	return cmp.Or(cmp.Compare(path.Base(a), path.Base(b)), cmp.Compare(a, b))
}

// chain returns segments that follow one another from the offset from on to the highest end that was found, with as few
// lost offsets as can be. Two leaders may have uploaded the same records, and only one of them listed them: both are
// what was committed. Of two with the same offsets the newer one is taken: it may have been written in place of the other one,
// whose records were found damaged.
func chain(clusterID string, partitionID uint64, from int64, found []Segment) []Segment {
	at := []int64{from}
	var usable []Segment
	for _, s := range found {
		if s.BaseOffset >= from && s.EndOffset > s.BaseOffset {
			usable = append(usable, s)
			at = append(at, s.BaseOffset, s.EndOffset)
		}
	}
	slices.Sort(at)
	at = slices.Compact(at)
	slices.SortFunc(usable, func(a, b Segment) int {
		return cmp.Or(cmp.Compare(a.BaseOffset, b.BaseOffset), cmp.Compare(b.EndOffset, a.EndOffset), compareAge(b.Object, a.Object))
	})
	// lost[i] is how many offsets are lost at least from at[i] on, use[i] the segment to take there, -1 for a hole.
	lost, use := make([]int64, len(at)), make([]int, len(at))
	s := len(usable) - 1
	for i := len(at) - 2; i >= 0; i-- {
		lost[i], use[i] = lost[i+1]+at[i+1]-at[i], -1
		for ; s >= 0 && usable[s].BaseOffset == at[i]; s-- {
			end, _ := slices.BinarySearch(at, usable[s].EndOffset)
			if lost[end] <= lost[i] {
				lost[i], use[i] = lost[end], s
			}
		}
	}
	var out []Segment
	for i := 0; i < len(at)-1; {
		if use[i] >= 0 {
			out = append(out, usable[use[i]])
			i, _ = slices.BinarySearch(at, usable[use[i]].EndOffset)
			continue
		}
		begin := at[i]
		for i < len(at)-1 && use[i] < 0 {
			i++
		}
		out = append(out, Segment{Object: LostObject(clusterID, partitionID, begin, at[i]), BaseOffset: begin, EndOffset: at[i]})
	}
	return out
}

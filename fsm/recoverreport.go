package fsm

import "slices"

// RecoveryReport says what a recovery has found.
type RecoveryReport struct {
	RecoveryID string
	Topics     []RecoveredTopic
	// Replaced are the names of topics of the checkpoint that were deleted since: newer ones have their names.
	Replaced []string
	// DeletedSegments counts segments of deleted topics in objects that the checkpoint does not know.
	DeletedSegments int
	// Skipped are objects that nothing was taken from, because they can't be read.
	Skipped []SkippedObject

	unknownConfig [][16]byte
}

// RecoveredTopic is a topic that came back.
type RecoveredTopic struct {
	Name       string
	UUID       [16]byte
	Partitions []RecoveredPartition
	// ConfigUnknown says that the checkpoint did not have the topic: its config is the default, and partitions without
	// records above the highest one that was found are not there.
	ConfigUnknown bool
}

// RecoveredPartition is a partition that came back.
type RecoveredPartition struct {
	Number int32
	ID     uint64
	// LogStart and End are its first offset, and the one that the next record gets.
	LogStart, End int64
	// Records can be read.
	Records int64
	Gaps    []RecoveredGap
}

// RecoveredGap is a run of offsets whose records can't be read.
type RecoveredGap struct {
	From, To int64
	// Object would have them; empty where nobody knows.
	Object string
	Reason string
}

// SkippedObject is one that nothing was taken from.
type SkippedObject struct {
	Name, Reason string
}

// Records returns how many records can be read in all topics.
func (r *RecoveryReport) Records() int64 {
	var n int64
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			n += p.Records
		}
	}
	return n
}

// LostRecords returns how many offsets are in gaps.
func (r *RecoveryReport) LostRecords() int64 {
	var n int64
	for _, t := range r.Topics {
		for _, p := range t.Partitions {
			for _, g := range p.Gaps {
				n += g.To - g.From
			}
		}
	}
	return n
}

func (r *RecoveryReport) skip(o *FoundObject, reason string) {
	if o.Err != nil {
		reason += ": " + o.Err.Error()
	}
	r.Skipped = append(r.Skipped, SkippedObject{Name: o.Name, Reason: reason})
}

// report fills in what a view has.
func (rb *rebuild) report(v *View) *RecoveryReport {
	for t := range v.Topics() {
		rt := RecoveredTopic{Name: t.Name, UUID: t.UUID, ConfigUnknown: slices.Contains(rb.out.unknownConfig, t.UUID)}
		for _, id := range t.PartitionIDs {
			p, _ := v.Partition(id)
			rp := RecoveredPartition{Number: p.Number, ID: id, LogStart: p.LogStart, End: p.NextBase(), Gaps: rb.gaps(v, p)}
			rp.Records = rp.End - rp.LogStart
			for _, g := range rp.Gaps {
				rp.Records -= g.To - g.From
			}
			rt.Partitions = append(rt.Partitions, rp)
		}
		rb.out.Topics = append(rb.out.Topics, rt)
	}
	return rb.out
}

// gaps returns what of a partition can't be read.
func (rb *rebuild) gaps(v *View, p *Partition) []RecoveredGap {
	var gaps []RecoveredGap
	for i := range p.Segments {
		s := &p.Segments[i]
		g := RecoveredGap{From: max(s.BaseOffset, p.LogStart), To: s.EndOffset, Object: s.Object}
		listed, _ := v.objects.Get(s.Object)
		o, there := rb.there[s.Object]
		switch {
		case IsLost(s.Object):
			g.Object, g.Reason = "", "no object has it"
		case !there:
			g.Reason = "the object is missing"
		case uint64(max(o.SizeBytes, 0)) != listed.bytes:
			g.Reason = "the object has another size than when it was written"
		default:
			continue
		}
		gaps = append(gaps, g)
	}
	return gaps
}

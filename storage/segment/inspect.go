package segment

import (
	"context"
	"errors"
	"hash/crc32"
	"math"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// Inspection is all that an object says of itself, checked.
type Inspection struct {
	Object    string
	SizeBytes int64
	// Version of the format.
	Version uint32
	// Source says where the object comes from.
	Source   Source
	Segments []InspectedSegment
}

// InspectedSegment is one segment of an object.
type InspectedSegment struct {
	Partition Partition
	// Entry is what the manifest has of it.
	Entry *metav1.SegmentEntry
	// Spans is the number of entries in the index.
	Spans int
	// Batches by compression.
	Batches map[record.Compression]int64
	Records int64
	// PayloadBytes counts the bytes of keys, values and headers.
	PayloadBytes int64
	// FirstTimestampMs is the first record's time.
	FirstTimestampMs int64
	// CRC32C of the segment's bytes.
	CRC32C uint32
	// Err says what is wrong with this segment, nil for nothing.
	Err error
}

// inspectBytes is how much of a segment is read at once.
const inspectBytes = 4 << 20

// Inspect reads an object of sizeBytes and checks every byte of it, down to the records. What is wrong with the object
// as a whole is returned without an inspection. What is wrong with segments is in their Err and in the error, and the
// others are inspected all the same.
func Inspect(ctx context.Context, rr RangeReader, object string, sizeBytes int64) (*Inspection, error) {
	footer, err := ReadFooter(ctx, rr, object, sizeBytes)
	if err != nil {
		return nil, err
	}
	head, err := readRange(ctx, rr, object, 0, headBytes)
	if err != nil {
		return nil, err
	}
	if string(head) != headMagic {
		return nil, corrupt(object, 0, "it does not begin with the magic of an object")
	}
	in := &Inspection{
		Object: object, SizeBytes: sizeBytes, Version: footer.GetVersion(),
		Source: Source{
			ClusterID: footer.GetClusterId(), NodeID: footer.GetNodeId(), Shard: footer.GetShard(), CreatedMs: footer.GetCreatedMs(),
			RecoveryID: footer.GetRecoveryId(),
		},
		Segments: make([]InspectedSegment, len(footer.GetSegments())),
	}
	errs := make([]error, len(in.Segments))
	for i, s := range footer.GetSegments() {
		seg := &in.Segments[i]
		seg.Partition = Partition{ID: s.GetEntry().GetPartitionId(), Topic: s.GetTopic(), Number: int32(s.GetPartition())}
		copy(seg.Partition.TopicUUID[:], s.GetTopicUuid())
		seg.Entry = s.GetEntry()
		seg.Batches = make(map[record.Compression]int64)
		seg.Err = seg.inspect(ctx, rr, object, s)
		errs[i] = seg.Err
		if ctx.Err() != nil {
			break
		}
	}
	return in, errors.Join(errs...)
}

func (seg *InspectedSegment) inspect(ctx context.Context, rr RangeReader, object string, s *metav1.FooterSegment) error {
	e := s.GetEntry()
	ref := &metav1.SegmentRef{Object: object, Entry: e}
	x, err := readIndex(ctx, rr, ref)
	if err != nil {
		return err
	}
	seg.Spans = len(x.spans)
	newest := int64(math.MinInt64)
	for first := 0; first < len(x.spans); {
		last := x.reach(first, inspectBytes)
		data, err := readSpans(ctx, rr, ref, x, first, last)
		if err != nil {
			return err
		}
		seg.CRC32C = crc32.Update(seg.CRC32C, castagnoli, data)
		for i := first; i <= last; i++ {
			at := x.spans[i].position
			begin := at - x.spans[first].position
			spanNewest, err := seg.addSpan(object, int64(e.GetPosition())+at, data[begin:begin+x.endPosition(i)-at])
			if err != nil {
				return err
			}
			if spanNewest != x.spans[i].maxTimestampMs {
				return corrupt(object, int64(e.GetIndexPosition()), "index entry %d has the time %d, its batches have %d",
					i, x.spans[i].maxTimestampMs, spanNewest)
			}
			newest = max(newest, spanNewest)
		}
		first = last + 1
	}
	if newest != e.GetMaxTimestampMs() {
		return corrupt(object, int64(e.GetPosition()), "its newest record is of %d, the footer says %d", newest, e.GetMaxTimestampMs())
	}
	if seg.CRC32C != s.GetCrc32C() {
		return corrupt(object, int64(e.GetPosition()), "the CRC32C of the segment is %08x, its bytes have %08x", s.GetCrc32C(), seg.CRC32C)
	}
	return nil
}

// addSpan counts the batches of a span, and checks their records. It returns the newest record's time.
func (seg *InspectedSegment) addSpan(object string, position int64, data []byte) (newest int64, err error) {
	newest = math.MinInt64
	for at := 0; at < len(data); {
		b := record.Batch(data[at:])
		b = b[:b.SizeBytes()]
		stats, err := b.Check(record.Limits{})
		if err != nil {
			return 0, corruptBy(object, position+int64(at), err)
		}
		newest = max(newest, b.MaxTimestamp())
		if seg.Records == 0 {
			seg.FirstTimestampMs = b.BaseTimestamp()
		}
		seg.Batches[b.Compression()]++
		seg.Records += int64(stats.Records)
		seg.PayloadBytes += stats.PayloadBytes
		at += len(b)
	}
	return newest, nil
}

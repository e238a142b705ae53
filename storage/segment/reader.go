package segment

import (
	"context"
	"fmt"
	"hash/crc32"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// RangeReader reads parts of objects. It is safe for concurrent use.
type RangeReader interface {
	// ReadRange returns length bytes of an object from offset on, less only where the object ends. The bytes may be
	// shared with others: nobody changes them. It blocks until ctx ends at the most.
	ReadRange(ctx context.Context, object string, offset, length int64) ([]byte, error)
}

// Reader reads segments. It is safe for concurrent use.
type Reader struct {
	ranges  RangeReader
	indexes *indexCache
}

// NewReader returns a reader that keeps indexes in up to indexCacheBytes of memory.
func NewReader(rr RangeReader, indexCacheBytes int64) *Reader {
	return &Reader{ranges: rr, indexes: newIndexCache(indexCacheBytes)}
}

// Read returns whole batches of a segment, from the one that holds offset on: as many as fit into maxBytes, at least
// one, and none behind the segment. Their CRC32C and offsets are checked. The bytes may be shared with others and must
// not be changed. It takes one ranged read, and another one where the segment's index is not in memory. The errors are
// *CorruptError, ErrVersion, ErrOutOfSegment, and those of the RangeReader.
func (r *Reader) Read(ctx context.Context, ref *metav1.SegmentRef, offset int64, maxBytes int) ([]byte, error) {
	e := ref.GetEntry()
	if offset < e.GetBaseOffset() || offset >= e.GetEndOffset() {
		return nil, fmt.Errorf("object %s: %w: offset %d, the segment has %d to %d",
			ref.GetObject(), ErrOutOfSegment, offset, e.GetBaseOffset(), e.GetEndOffset())
	}
	x, err := r.index(ctx, ref)
	if err != nil {
		return nil, err
	}
	first := x.find(offset)
	// The wanted batch begins at most a span behind the span's beginning.
	last := x.reach(first, spanBytes+min(max(int64(maxBytes), 0), x.sizeBytes))
	data, err := readSpans(ctx, r.ranges, ref, x, first, last)
	if err != nil {
		return nil, err
	}
	return wanted(data, offset, maxBytes), nil
}

// wanted cuts checked batches down to what Read returns.
func wanted(data []byte, offset int64, maxBytes int) []byte {
	begin, end := -1, 0
	for at := 0; at < len(data); at = end {
		b := record.Batch(data[at:])
		end = at + b.SizeBytes()
		if b.NextOffset() <= offset {
			continue
		}
		if begin < 0 {
			begin = at
		} else if end-begin > maxBytes {
			return data[begin:at:at]
		}
	}
	return data[begin:end:end]
}

// FindTime returns the first record of a segment with the timestamp or a later one. Its errors are those of Read.
func (r *Reader) FindTime(ctx context.Context, ref *metav1.SegmentRef, timestampMs int64) (offset, ts int64, found bool, err error) {
	if ref.GetEntry().GetMaxTimestampMs() < timestampMs {
		return 0, 0, false, nil
	}
	x, err := r.index(ctx, ref)
	if err != nil {
		return 0, 0, false, err
	}
	for i := range x.spans {
		if x.spans[i].maxTimestampMs < timestampMs {
			continue
		}
		data, err := readSpans(ctx, r.ranges, ref, x, i, i)
		if err != nil {
			return 0, 0, false, err
		}
		position := int64(ref.GetEntry().GetPosition()) + x.spans[i].position
		if offset, ts, found, err = findTime(ref.GetObject(), position, data, timestampMs); found || err != nil {
			return offset, ts, found, err
		}
	}
	return 0, 0, false, nil
}

// findTime looks through the checked batches at a position of the object.
func findTime(object string, position int64, data []byte, timestampMs int64) (offset, ts int64, found bool, err error) {
	for at := 0; at < len(data); {
		b := record.Batch(data[at:])
		b = b[:b.SizeBytes()]
		if b.MaxTimestamp() >= timestampMs {
			for rec, err := range b.All() {
				if err != nil {
					return 0, 0, false, corruptBy(object, position+int64(at), err)
				}
				if rec.TimestampMs >= timestampMs {
					return rec.Offset, rec.TimestampMs, true, nil
				}
			}
		}
		at += len(b)
	}
	return 0, 0, false, nil
}

// index returns the index of a segment.
func (r *Reader) index(ctx context.Context, ref *metav1.SegmentRef) (*index, error) {
	e := ref.GetEntry()
	key := indexKey{object: ref.GetObject(), position: e.GetIndexPosition()}
	if x, ok := r.indexes.get(key); ok && x.fits(e) {
		return x, nil
	}
	x, err := readIndex(ctx, r.ranges, ref)
	if err != nil {
		return nil, err
	}
	r.indexes.put(key, x)
	return x, nil
}

func readIndex(ctx context.Context, rr RangeReader, ref *metav1.SegmentRef) (*index, error) {
	e := ref.GetEntry()
	if err := checkEntry(ref.GetObject(), 0, e); err != nil {
		return nil, err
	}
	b, err := readRange(ctx, rr, ref.GetObject(), int64(e.GetIndexPosition()), int64(e.GetIndexBytes()))
	if err != nil {
		return nil, err
	}
	return parseIndex(ref.GetObject(), e, b)
}

// readRange reads bytes that the object must have.
func readRange(ctx context.Context, rr RangeReader, object string, offset, length int64) ([]byte, error) {
	b, err := rr.ReadRange(ctx, object, offset, length)
	if err != nil {
		return nil, fmt.Errorf("read %d bytes of object %s at %d: %w", length, object, offset, err)
	}
	if int64(len(b)) != length {
		return nil, corrupt(object, offset, "%d bytes were read, not %d", len(b), length)
	}
	return b, nil
}

// readSpans reads the spans first to last, and checks them.
func readSpans(ctx context.Context, rr RangeReader, ref *metav1.SegmentRef, x *index, first, last int) ([]byte, error) {
	from := x.spans[first].position
	at := int64(ref.GetEntry().GetPosition()) + from
	data, err := readRange(ctx, rr, ref.GetObject(), at, x.endPosition(last)-from)
	if err != nil {
		return nil, err
	}
	for i := first; i <= last; i++ {
		begin := x.spans[i].position - from
		if err := x.checkSpan(ref.GetObject(), at+begin, i, data[begin:x.endPosition(i)-from]); err != nil {
			return nil, err
		}
	}
	return data, nil
}

// checkSpan checks the bytes of span i, which are at a position of the object: its CRC32C, those of its batches, and
// that their offsets are dense and end where the next span begins.
func (x *index) checkSpan(object string, position int64, i int, data []byte) error {
	if want, got := x.spans[i].crc, crc32.Checksum(data, castagnoli); want != got {
		return corrupt(object, position, "the CRC32C of %d bytes is %08x, they have %08x", len(data), want, got)
	}
	next := x.spans[i].offset
	for rest := data; len(rest) > 0; {
		at := position + int64(len(data)-len(rest))
		b, after, err := record.Parse(rest)
		if err != nil {
			return corruptBy(object, at, err)
		}
		if b.BaseOffset() != next {
			return corrupt(object, at, "a batch at offset %d, not at %d", b.BaseOffset(), next)
		}
		next, rest = b.NextOffset(), after
	}
	if next != x.endOffset(i) {
		return corrupt(object, position, "batches end at offset %d, not at %d", next, x.endOffset(i))
	}
	return nil
}

package segment

import (
	"encoding/binary"
	"hash/crc32"
	"sort"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// An index, all numbers big endian. It cuts its segment into spans of whole batches:
//
//	 0         4       8              16             24           32
//	+---------+-------+--------------+--------------+------------+-------------------+------------+
//	| version | count | partition id | base offset  | end offset | count × entry 28  | CRC32C u32 |
//	+---------+-------+--------------+--------------+------------+-------------------+------------+
//
// An entry:
//
//	 0                     8                               16                      24
//	+---------------------+-------------------------------+-----------------------+------------+
//	| offset of the first | position, from the segment's  | newest record's time  | CRC32C of  |
//	| record              | beginning                     | ms                    | the span   |
//	+---------------------+-------------------------------+-----------------------+------------+
const (
	indexHeaderBytes = 32
	indexEntryBytes  = 28
	crcBytes         = 4
	minIndexBytes    = indexHeaderBytes + indexEntryBytes + crcBytes
	// maxIndexBytes bounds an index: millions of spans.
	maxIndexBytes = 64 << 20

	// spanBytes is the largest span of more than one batch.
	spanBytes = 64 << 10
)

// span is a run of whole batches of a segment, the unit that is read and checked.
type span struct {
	offset         int64 // of its first record
	position       int64 // from the segment's beginning
	maxTimestampMs int64
	crc            uint32
}

// index is what an index says, checked.
type index struct {
	partitionID uint64
	base, end   int64
	sizeBytes   int64 // of the segment
	spans       []span
}

// indexCount returns how many entries an index of n bytes has.
func indexCount(n uint64) uint64 { return (n - indexHeaderBytes - crcBytes) / indexEntryBytes }

func appendIndex(dst []byte, x *index) []byte {
	at := len(dst)
	be := binary.BigEndian
	dst = be.AppendUint32(dst, formatVersion)
	dst = be.AppendUint32(dst, uint32(len(x.spans)))
	dst = be.AppendUint64(dst, x.partitionID)
	dst = be.AppendUint64(dst, uint64(x.base))
	dst = be.AppendUint64(dst, uint64(x.end))
	for i := range x.spans {
		s := &x.spans[i]
		dst = be.AppendUint64(dst, uint64(s.offset))
		dst = be.AppendUint64(dst, uint64(s.position))
		dst = be.AppendUint64(dst, uint64(s.maxTimestampMs))
		dst = be.AppendUint32(dst, s.crc)
	}
	return be.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

// parseIndex reads the index of the segment that e describes, which checkEntry has accepted; b has e's index bytes.
func parseIndex(object string, e *metav1.SegmentEntry, b []byte) (*index, error) {
	be := binary.BigEndian
	at := int64(e.GetIndexPosition())
	body := b[:len(b)-crcBytes]
	if want, got := be.Uint32(b[len(body):]), crc32.Checksum(body, castagnoli); want != got {
		return nil, corrupt(object, at, "the index's CRC32C is %08x, its bytes have %08x", want, got)
	}
	if v := be.Uint32(b); v != formatVersion {
		return nil, unknownVersion(object, v)
	}
	x := &index{
		partitionID: be.Uint64(b[8:]), base: int64(be.Uint64(b[16:])), end: int64(be.Uint64(b[24:])),
		sizeBytes: int64(e.GetSizeBytes()),
	}
	if n := be.Uint32(b[4:]); uint64(n) != indexCount(uint64(len(b))) {
		return nil, corrupt(object, at, "the index has %d entries in %d bytes", n, len(b))
	}
	if !x.fits(e) {
		return nil, corrupt(object, at, "the index is of partition id %d, offsets %d to %d, not of %d, %d to %d",
			x.partitionID, x.base, x.end, e.GetPartitionId(), e.GetBaseOffset(), e.GetEndOffset())
	}
	x.spans = make([]span, indexCount(uint64(len(b))))
	for i := range x.spans {
		entry := body[indexHeaderBytes+i*indexEntryBytes:]
		x.spans[i] = span{
			offset: int64(be.Uint64(entry)), position: int64(be.Uint64(entry[8:])),
			maxTimestampMs: int64(be.Uint64(entry[16:])), crc: be.Uint32(entry[24:]),
		}
	}
	if i, ok := x.ordered(); !ok {
		return nil, corrupt(object, at+indexHeaderBytes+int64(i)*indexEntryBytes, "index entry %d is out of order", i)
	}
	return x, nil
}

// fits says whether the index is that of the segment.
func (x *index) fits(e *metav1.SegmentEntry) bool {
	return x.partitionID == e.GetPartitionId() && x.base == e.GetBaseOffset() && x.end == e.GetEndOffset() &&
		x.sizeBytes == int64(e.GetSizeBytes())
}

// ordered says whether the spans begin with the segment and rise within it, or else which one does not.
func (x *index) ordered() (bad int, ok bool) {
	if x.spans[0].offset != x.base || x.spans[0].position != 0 {
		return 0, false
	}
	for i := range x.spans {
		if x.endOffset(i) <= x.spans[i].offset || x.endPosition(i) <= x.spans[i].position {
			return i, false
		}
	}
	return 0, true
}

// endOffset returns the offset behind span i.
func (x *index) endOffset(i int) int64 {
	if i+1 < len(x.spans) {
		return x.spans[i+1].offset
	}
	return x.end
}

// endPosition returns the position behind span i.
func (x *index) endPosition(i int) int64 {
	if i+1 < len(x.spans) {
		return x.spans[i+1].position
	}
	return x.sizeBytes
}

// find returns the span that holds an offset of the segment.
func (x *index) find(offset int64) int {
	return sort.Search(len(x.spans), func(i int) bool { return x.spans[i].offset > offset }) - 1
}

// reach returns the last span that ends within n bytes of the beginning of span first, at least first.
func (x *index) reach(first int, n int64) int {
	limit := x.sizeBytes
	if from := x.spans[first].position; n < limit-from {
		limit = from + n
	}
	last := first
	for last+1 < len(x.spans) && x.endPosition(last+1) <= limit {
		last++
	}
	return last
}

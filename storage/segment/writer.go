package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// Source says where an object comes from.
type Source struct {
	ClusterID, NodeID string
	Shard             uint32
	CreatedMs         int64
	// RecoveryID is the recovery that the cluster began with, a ULID; empty in its first life.
	RecoveryID string
}

// Partition is what an object says of a partition.
type Partition struct {
	// ID is the partition's id, unique in the cluster.
	ID uint64
	// Topic and TopicUUID are those of the partition's topic.
	Topic     string
	TopicUUID [16]byte
	// Number of the partition in its topic.
	Number int32
}

// Writer collects the batches of an object. What it is given wrongly is kept as an error and returned by Finish. It is
// not safe for concurrent use.
type Writer struct {
	source   Source
	pieces   []piece
	segments []*openSegment // without the current one
	current  *openSegment
	seen     map[uint64]struct{}
	size     int64
	err      error
}

// openSegment is a segment that is being collected.
type openSegment struct {
	partition Partition
	index     index
	position  int64
	crc       uint32
	newest    int64
	head      [patchedBytes]byte // scratch of add
}

var errFinished = errors.New("the object is finished")

// NewWriter returns a writer of one object.
func NewWriter(s Source) *Writer {
	return &Writer{
		source: s, pieces: []piece{{data: []byte(headMagic), base: unpatched}}, size: headBytes,
		seen: make(map[uint64]struct{}),
	}
}

// SizeBytes returns the size of the object so far, without indexes and footer.
func (w *Writer) SizeBytes() int64 { return w.size }

// Begin begins the segment of a partition, which was not begun before. One that stays without batches is left out.
func (w *Writer) Begin(p Partition) {
	if w.err != nil {
		return
	}
	w.close()
	if _, ok := w.seen[p.ID]; ok {
		w.err = fmt.Errorf("partition id %d begins twice in one object", p.ID)
		return
	}
	if p.Number < 0 {
		w.err = fmt.Errorf("partition id %d has the number %d", p.ID, p.Number)
		return
	}
	w.seen[p.ID] = struct{}{}
	w.current = &openSegment{partition: p, position: w.size, index: index{partitionID: p.ID}}
}

// close ends the current segment.
func (w *Writer) close() {
	if w.current != nil && len(w.current.index.spans) > 0 {
		w.current.index.sizeBytes = w.size - w.current.position
		w.segments = append(w.segments, w.current)
	}
	w.current = nil
}

// Append adds a batch to the segment that was begun last, with the offset that its partition gave it; offsets are
// dense. The batch is checked, and a view of it kept: it must not change while the object is in use.
func (w *Writer) Append(b record.Batch, baseOffset int64) {
	if w.err == nil {
		w.err = w.append(b, baseOffset)
	}
}

func (w *Writer) append(b record.Batch, baseOffset int64) error {
	s := w.current
	if s == nil {
		return fmt.Errorf("a batch at offset %d without a partition", baseOffset)
	}
	// A last look before the local log may be cut.
	_, rest, err := record.Parse(b)
	if err == nil && len(rest) > 0 {
		err = fmt.Errorf("%w: %d bytes behind it", record.ErrCorrupt, len(rest))
	}
	if err != nil {
		return fmt.Errorf("partition id %d, offset %d: %w", s.partition.ID, baseOffset, err)
	}
	next := baseOffset + int64(b.NumRecords())
	if len(s.index.spans) == 0 {
		s.index.base, s.index.end, s.newest = baseOffset, baseOffset, b.MaxTimestamp()
	}
	if baseOffset < 0 || baseOffset != s.index.end || next < baseOffset {
		return fmt.Errorf("partition id %d: a batch at offset %d, not at %d", s.partition.ID, baseOffset, s.index.end)
	}
	s.add(b, baseOffset, w.size)
	s.index.end = next
	w.pieces = append(w.pieces, piece{at: w.size, base: baseOffset, data: b})
	w.size += int64(len(b))
	return nil
}

// add notes a batch at a position of the object in the index and the checksums.
func (s *openSegment) add(b record.Batch, baseOffset, at int64) {
	spans := s.index.spans
	position := at - s.position
	if n := len(spans); n == 0 || position+int64(len(b))-spans[n-1].position > spanBytes {
		spans = append(spans, span{offset: baseOffset, position: position, maxTimestampMs: math.MinInt64})
		s.index.spans = spans
	}
	last := &spans[len(spans)-1]
	last.maxTimestampMs = max(last.maxTimestampMs, b.MaxTimestamp())
	s.newest = max(s.newest, b.MaxTimestamp())
	binary.BigEndian.PutUint64(s.head[:], uint64(baseOffset))
	for _, crc := range []*uint32{&last.crc, &s.crc} {
		*crc = crc32.Update(crc32.Update(*crc, castagnoli, s.head[:]), castagnoli, b[patchedBytes:])
	}
}

// Finish ends the object. The writer is of no use afterwards.
func (w *Writer) Finish() (*Object, error) {
	if w.err != nil {
		return nil, w.err
	}
	w.close()
	w.err = errFinished
	if len(w.segments) == 0 {
		return nil, ErrEmpty
	}
	footer := &metav1.ObjectFooter{
		Version: formatVersion, ClusterId: w.source.ClusterID, Shard: w.source.Shard,
		CreatedMs: w.source.CreatedMs, NodeId: w.source.NodeID,
		RecoveryId: &w.source.RecoveryID,
	}
	o := &Object{}
	var tail []byte
	for _, s := range w.segments {
		at := w.size + int64(len(tail))
		tail = appendIndex(tail, &s.index)
		entry := s.entry(at, w.size+int64(len(tail))-at)
		if entry.GetIndexBytes() > maxIndexBytes {
			return nil, fmt.Errorf("the index of partition id %d has %d bytes, more than %d", s.partition.ID, entry.GetIndexBytes(), maxIndexBytes)
		}
		o.Segments = append(o.Segments, entry)
		footer.Segments = append(footer.Segments, s.footer(entry))
	}
	t := trailer{footerAt: w.size + int64(len(tail))}
	n := len(tail)
	tail, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(tail, footer)
	if err != nil {
		return nil, fmt.Errorf("encode footer: %w", err)
	}
	t.footerBytes, t.footerCRC = int64(len(tail)-n), crc32.Checksum(tail[n:], castagnoli)
	if t.footerBytes > maxFooterBytes {
		return nil, fmt.Errorf("the footer has %d bytes, more than %d", t.footerBytes, maxFooterBytes)
	}
	tail = appendTrailer(tail, t)
	w.pieces = append(w.pieces, piece{at: w.size, base: unpatched, data: tail})
	o.pieces = w.pieces
	o.SizeBytes = w.size + int64(len(tail))
	return o, nil
}

func (s *openSegment) entry(indexAt, indexBytes int64) *metav1.SegmentEntry {
	return &metav1.SegmentEntry{
		PartitionId: s.partition.ID, BaseOffset: s.index.base, EndOffset: s.index.end,
		Position: uint64(s.position), SizeBytes: uint64(s.index.sizeBytes), MaxTimestampMs: s.newest,
		IndexPosition: uint64(indexAt), IndexBytes: uint64(indexBytes),
	}
}

func (s *openSegment) footer(entry *metav1.SegmentEntry) *metav1.FooterSegment {
	return &metav1.FooterSegment{
		Entry: entry, Topic: s.partition.Topic, TopicUuid: s.partition.TopicUUID[:],
		Partition: uint32(s.partition.Number), Records: s.index.end - s.index.base, Crc32C: s.crc,
	}
}

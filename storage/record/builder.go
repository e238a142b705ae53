package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"slices"
	"unicode/utf8"
)

// BuilderConfig says what a batch carries besides its records.
type BuilderConfig struct {
	// Compression of the records.
	Compression Compression
	// ProducerID of the producer, below 0 for none; then epoch and sequence are ignored.
	ProducerID int64
	// ProducerEpoch of the producer, 0 or more.
	ProducerEpoch int16
	// BaseSequence is the sequence of the first record, 0 or more.
	BaseSequence int32
}

// Builder builds batches, one after the other, in buffers that it uses again. It is not safe for concurrent use.
type Builder struct {
	config       BuilderConfig
	buf          []byte // header and records, not compressed
	packed       []byte // header and compressed records
	records      int32
	base, newest int64
	err          error // of the first record that was refused
}

// NewBuilder returns a builder of one batch. Reset makes it ready for another one.
func NewBuilder(c BuilderConfig) *Builder {
	bl := &Builder{}
	bl.Reset(c)
	return bl
}

// Reset forgets the records and begins a new batch. A batch that was built before is no longer valid.
func (bl *Builder) Reset(c BuilderConfig) {
	bl.Configure(c)
	bl.records, bl.base, bl.newest, bl.err = 0, 0, 0, nil
	if cap(bl.buf) < HeaderBytes {
		bl.buf = make([]byte, HeaderBytes, 1024)
	}
	bl.buf = bl.buf[:HeaderBytes]
}

// Configure says anew what the batch carries besides its records, for a batch that is built before that is known, or is
// built again for another try.
func (bl *Builder) Configure(c BuilderConfig) {
	if c.ProducerID < 0 {
		c.ProducerID, c.ProducerEpoch, c.BaseSequence = -1, -1, -1
	}
	bl.config = c
}

// Len returns the number of records so far.
func (bl *Builder) Len() int { return int(bl.records) }

// SizeBytes returns the size of the batch so far, before compression.
func (bl *Builder) SizeBytes() int { return len(bl.buf) }

// Append adds a record, and keeps nothing of it. Its offset is ignored: the batch begins with offset 0. A record that
// can't be encoded is left out, and Build then fails.
func (bl *Builder) Append(r Record) {
	base := r.TimestampMs
	if bl.records > 0 {
		base = bl.base
	}
	size, err := bl.recordBytes(&r, base)
	if err != nil {
		if bl.err == nil {
			bl.err = err
		}
		return
	}
	bl.buf = appendRecord(bl.buf, &r, size, r.TimestampMs-base, bl.records)
	if bl.records == 0 {
		bl.base, bl.newest = base, base
	}
	bl.newest = max(bl.newest, r.TimestampMs)
	bl.records++
}

// recordBytes returns the size of a record without its length, and whether it can be encoded at all.
func (bl *Builder) recordBytes(r *Record, base int64) (int, error) {
	delta := r.TimestampMs - base
	if (r.TimestampMs < base) != (delta < 0) {
		return 0, fmt.Errorf("%w: timestamps %d and %d are too far apart", ErrInvalidRecord, base, r.TimestampMs)
	}
	size := 1 + varlongBytes(delta) + varlongBytes(int64(bl.records)) +
		nullableBytes(r.Key) + nullableBytes(r.Value) + varlongBytes(int64(len(r.Headers)))
	for i := range r.Headers {
		key := r.Headers[i].Key
		if !utf8.ValidString(key) {
			return 0, fmt.Errorf("%w: the key of header %d is not UTF-8", ErrInvalidRecord, i)
		}
		size += varlongBytes(int64(len(key))) + len(key) + nullableBytes(r.Headers[i].Value)
	}
	if total := len(bl.buf) + size + varlongBytes(int64(size)); total > MaxDecompressedBytes {
		return 0, &TooLargeError{What: "batch", Bytes: total, Limit: MaxDecompressedBytes}
	}
	return size, nil
}

func appendRecord(dst []byte, r *Record, size int, timestampDelta int64, offsetDelta int32) []byte {
	dst = binary.AppendVarint(dst, int64(size))
	dst = append(dst, 0) // attributes
	dst = binary.AppendVarint(dst, timestampDelta)
	dst = binary.AppendVarint(dst, int64(offsetDelta))
	dst = appendBytes(dst, r.Key)
	dst = appendBytes(dst, r.Value)
	dst = binary.AppendVarint(dst, int64(len(r.Headers)))
	for i := range r.Headers {
		h := &r.Headers[i]
		dst = binary.AppendVarint(dst, int64(len(h.Key)))
		dst = append(dst, h.Key...)
		dst = appendBytes(dst, h.Value)
	}
	return dst
}

// Build returns the batch, with base offset 0. It aliases the builder's buffers and is valid until the next call of
// Append, Build or Reset. The errors are ErrEmpty, ErrInvalidRecord for a record, producer or compression that can't be
// encoded, and *TooLargeError.
func (bl *Builder) Build() (Batch, error) {
	if bl.err != nil {
		return nil, bl.err
	}
	if bl.records == 0 {
		return nil, ErrEmpty
	}
	c := bl.config
	if !c.Compression.known() {
		return nil, fmt.Errorf("%w: compression %d is not known", ErrInvalidRecord, c.Compression)
	}
	if c.ProducerID >= 0 && (c.ProducerEpoch < 0 || c.BaseSequence < 0) {
		return nil, fmt.Errorf("%w: producer epoch %d, base sequence %d", ErrInvalidRecord, c.ProducerEpoch, c.BaseSequence)
	}
	b := Batch(bl.buf)
	if c.Compression != None {
		packed, err := compress(append(bl.packed[:0], bl.buf[:HeaderBytes]...), c.Compression, bl.buf[HeaderBytes:])
		if err != nil {
			return nil, err
		}
		bl.packed = packed
		b = Batch(packed)
	}
	bl.writeHeader(b)
	return slices.Clip(b), nil
}

func (bl *Builder) writeHeader(b Batch) {
	c := bl.config
	be := binary.BigEndian
	be.PutUint64(b[atBaseOffset:], 0)
	be.PutUint32(b[atLength:], uint32(len(b)-lengthOverhead))
	be.PutUint32(b[atLeaderEpoch:], math.MaxUint32) // -1: no leader yet
	b[atMagic] = magic
	be.PutUint16(b[atAttributes:], uint16(c.Compression))
	be.PutUint32(b[atLastOffsetDelta:], uint32(bl.records-1))
	be.PutUint64(b[atBaseTimestamp:], uint64(bl.base))
	be.PutUint64(b[atMaxTimestamp:], uint64(bl.newest))
	be.PutUint64(b[atProducerID:], uint64(c.ProducerID))
	be.PutUint16(b[atProducerEpoch:], uint16(c.ProducerEpoch))
	be.PutUint32(b[atBaseSequence:], uint32(c.BaseSequence))
	be.PutUint32(b[atNumRecords:], uint32(bl.records))
	be.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
}

package record

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
)

// BuilderConfig says what kind of batch is built.
type BuilderConfig struct {
	Compression Compression
	// ProducerID is -1 for a batch without an idempotent producer.
	ProducerID    int64
	ProducerEpoch int16
	BaseSequence  int32
}

// Builder encodes records into a batch. It may be used again after Reset. Not safe for concurrent use.
type Builder struct {
	cfg     BuilderConfig
	buf     []byte // header, then records
	n       int32
	baseMs  int64
	maxMs   int64
	scratch []byte
}

// NewBuilder returns an empty builder.
func NewBuilder(c BuilderConfig) *Builder {
	b := &Builder{}
	b.Reset(c)
	return b
}

// Reset empties the builder and keeps its memory: the batch built last is no longer valid.
func (b *Builder) Reset(c BuilderConfig) {
	b.cfg, b.n = c, 0
	if cap(b.buf) < headerBytes {
		b.buf = make([]byte, headerBytes, 4096)
	}
	b.buf = b.buf[:headerBytes]
	clear(b.buf)
}

// Len returns the number of records.
func (b *Builder) Len() int { return int(b.n) }

// SizeBytes returns the size of the batch before compression.
func (b *Builder) SizeBytes() int { return len(b.buf) }

// Append encodes a record; its offset is ignored. It copies what it is given.
func (b *Builder) Append(r Record) {
	if b.n == 0 {
		b.baseMs, b.maxMs = r.TimestampMs, r.TimestampMs
	}
	b.maxMs = max(b.maxMs, r.TimestampMs)
	s := append(b.scratch[:0], 0) // attributes
	s = binary.AppendVarint(s, r.TimestampMs-b.baseMs)
	s = binary.AppendVarint(s, int64(b.n))
	s = appendLength(s, r.Key)
	head := len(s)
	n := head + len(r.Key)
	s = appendLength(s, r.Value)
	mid := len(s)
	n += mid - head + len(r.Value)
	s = binary.AppendVarint(s, int64(len(r.Headers)))
	for _, h := range r.Headers {
		s = binary.AppendVarint(s, int64(len(h.Key)))
		s = append(s, h.Key...)
		s = appendLength(s, h.Value)
		s = append(s, h.Value...)
	}
	n += len(s) - mid
	b.scratch = s
	b.buf = binary.AppendVarint(b.buf, int64(n))
	b.buf = append(b.buf, s[:head]...)
	b.buf = append(b.buf, r.Key...)
	b.buf = append(b.buf, s[head:mid]...)
	b.buf = append(b.buf, r.Value...)
	b.buf = append(b.buf, s[mid:]...)
	b.n++
}

// appendLength appends the length of a field, -1 for null.
func appendLength(dst, field []byte) []byte {
	if field == nil {
		return binary.AppendVarint(dst, -1)
	}
	return binary.AppendVarint(dst, int64(len(field)))
}

// errEmpty says that a batch needs a record.
var errEmpty = errors.New("record batch without records")

// Build returns the batch. It aliases the builder's memory until the next Reset.
func (b *Builder) Build() (Batch, error) {
	if b.n == 0 {
		return nil, errEmpty
	}
	out := b.buf
	if b.cfg.Compression != None {
		body, err := compress(b.cfg.Compression, b.buf[headerBytes:])
		if err != nil {
			return nil, err
		}
		out = append(make([]byte, headerBytes, headerBytes+len(body)), body...)
	}
	if len(out) > math.MaxInt32 {
		return nil, tooLarge("batch", len(out), math.MaxInt32)
	}
	be := binary.BigEndian
	be.PutUint32(out[8:], uint32(len(out)-lengthEnd))
	be.PutUint32(out[12:], math.MaxUint32) // leader epoch -1
	out[16] = magicV2
	be.PutUint16(out[21:], uint16(b.cfg.Compression))
	be.PutUint32(out[23:], uint32(b.n-1))
	be.PutUint64(out[27:], uint64(b.baseMs))
	be.PutUint64(out[35:], uint64(b.maxMs))
	id, epoch, seq := b.cfg.ProducerID, b.cfg.ProducerEpoch, b.cfg.BaseSequence
	if id < 0 {
		id, epoch, seq = -1, -1, -1
	}
	be.PutUint64(out[43:], uint64(id))
	be.PutUint16(out[51:], uint16(epoch))
	be.PutUint32(out[53:], uint32(seq))
	be.PutUint32(out[57:], uint32(b.n))
	be.PutUint32(out[17:], crc32.Checksum(out[crcFrom:], castagnoli))
	return out, nil
}

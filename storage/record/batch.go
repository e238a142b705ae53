package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Layout of a batch: where its fields begin. All are big endian.
const (
	atBaseOffset      = 0  // int64, not under the CRC
	atLength          = 8  // int32, of what follows
	atLeaderEpoch     = 12 // int32, not under the CRC
	atMagic           = 16 // int8
	atCRC             = 17 // uint32, CRC32C of what follows
	atAttributes      = 21 // int16
	atLastOffsetDelta = 23 // int32
	atBaseTimestamp   = 27 // int64
	atMaxTimestamp    = 35 // int64
	atProducerID      = 43 // int64
	atProducerEpoch   = 51 // int16
	atBaseSequence    = 53 // int32
	atNumRecords      = 57 // int32
)

const (
	// HeaderBytes is the size of a batch without its records.
	HeaderBytes = 61

	magic = 2
	// lengthOverhead is what the length field leaves out.
	lengthOverhead = atLeaderEpoch
	// minRecordBytes is the size of the smallest record: length, attributes, two deltas, three lengths.
	minRecordBytes = 7
	// maxBatchBytes bounds a batch: its length field is an int32.
	maxBatchBytes = math.MaxInt32
)

// Attributes of a batch.
const (
	attrCompression   = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is a view over one whole record batch. Its methods read the bytes in place and expect what Parse has checked:
// they panic where the bytes are shorter than HeaderBytes.
type Batch []byte

// Parse returns the first batch in b and what follows it. Both alias b. It checks lengths, magic, CRC32C, and that
// offsets are dense and do not overflow, but does not look at records. The errors are ErrTruncated and *CorruptError.
func Parse(b []byte) (first Batch, rest []byte, err error) {
	if len(b) < HeaderBytes {
		return nil, nil, fmt.Errorf("%w: %d bytes, a header has %d", ErrTruncated, len(b), HeaderBytes)
	}
	length := int32(binary.BigEndian.Uint32(b[atLength:]))
	if b[atMagic] != magic {
		return nil, nil, corrupt(atMagic, "magic is %d, not %d", int8(b[atMagic]), magic)
	}
	if length < HeaderBytes-lengthOverhead || length > maxBatchBytes-lengthOverhead {
		return nil, nil, corrupt(atLength, "length is %d", length)
	}
	size := int(length) + lengthOverhead
	if size > len(b) {
		return nil, nil, fmt.Errorf("%w: %d bytes of %d", ErrTruncated, len(b), size)
	}
	first = Batch(b[:size:size])
	if want, got := binary.BigEndian.Uint32(b[atCRC:]), crc32.Checksum(first[atAttributes:], castagnoli); want != got {
		return nil, nil, corrupt(atCRC, "CRC32C is %08x, its bytes have %08x", want, got)
	}
	if err := first.checkCounts(); err != nil {
		return nil, nil, err
	}
	return first, b[size:], nil
}

// checkCounts checks the fields that offsets are computed from.
func (b Batch) checkCounts() error {
	n, delta := b.NumRecords(), b.lastOffsetDelta()
	if n < 1 {
		return corrupt(atNumRecords, "%d records", n)
	}
	if delta != n-1 {
		return corrupt(atLastOffsetDelta, "last offset delta is %d with %d records: offsets are not dense", delta, n)
	}
	if base := b.BaseOffset(); base < 0 || base > math.MaxInt64-int64(n) {
		return corrupt(atBaseOffset, "base offset is %d", base)
	}
	return nil
}

// Split returns the batches that b consists of, as Parse does. They alias b. Positions in errors count from the
// beginning of b.
func Split(b []byte) ([]Batch, error) {
	if len(b) == 0 {
		return nil, nil
	}
	batches := make([]Batch, 0, countBatches(b))
	for rest := b; len(rest) > 0; {
		var first Batch
		var err error
		at := len(b) - len(rest)
		first, rest, err = Parse(rest)
		if err != nil {
			return nil, shift(err, at)
		}
		batches = append(batches, first)
	}
	return batches, nil
}

// countBatches returns how many batches b seems to have. Each has at least HeaderBytes, so the count is bounded by b.
func countBatches(b []byte) int {
	n := 1
	for len(b) >= HeaderBytes {
		size := int64(int32(binary.BigEndian.Uint32(b[atLength:]))) + lengthOverhead
		if size < HeaderBytes || size >= int64(len(b)) {
			break
		}
		b = b[size:]
		n++
	}
	return n
}

// shift moves the position of an error by the place of the batch.
func shift(err error, at int) error {
	if at == 0 {
		return err
	}
	if c, ok := errors.AsType[*CorruptError](err); ok {
		return &CorruptError{Position: c.Position + int64(at), Reason: c.Reason}
	}
	return fmt.Errorf("batch at byte %d: %w", at, err)
}

// SizeBytes returns the size of the batch by its own length field. Where that comes from Parse it is len(b).
func (b Batch) SizeBytes() int {
	return int(int32(binary.BigEndian.Uint32(b[atLength:]))) + lengthOverhead
}

// BaseOffset returns the offset of the first record.
func (b Batch) BaseOffset() int64 { return int64(binary.BigEndian.Uint64(b[atBaseOffset:])) }

// SetBaseOffset writes the offset of the first record into the bytes. The CRC32C does not cover it.
func (b Batch) SetBaseOffset(offset int64) {
	binary.BigEndian.PutUint64(b[atBaseOffset:], uint64(offset))
}

// NextOffset returns the offset behind the last record.
func (b Batch) NextOffset() int64 { return b.BaseOffset() + int64(b.lastOffsetDelta()) + 1 }

// NumRecords returns the number of records.
func (b Batch) NumRecords() int32 { return int32(binary.BigEndian.Uint32(b[atNumRecords:])) }

// ProducerID returns the producer's id, -1 for none.
func (b Batch) ProducerID() int64 { return int64(binary.BigEndian.Uint64(b[atProducerID:])) }

// ProducerEpoch returns the producer's epoch, -1 for none.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[atProducerEpoch:])) }

// BaseSequence returns the sequence of the first record, -1 for none.
func (b Batch) BaseSequence() int32 { return int32(binary.BigEndian.Uint32(b[atBaseSequence:])) }

// BaseTimestamp returns the time that records' times are relative to, in milliseconds since the Unix epoch.
func (b Batch) BaseTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[atBaseTimestamp:])) }

// MaxTimestamp returns the newest record's time, in milliseconds since the Unix epoch.
func (b Batch) MaxTimestamp() int64 { return int64(binary.BigEndian.Uint64(b[atMaxTimestamp:])) }

// Compression returns how the records are compressed.
func (b Batch) Compression() Compression { return Compression(b.attributes() & attrCompression) }

func (b Batch) lastOffsetDelta() int32 { return int32(binary.BigEndian.Uint32(b[atLastOffsetDelta:])) }

func (b Batch) attributes() uint16 { return binary.BigEndian.Uint16(b[atAttributes:]) }

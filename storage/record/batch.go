package record

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// Layout of a Kafka record batch v2 (KIP-98), big endian:
//
//	 0 base offset (8) | 8 length (4) | 12 leader epoch (4) | 16 magic (1) | 17 CRC32C (4) | 21 attributes (2)
//	23 last offset delta (4) | 27 base timestamp (8) | 35 max timestamp (8) | 43 producer id (8)
//	51 producer epoch (2) | 53 base sequence (4) | 57 records (4) | 61 records...
//
// The CRC covers everything from the attributes on; length counts everything behind itself.
const (
	headerBytes = 61
	lengthEnd   = 12
	crcFrom     = 21
	magicV2     = 2

	attrCompression   = 0x07
	attrLogAppendTime = 0x08
	attrTransactional = 0x10
	attrControl       = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Batch is a view over one whole record batch. Its methods do not check it: see Parse and Check.
type Batch []byte

// Parse returns the first batch of b and what follows it, both views of b. It checks bounds, magic and CRC.
func Parse(b []byte) (first Batch, rest []byte, err error) {
	if len(b) < headerBytes {
		return nil, nil, fmt.Errorf("%w: %d bytes, a header has %d", ErrTruncated, len(b), headerBytes)
	}
	if b[16] != magicV2 {
		return nil, nil, corrupt(16, "magic %d, only 2 is supported", b[16])
	}
	n := int64(int32(binary.BigEndian.Uint32(b[8:]))) + lengthEnd
	if n < headerBytes {
		return nil, nil, corrupt(8, "length %d is too small", n-lengthEnd)
	}
	if n > int64(len(b)) {
		return nil, nil, fmt.Errorf("%w: %d bytes of %d", ErrTruncated, len(b), n)
	}
	batch := Batch(b[:n:n])
	if got, want := crc32.Checksum(batch[crcFrom:], castagnoli), batch.crc(); got != want {
		return nil, nil, corrupt(17, "CRC is %08x, computed %08x", want, got)
	}
	if batch.NumRecords() < 1 || batch.lastOffsetDelta() != batch.NumRecords()-1 {
		return nil, nil, corrupt(23, "%d records with last offset delta %d", batch.NumRecords(), batch.lastOffsetDelta())
	}
	return batch, b[n:], nil
}

// Split returns all batches of b, views of it.
func Split(b []byte) ([]Batch, error) {
	var batches []Batch
	for len(b) > 0 {
		first, rest, err := Parse(b)
		if err != nil {
			return nil, err
		}
		batches = append(batches, first)
		b = rest
	}
	return batches, nil
}

func (b Batch) u32(at int) uint32 { return binary.BigEndian.Uint32(b[at:]) }
func (b Batch) u64(at int) uint64 { return binary.BigEndian.Uint64(b[at:]) }

func (b Batch) crc() uint32            { return b.u32(17) }
func (b Batch) attributes() uint16     { return binary.BigEndian.Uint16(b[21:]) }
func (b Batch) lastOffsetDelta() int32 { return int32(b.u32(23)) }

// BaseOffset returns the offset of the first record.
func (b Batch) BaseOffset() int64 { return int64(b.u64(0)) }

// SetBaseOffset sets the offset of the first record; the CRC does not cover it.
func (b Batch) SetBaseOffset(offset int64) { binary.BigEndian.PutUint64(b, uint64(offset)) }

// NextOffset returns the offset behind the last record.
func (b Batch) NextOffset() int64 { return b.BaseOffset() + int64(b.lastOffsetDelta()) + 1 }

// NumRecords returns the number of records.
func (b Batch) NumRecords() int32 { return int32(b.u32(57)) }

// ProducerID returns the id of an idempotent producer, -1 when there is none.
func (b Batch) ProducerID() int64 { return int64(b.u64(43)) }

// ProducerEpoch returns the epoch of an idempotent producer.
func (b Batch) ProducerEpoch() int16 { return int16(binary.BigEndian.Uint16(b[51:])) }

// BaseSequence returns the sequence of the first record.
func (b Batch) BaseSequence() int32 { return int32(b.u32(53)) }

// BaseTimestamp returns the timestamp that the records' are relative to, in milliseconds since the Unix epoch.
func (b Batch) BaseTimestamp() int64 { return int64(b.u64(27)) }

// MaxTimestamp returns the largest timestamp of the records, in milliseconds since the Unix epoch.
func (b Batch) MaxTimestamp() int64 { return int64(b.u64(35)) }

// Compression returns the codec of the records.
func (b Batch) Compression() Compression { return Compression(b.attributes() & attrCompression) }

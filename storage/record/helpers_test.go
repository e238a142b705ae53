package record

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var codecs = []Compression{None, Gzip, Snappy, LZ4, Zstd}

// sample has every kind of absence, repeated headers, times that go back, and a value that compresses.
var sample = []Record{
	{TimestampMs: 1000, Key: []byte("k"), Value: []byte("v"), Headers: []Header{{"h", []byte("x")}, {"h", nil}, {"", []byte{}}}},
	{TimestampMs: 900, Key: nil, Value: []byte{}},
	{TimestampMs: 1100, Key: []byte{}, Value: nil},
	{TimestampMs: 1100, Value: bytes.Repeat([]byte("long "), 1000)},
}

// samplePayload is the payload of sample.
const samplePayload = 1 + 1 + 2 + 1 + 5000

func build(tb testing.TB, c BuilderConfig, records ...Record) Batch {
	tb.Helper()
	bl := NewBuilder(c)
	for _, r := range records {
		bl.Append(r)
	}
	require.Equal(tb, len(records), bl.Len())
	b, err := bl.Build()
	require.NoError(tb, err)
	return b
}

func all(tb testing.TB, b Batch) []Record {
	tb.Helper()
	var out []Record
	for r, err := range b.All() {
		require.NoError(tb, err)
		out = append(out, r)
	}
	return out
}

// withOffsets returns the records as they are read back.
func withOffsets(base int64, records []Record) []Record {
	out := make([]Record, len(records))
	for i, r := range records {
		out[i] = r
		out[i].Offset = base + int64(i)
	}
	return out
}

// reseal writes length and CRC of a batch that was changed.
func reseal(b []byte) Batch {
	binary.BigEndian.PutUint32(b[atLength:], uint32(len(b)-lengthOverhead))
	binary.BigEndian.PutUint32(b[atCRC:], crc32.Checksum(b[atAttributes:], castagnoli))
	return b
}

// seal makes a batch of a kmsg batch, with the length and CRC that it must have.
func seal(k kmsg.RecordBatch) Batch {
	k.Magic = 2
	return reseal(k.AppendTo(nil))
}

// kmsgBatch is a batch of n records with the bytes given, without a producer.
func kmsgBatch(n int, records []byte) kmsg.RecordBatch {
	return kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, LastOffsetDelta: int32(n - 1), FirstTimestamp: 1000, MaxTimestamp: 1000,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(n), Records: records,
	}
}

// encode returns the bytes of records as kmsg writes them, with their lengths.
func encode(records ...kmsg.Record) []byte {
	var out []byte
	for _, r := range records {
		r.Length = 0
		r.Length = int32(len(r.AppendTo(nil)) - 1) // a length of 0 takes one byte
		out = r.AppendTo(out)
	}
	return out
}

package record

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// one is a record that is fine alone.
var one = kmsg.Record{Value: []byte("v")}

func TestCheckRefusesHeaders(t *testing.T) {
	tests := []struct {
		name   string
		change func(k *kmsg.RecordBatch)
		at     int64
	}{
		{"transactional", func(k *kmsg.RecordBatch) { k.Attributes = 0x10 }, atAttributes},
		{"control", func(k *kmsg.RecordBatch) { k.Attributes = 0x20 }, atAttributes},
		{"log append time", func(k *kmsg.RecordBatch) { k.Attributes = 0x08 }, atAttributes},
		{"delete horizon", func(k *kmsg.RecordBatch) { k.Attributes = 0x40 }, atAttributes},
		{"a future attribute", func(k *kmsg.RecordBatch) { k.Attributes = -0x8000 }, atAttributes},
		{"a future compression", func(k *kmsg.RecordBatch) { k.Attributes = 5 }, atAttributes},
		{"a producer id of -2", func(k *kmsg.RecordBatch) { k.ProducerID = -2 }, atProducerID},
		{"an epoch without a producer", func(k *kmsg.RecordBatch) { k.ProducerEpoch = 0 }, atProducerEpoch},
		{"a sequence without a producer", func(k *kmsg.RecordBatch) { k.FirstSequence = 0 }, atProducerEpoch},
		{"a producer without an epoch", func(k *kmsg.RecordBatch) { k.ProducerID, k.FirstSequence = 1, 0 }, atProducerEpoch},
		{"a producer without a sequence", func(k *kmsg.RecordBatch) { k.ProducerID, k.ProducerEpoch = 1, 0 }, atBaseSequence},
		{"a max timestamp too high", func(k *kmsg.RecordBatch) { k.MaxTimestamp++ }, atMaxTimestamp},
		{"a max timestamp too low", func(k *kmsg.RecordBatch) { k.MaxTimestamp-- }, atMaxTimestamp},
		{"more records than there is room for", func(k *kmsg.RecordBatch) { k.NumRecords, k.LastOffsetDelta = 1000, 999 }, atNumRecords},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			k := kmsgBatch(1, encode(one))
			_, err := seal(k).Check(Limits{})
			require.NoError(t, err)
			tt.change(&k)
			requireCorrupt(t, seal(k), tt.at)
		})
	}
}

func requireCorrupt(t *testing.T, b Batch, position int64) {
	t.Helper()
	_, _, err := Parse(b)
	require.NoError(t, err, "it is for Check to find")
	_, err = b.Check(Limits{})
	var c *CorruptError
	require.ErrorAs(t, err, &c)
	require.ErrorIs(t, err, ErrCorrupt)
	require.Equal(t, position, c.Position, err)
}

func TestCheckRefusesRecords(t *testing.T) {
	header := func(h ...kmsg.Header) kmsg.Record { return kmsg.Record{Headers: h} }
	// A record without key, value and headers: length 6, attributes, two deltas, -1, -1, 0.
	least := []byte{12, 0, 0, 0, 1, 1, 0}
	change := func(at int, v ...byte) []byte {
		b := bytes.Clone(least)
		copy(b[at:], v)
		return b
	}
	tests := []struct {
		name    string
		records []byte
		n       int
		at      int64 // in the records
	}{
		{"a gap between offsets", encode(one, kmsg.Record{OffsetDelta: 2}), 2, 8},
		{"offsets that do not begin at 0", encode(kmsg.Record{OffsetDelta: 1}), 1, 0},
		{"fewer than counted", append(encode(one), change(0, 14)...), 2, 8},
		{"more than counted", append(encode(one), least...), 1, 8},
		{"a length below the least", change(0, 10), 1, 0},
		{"a negative length", change(0, 1), 1, 0},
		{"a length varint without end", bytes.Repeat([]byte{0x80}, 12), 1, 0},
		{"a length of more than 32 bits", append([]byte{0x80, 0x80, 0x80, 0x80, 0x20}, least...), 1, 0},
		{"a key length of -2", change(4, 3), 1, 5},
		{"a key behind the end", change(4, 20), 1, 5},
		{"a value behind the end", change(5, 20), 1, 6},
		{"a negative count of headers", change(6, 1), 1, 7},
		{"a count of headers without room", change(6, 4), 1, 7},
		{"bytes behind the headers", append(change(0, 14), 0), 1, 7},
		{"a header without a key", append(change(0, 16, 0, 0, 0, 1, 1, 2), 1, 1), 1, 7},
		{"a header that is not UTF-8", encode(header(kmsg.Header{Key: "a"}, kmsg.Header{Key: "\xff\xfe"})), 1, 10},
		{"a time that overflows", encode(kmsg.Record{TimestampDelta64: math.MaxInt64}), 1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := seal(kmsgBatch(tt.n, tt.records))
			requireCorrupt(t, b, HeaderBytes+tt.at)
			var last error
			for _, err := range b.All() {
				last = err
			}
			require.ErrorIs(t, last, ErrCorrupt, "All finds it too")
		})
	}
}

func TestCheckLimits(t *testing.T) {
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			b := build(t, BuilderConfig{Compression: codec, ProducerID: -1}, sample...)
			var tooLarge *TooLargeError
			_, err := b.Check(Limits{MaxRecordBytes: 4999})
			require.ErrorAs(t, err, &tooLarge)
			require.Equal(t, TooLargeError{What: "record", Bytes: 5000, Limit: 4999}, *tooLarge)
			require.ErrorIs(t, err, ErrTooLarge)
			// Compressed it would fit.
			_, err = b.Check(Limits{MaxBatchBytes: 5000})
			require.ErrorAs(t, err, &tooLarge)
			require.Equal(t, 5000, tooLarge.Limit)
			_, err = b.Check(Limits{MaxBatchBytes: 20})
			require.ErrorAs(t, err, &tooLarge)
			require.Equal(t, "batch", tooLarge.What)
		})
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	b := build(t, BuilderConfig{ProducerID: -1}, sample...)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = b.Check(Limits{MaxBatchBytes: 1 << 20}) }))
}

func TestAllReadsTheBrokersTime(t *testing.T) {
	k := kmsgBatch(1, encode(one))
	k.Attributes, k.MaxTimestamp = 0x08, 4000
	require.Equal(t, int64(4000), all(t, seal(k))[0].TimestampMs)
}

func TestAllStops(t *testing.T) {
	n := 0
	for _, err := range build(t, BuilderConfig{ProducerID: -1}, sample...).All() {
		require.NoError(t, err)
		n++
		break
	}
	require.Equal(t, 1, n)
}

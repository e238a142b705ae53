package record

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseReadsTheHeader(t *testing.T) {
	b := build(t, BuilderConfig{Compression: Zstd, ProducerID: 7, ProducerEpoch: 2, BaseSequence: 30}, sample...)
	b.SetBaseOffset(500)
	got, rest, err := Parse(append(bytes.Clone(b), "rest"...))
	require.NoError(t, err)
	require.Equal(t, "rest", string(rest))
	require.Equal(t, b, got)
	require.Equal(t, len(got), cap(got), "an append must not reach what follows")
	require.Equal(t, len(b), got.SizeBytes())
	require.Equal(t, int64(500), got.BaseOffset())
	require.Equal(t, int64(504), got.NextOffset())
	require.Equal(t, int32(4), got.NumRecords())
	require.Equal(t, int64(7), got.ProducerID())
	require.Equal(t, int16(2), got.ProducerEpoch())
	require.Equal(t, int32(30), got.BaseSequence())
	require.Equal(t, int64(1000), got.BaseTimestamp())
	require.Equal(t, int64(1100), got.MaxTimestamp())
	require.Equal(t, Zstd, got.Compression())
}

func TestParseRefuses(t *testing.T) {
	good := build(t, BuilderConfig{ProducerID: -1}, sample...)
	put32 := func(at int, v int32) func([]byte) {
		return func(b []byte) { binary.BigEndian.PutUint32(b[at:], uint32(v)) }
	}
	tests := []struct {
		name     string
		change   func(b []byte)
		sealed   bool // the CRC is right again
		err      error
		position int64
	}{
		{"an older magic", func(b []byte) { b[atMagic] = 1 }, false, ErrCorrupt, atMagic},
		{"a future magic", func(b []byte) { b[atMagic] = 3 }, false, ErrCorrupt, atMagic},
		{"a length below a header", put32(atLength, HeaderBytes-lengthOverhead-1), false, ErrCorrupt, atLength},
		{"a negative length", put32(atLength, -1), false, ErrCorrupt, atLength},
		{"a length that overflows", put32(atLength, math.MaxInt32), false, ErrCorrupt, atLength},
		{"a length behind the end", put32(atLength, 1<<30), false, ErrTruncated, 0},
		{"a flipped bit in a record", func(b []byte) { b[len(b)-1] ^= 1 }, false, ErrCorrupt, atCRC},
		{"no records", func(b []byte) { put32(atNumRecords, 0)(b); put32(atLastOffsetDelta, -1)(b) }, true, ErrCorrupt, atNumRecords},
		{"a negative count", put32(atNumRecords, math.MinInt32), true, ErrCorrupt, atNumRecords},
		{"a hole in the offsets", put32(atLastOffsetDelta, 9), true, ErrCorrupt, atLastOffsetDelta},
		{"a negative offset", func(b []byte) { b[0] = 0x80 }, true, ErrCorrupt, atBaseOffset},
		{"an offset that overflows", func(b []byte) { Batch(b).SetBaseOffset(math.MaxInt64 - 3) }, true, ErrCorrupt, atBaseOffset},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Clone(good)
			tt.change(b)
			if tt.sealed {
				reseal(b)
			}
			_, _, err := Parse(b)
			require.ErrorIs(t, err, tt.err)
			if c, ok := errors.AsType[*CorruptError](err); ok {
				require.Equal(t, tt.position, c.Position)
				require.NotEmpty(t, c.Reason)
			}
		})
	}
}

func TestParseRefusesEveryCutAndFlip(t *testing.T) {
	good := build(t, BuilderConfig{ProducerID: -1}, sample[:3]...)
	for n := range good {
		_, _, err := Parse(good[:n])
		require.ErrorIs(t, err, ErrTruncated, "cut to %d bytes", n)
	}
	for i := atLength; i < len(good); i++ {
		if i >= atLeaderEpoch && i < atMagic {
			continue // not under the CRC, in Kafka neither
		}
		for bit := range 8 {
			bad := bytes.Clone(good)
			bad[i] ^= 1 << bit
			_, _, err := Parse(bad)
			require.Error(t, err, "byte %d, bit %d", i, bit)
		}
	}
}

func TestSplit(t *testing.T) {
	one := build(t, BuilderConfig{ProducerID: -1}, sample...)
	two := build(t, BuilderConfig{ProducerID: -1, Compression: Gzip}, sample[:1]...)
	both := append(bytes.Clone(one), two...)

	batches, err := Split(both)
	require.NoError(t, err)
	require.Equal(t, []Batch{one, two}, batches)

	batches, err = Split(nil)
	require.NoError(t, err)
	require.Empty(t, batches)

	_, err = Split(both[:len(both)-1])
	require.ErrorIs(t, err, ErrTruncated)

	both[len(one)+atMagic] = 9
	_, err = Split(both)
	var c *CorruptError
	require.ErrorAs(t, err, &c)
	require.Equal(t, int64(len(one)+atMagic), c.Position)
}

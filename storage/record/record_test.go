package record

import (
	"bytes"
	"encoding/binary"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

var sample = []Record{
	{TimestampMs: 1000, Key: []byte("k"), Value: []byte("v"), Headers: []Header{{"h", []byte("x")}, {"null", nil}}},
	{TimestampMs: 900, Key: nil, Value: []byte{}},
	{TimestampMs: 1100, Key: []byte{}, Value: nil},
	{TimestampMs: 1100, Value: bytes.Repeat([]byte("long "), 1000)},
}

func build(t testing.TB, c BuilderConfig, records ...Record) Batch {
	t.Helper()
	b := NewBuilder(c)
	for _, r := range records {
		b.Append(r)
	}
	batch, err := b.Build()
	require.NoError(t, err)
	return batch
}

func all(t testing.TB, b Batch) []Record {
	t.Helper()
	var out []Record
	for r, err := range b.All() {
		require.NoError(t, err)
		out = append(out, r)
	}
	return out
}

func TestRoundTrip(t *testing.T) {
	for _, codec := range []Compression{None, Gzip, Snappy, LZ4, Zstd} {
		t.Run(codec.String(), func(t *testing.T) {
			b := build(t, BuilderConfig{Compression: codec, ProducerID: 7, ProducerEpoch: 2, BaseSequence: 30}, sample...)
			b.SetBaseOffset(500)
			got, rest, err := Parse(append(bytes.Clone(b), "rest"...))
			require.NoError(t, err)
			require.Equal(t, "rest", string(rest))
			require.Equal(t, int64(7), got.ProducerID())
			require.Equal(t, int16(2), got.ProducerEpoch())
			require.Equal(t, int32(30), got.BaseSequence())
			require.Equal(t, int64(504), got.NextOffset())
			require.Equal(t, int64(1100), got.MaxTimestamp())
			st, err := got.Check(Limits{MaxBatchBytes: 1 << 20})
			require.NoError(t, err)
			require.Equal(t, Stats{Records: 4, PayloadBytes: 1 + 1 + 1 + 1 + 4 + 5000}, st)
			for i, r := range all(t, got) {
				want := sample[i]
				want.Offset = 500 + int64(i)
				require.Equal(t, want, r)
			}
		})
	}
}

// What franz-go encodes is read here, and the other way round.
func TestAgainstKmsg(t *testing.T) {
	ours := build(t, BuilderConfig{ProducerID: 7, ProducerEpoch: 2, BaseSequence: 30}, sample...)
	var theirs kmsg.RecordBatch
	require.NoError(t, theirs.ReadFrom(ours))
	require.Equal(t, int32(4), theirs.NumRecords)
	require.Equal(t, int64(7), theirs.ProducerID)
	require.Equal(t, int32(3), theirs.LastOffsetDelta)
	require.Equal(t, binary.BigEndian.Uint32(ours[atCRC:]), uint32(theirs.CRC))
	require.Equal(t, []byte(ours), theirs.AppendTo(nil))
}

func TestParseRefuses(t *testing.T) {
	good := build(t, BuilderConfig{ProducerID: -1}, sample...)
	for n := range good {
		_, _, err := Parse(good[:n])
		require.ErrorIs(t, err, ErrTruncated, "cut to %d bytes", n)
	}
	for i := 8; i < len(good); i++ {
		if i >= 12 && i < 16 {
			continue // the leader epoch is not covered
		}
		bad := bytes.Clone(good)
		bad[i] ^= 0x10
		_, _, err := Parse(bad)
		require.Error(t, err, "flipped byte %d", i)
	}
}

func TestCheckRefuses(t *testing.T) {
	tests := []struct {
		name   string
		limits Limits
		codec  Compression
		err    error
	}{
		{"record over the limit", Limits{MaxRecordBytes: 4000}, None, ErrTooLarge},
		{"batch over the limit", Limits{MaxBatchBytes: 4000}, None, ErrTooLarge},
		{"bomb", Limits{MaxBatchBytes: 4000}, Zstd, ErrTooLarge},
		{"gzip bomb", Limits{MaxBatchBytes: 4000}, Gzip, ErrTooLarge},
		{"snappy bomb", Limits{MaxBatchBytes: 4000}, Snappy, ErrTooLarge},
		{"lz4 bomb", Limits{MaxBatchBytes: 4000}, LZ4, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := build(t, BuilderConfig{Compression: tt.codec, ProducerID: -1}, sample...).Check(tt.limits)
			require.ErrorIs(t, err, tt.err)
		})
	}
}

func TestCheckDoesNotAllocate(t *testing.T) {
	b := build(t, BuilderConfig{ProducerID: -1}, sample...)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = b.Check(Limits{}) }))
}

// Values from Kafka's own tests (UtilsTest.testMurmur2).
func TestMurmur2(t *testing.T) {
	tests := map[string]int32{
		"21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
		"a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971, "abc": 479470107,
	}
	for key, want := range tests {
		require.Equal(t, want, int32(Murmur2([]byte(key))), key)
	}
}

func FuzzBatch(f *testing.F) {
	for _, codec := range []Compression{None, Gzip, Snappy, LZ4, Zstd} {
		f.Add([]byte(build(f, BuilderConfig{Compression: codec, ProducerID: 1}, sample...)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		b, _, err := Parse(data)
		if err != nil {
			return
		}
		if st, err := b.Check(Limits{MaxBatchBytes: 1 << 20}); err == nil {
			require.Len(t, all(t, b), int(st.Records))
		}
	})
}

package record

import (
	"bytes"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// FuzzParse takes any bytes as batches, sealed anew so that the fuzzer gets past the CRC.
func FuzzParse(f *testing.F) {
	for _, batch := range golden(f) {
		f.Add([]byte(batch()), true)
	}
	f.Add([]byte{}, false)
	f.Add(encode(one), true)
	f.Fuzz(func(t *testing.T, data []byte, sealed bool) {
		if sealed && len(data) >= HeaderBytes {
			data = bytes.Clone(data)
			data[atMagic] = magic
			reseal(data)
		}
		batches, err := Split(data)
		if err != nil {
			require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTruncated), err)
			return
		}
		for _, b := range batches {
			checkBatch(t, b)
		}
	})
}

// checkBatch holds Check, All and kmsg against each other.
func checkBatch(t *testing.T, b Batch) {
	t.Helper()
	stats, err := b.Check(Limits{MaxBatchBytes: 1 << 20})
	if err != nil {
		require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooLarge), err)
		n := 0
		for _, err := range b.All() { // must end, without a panic
			if n++; err != nil {
				break
			}
		}
		require.LessOrEqual(t, n, int(b.NumRecords())+1)
		return
	}
	records := all(t, b)
	require.Len(t, records, int(stats.Records))
	require.Equal(t, stats.PayloadBytes, payload(records))
	require.Equal(t, b.NextOffset(), records[len(records)-1].Offset+1)
	var theirs kmsg.RecordBatch
	require.NoError(t, theirs.ReadFrom(b))
	if b.Compression() == None {
		rest := theirs.Records
		for _, r := range records {
			var k kmsg.Record
			require.NoError(t, k.ReadFrom(rest))
			require.Equal(t, r.Key, k.Key)
			require.Equal(t, r.Value, k.Value)
			require.Len(t, k.Headers, len(r.Headers))
			_, n := varlong(rest)
			rest = rest[n+int(k.Length):]
		}
		require.Empty(t, rest)
	}
	// The same records, built again, are the same records.
	bl := NewBuilder(BuilderConfig{ProducerID: -1})
	for _, r := range records {
		bl.Append(r)
	}
	again, err := bl.Build()
	if err != nil {
		require.ErrorIs(t, err, ErrInvalidRecord) // only where the first record's time is not the base
		return
	}
	require.Equal(t, withOffsets(b.BaseOffset(), all(t, again)), records)
}

func varlong(b []byte) (v int64, n int) {
	c := cursor{buf: b}
	v = c.varlong()
	return v, c.pos
}

// FuzzDecompress gives any bytes to every decoder.
func FuzzDecompress(f *testing.F) {
	for _, codec := range codecs[1:] {
		f.Add(uint8(codec), pack(f, codec, []byte("hello hello hello hello")))
	}
	f.Add(uint8(Zstd), zstdStream(f, make([]byte, 200_000)))
	f.Fuzz(func(t *testing.T, codec uint8, data []byte) {
		const limit = 1 << 16
		out, err := decompress(nil, Compression(codec%8), data, limit)
		if Compression(codec%8) == None {
			return
		}
		if err != nil {
			require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrTooLarge), err)
			return
		}
		require.LessOrEqual(t, len(out), limit)
	})
}

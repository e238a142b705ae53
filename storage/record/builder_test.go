package record

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestBuilderRoundTrip(t *testing.T) {
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			b := build(t, BuilderConfig{Compression: codec, ProducerID: -1}, sample...)
			b.SetBaseOffset(500)
			b, rest, err := Parse(b)
			require.NoError(t, err)
			require.Empty(t, rest)
			require.Equal(t, codec, b.Compression())
			stats, err := b.Check(Limits{MaxRecordBytes: 5000, MaxBatchBytes: 6000})
			require.NoError(t, err)
			require.Equal(t, Stats{Records: 4, PayloadBytes: samplePayload}, stats)
			require.Equal(t, withOffsets(500, sample), all(t, b))
		})
	}
}

func TestBuilderIsUsedAgain(t *testing.T) {
	bl := NewBuilder(BuilderConfig{Compression: Zstd, ProducerID: 1, ProducerEpoch: 3, BaseSequence: 5})
	for _, r := range sample {
		bl.Append(r)
	}
	_, err := bl.Build()
	require.NoError(t, err)

	bl.Reset(BuilderConfig{ProducerID: -9, ProducerEpoch: 3, BaseSequence: 5})
	require.Zero(t, bl.Len())
	require.Equal(t, HeaderBytes, bl.SizeBytes())
	bl.Append(Record{TimestampMs: 5, Value: []byte("again"), Offset: 77})
	b, err := bl.Build()
	require.NoError(t, err)
	require.Len(t, b, bl.SizeBytes())
	require.Equal(t, []int64{-1, -1, -1}, []int64{b.ProducerID(), int64(b.ProducerEpoch()), int64(b.BaseSequence())})
	require.Equal(t, []Record{{TimestampMs: 5, Value: []byte("again")}}, all(t, b))

	// Build changes nothing: more can follow.
	bl.Append(Record{TimestampMs: 6, Value: []byte("more")})
	b, err = bl.Build()
	require.NoError(t, err)
	require.Len(t, all(t, b), 2)
}

func TestBuilderRefuses(t *testing.T) {
	fine := Record{TimestampMs: 1000}
	tests := []struct {
		name    string
		config  BuilderConfig
		records []Record
		err     error
	}{
		{"no records", BuilderConfig{}, nil, ErrEmpty},
		{"a header that is not UTF-8", BuilderConfig{}, []Record{{Headers: []Header{{Key: "\xff"}}}, fine}, ErrInvalidRecord},
		{"times too far apart", BuilderConfig{}, []Record{{TimestampMs: math.MinInt64}, fine}, ErrInvalidRecord},
		{"an unknown compression", BuilderConfig{Compression: 5}, []Record{fine}, ErrInvalidRecord},
		{"a negative epoch", BuilderConfig{ProducerEpoch: -1}, []Record{fine}, ErrInvalidRecord},
		{"a negative sequence", BuilderConfig{BaseSequence: -1}, []Record{fine}, ErrInvalidRecord},
		{"too much", BuilderConfig{}, []Record{fine, {Value: make([]byte, MaxDecompressedBytes)}}, ErrTooLarge},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bl := NewBuilder(tt.config)
			for _, r := range tt.records {
				bl.Append(r)
			}
			_, err := bl.Build()
			require.ErrorIs(t, err, tt.err)
			bl.Reset(BuilderConfig{ProducerID: -1})
			bl.Append(fine)
			_, err = bl.Build()
			require.NoError(t, err)
		})
	}
}

func TestBuilderDoesNotAllocate(t *testing.T) {
	bl := NewBuilder(BuilderConfig{ProducerID: -1})
	r := Record{TimestampMs: 1, Key: []byte("key"), Value: bytes.Repeat([]byte("x"), 1024), Headers: []Header{{"h", []byte("v")}}}
	run := func() {
		bl.Reset(BuilderConfig{ProducerID: -1})
		for range 100 {
			bl.Append(r)
		}
		_, _ = bl.Build()
	}
	run()
	require.Zero(t, testing.AllocsPerRun(20, run))
}

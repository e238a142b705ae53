package record

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/snappy/xerial"
	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden are batches of sample that must stay readable for ever. Those that are compressed may come out otherwise from
// a newer library; the others must be built byte for byte as they are.
func golden(tb testing.TB) map[string]func() Batch {
	tb.Helper()
	c := BuilderConfig{ProducerID: 7, ProducerEpoch: 2, BaseSequence: 30}
	batches := map[string]func() Batch{
		"snappy-xerial": func() Batch {
			b := build(tb, BuilderConfig{ProducerID: 7, ProducerEpoch: 2, BaseSequence: 30}, sample...)
			framed := slices.Concat(b[:HeaderBytes], xerial.Encode(nil, b[HeaderBytes:]))
			framed[atAttributes+1] = byte(Snappy)
			return reseal(framed)
		},
	}
	for _, codec := range codecs {
		batches[codec.String()] = func() Batch {
			c := c
			c.Compression = codec
			return build(tb, c, sample...)
		}
	}
	return batches
}

func TestGolden(t *testing.T) {
	for name, batch := range golden(t) {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join("testdata", "batch-v2-"+name+".bin")
			if *update {
				b := batch()
				b.SetBaseOffset(41)
				require.NoError(t, os.WriteFile(path, b, 0o600))
			}
			data, err := os.ReadFile(path)
			require.NoError(t, err)
			b, rest, err := Parse(data)
			require.NoError(t, err)
			require.Empty(t, rest)
			stats, err := b.Check(Limits{MaxRecordBytes: 5000, MaxBatchBytes: 6000})
			require.NoError(t, err)
			require.Equal(t, Stats{Records: 4, PayloadBytes: samplePayload}, stats)
			require.Equal(t, withOffsets(41, sample), all(t, b))
			if name == None.String() {
				b.SetBaseOffset(0)
				require.Equal(t, batch(), b)
			}
		})
	}
}

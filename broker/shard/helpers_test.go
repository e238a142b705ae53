package shard

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/record"
)

// batchConfig describes a test batch: n records, of a producer when id is 0 or more.
type batchConfig struct {
	n     int
	id    int64
	epoch int16
	seq   int32
	value string
}

func buildBatch(t testing.TB, c batchConfig) record.Batch {
	t.Helper()
	b := record.NewBuilder(record.BuilderConfig{ProducerID: c.id, ProducerEpoch: c.epoch, BaseSequence: c.seq})
	for i := range c.n {
		b.Append(record.Record{TimestampMs: 1000 + int64(i), Value: fmt.Appendf(nil, "%s%d", c.value, i)})
	}
	batch, err := b.Build()
	require.NoError(t, err)
	return bytes.Clone(batch)
}

// plain returns a batch of n records without a producer.
func plain(t testing.TB, n int, value string) record.Batch {
	t.Helper()
	return buildBatch(t, batchConfig{n: n, id: -1, value: value})
}

func mem(t testing.TB, base int64, n int) memBatch {
	t.Helper()
	return memBatch{base: base, data: plain(t, n, "v")}
}

func encodeAppend(timeMs int64, batches ...AppendBatch) []byte {
	data := appendHeader(nil, kindAppend, timeMs)
	for _, b := range batches {
		data = appendAppendItem(data, b)
	}
	return data
}

// values returns the values of all records in whole batches, and checks that their offsets are dense from the first.
func values(t testing.TB, data []byte) (base int64, vals string) {
	t.Helper()
	batches, err := record.Split(data)
	require.NoError(t, err)
	base = -1
	next := int64(0)
	var out []string
	for _, b := range batches {
		for r, err := range b.All() {
			require.NoError(t, err)
			if base < 0 {
				base, next = r.Offset, r.Offset
			}
			require.Equal(t, next, r.Offset)
			next++
			out = append(out, string(r.Value))
		}
	}
	return base, strings.Join(out, " ")
}

package shard

import (
	"bytes"
	"fmt"
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

func buildBatch(tb testing.TB, c batchConfig) record.Batch {
	tb.Helper()
	b := record.NewBuilder(record.BuilderConfig{ProducerID: c.id, ProducerEpoch: c.epoch, BaseSequence: c.seq})
	for i := range c.n {
		b.Append(record.Record{TimestampMs: 1000 + int64(i), Value: fmt.Appendf(nil, "%s%d", c.value, i)})
	}
	batch, err := b.Build()
	require.NoError(tb, err)
	return bytes.Clone(batch)
}

// plain returns a batch of n records without a producer.
func plain(tb testing.TB, n int, value string) record.Batch {
	tb.Helper()
	return buildBatch(tb, batchConfig{n: n, id: -1, value: value})
}

func mem(tb testing.TB, base int64, n int) memBatch {
	tb.Helper()
	return memBatch{base: base, data: plain(tb, n, "v")}
}

func encodeAppend(timeMs int64, batches ...AppendBatch) []byte {
	data := appendHeader(nil, kindAppend, timeMs)
	for _, b := range batches {
		data = appendAppendItem(data, b)
	}
	return data
}

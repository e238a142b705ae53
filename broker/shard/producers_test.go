package shard

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

var testKey = producerKey{partitionID: 7, producerID: 42}

// written returns producers that have stored these batches, in order, from offset 100 on.
func written(batches ...producerBatch) *producers {
	ps := newProducers()
	offset := int64(100)
	for _, b := range batches {
		b.baseOffset = offset
		ps.record(testKey, 1, b)
		offset += int64(b.records)
	}
	return ps
}

func TestProducerCheck(t *testing.T) {
	five := written(
		producerBatch{epoch: 1, baseSequence: 0, records: 10},
		producerBatch{epoch: 1, baseSequence: 10, records: 10},
		producerBatch{epoch: 1, baseSequence: 20, records: 10},
		producerBatch{epoch: 1, baseSequence: 30, records: 10},
		producerBatch{epoch: 1, baseSequence: 40, records: 10},
		producerBatch{epoch: 1, baseSequence: 50, records: 10},
	)
	wrapping := written(producerBatch{epoch: 1, baseSequence: math.MaxInt32 - 4, records: 5})
	tests := []struct {
		name          string
		ps            *producers
		epoch         int16
		base, records int32
		want          AppendResult
	}{
		{"first batch of a producer", newProducers(), 0, 0, 3, AppendResult{}},
		{
			"first batch seen does not begin at 0", newProducers(), 0, 5, 3,
			AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_PRODUCER},
		},
		{"next batch", five, 1, 60, 10, AppendResult{}},
		{"newest batch again", five, 1, 50, 10, AppendResult{BaseOffset: 150, Duplicate: true}},
		{"oldest remembered batch again", five, 1, 10, 10, AppendResult{BaseOffset: 110, Duplicate: true}},
		{
			"batch that is forgotten", five, 1, 0, 10,
			AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE},
		},
		{
			"gap", five, 1, 70, 10,
			AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, ExpectedSequence: 60},
		},
		{"old epoch", five, 0, 60, 10, AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_PRODUCER_FENCED}},
		{"new epoch begins at 0", five, 2, 0, 10, AppendResult{}},
		{
			"new epoch must begin at 0", five, 2, 60, 10,
			AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE},
		},
		{"sequence wraps to 0", wrapping, 1, 0, 5, AppendResult{}},
		{"duplicate across the wrap", wrapping, 1, math.MaxInt32 - 4, 5, AppendResult{BaseOffset: 100, Duplicate: true}},
		{
			"gap across the wrap", wrapping, 1, 3, 5,
			AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, ExpectedSequence: 0},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			require.Equal(t, tt.want, tt.ps.check(testKey, tt.epoch, tt.base, tt.records))
		})
	}
}

// dedupe-eats-new: a sequence that was used in an older epoch is new in the next one.
func TestDedupeEatsNew(t *testing.T) {
	ps := written(producerBatch{epoch: 1, baseSequence: 0, records: 10})
	require.Equal(t, AppendResult{}, ps.check(testKey, 2, 0, 10))
	ps.record(testKey, 2, producerBatch{epoch: 2, baseSequence: 0, records: 10, baseOffset: 110})
	require.Equal(t, AppendResult{BaseOffset: 110, Duplicate: true}, ps.check(testKey, 2, 0, 10))
}

func TestProducersExpire(t *testing.T) {
	ps := newProducers()
	ps.record(producerKey{1, 1}, 0, producerBatch{records: 1})
	ps.record(producerKey{1, 2}, 1000, producerBatch{records: 1})
	ps.record(producerKey{1, 1}, 2000, producerBatch{baseSequence: 1, records: 1})

	ps.expire(1000 + producerKeepMs)
	require.Len(t, ps.byKey, 2, "none is silent for longer than a day")
	ps.expire(1001 + producerKeepMs)
	require.NotContains(t, ps.byKey, producerKey{1, 2})
	require.Contains(t, ps.byKey, producerKey{1, 1})
	require.Len(t, ps.byKey, ps.order.Len())
}

func TestProducersAreBounded(t *testing.T) {
	ps := newProducers()
	for i := range int64(maxProducers + 10) {
		ps.record(producerKey{1, i}, i, producerBatch{records: 1})
	}
	require.Len(t, ps.byKey, maxProducers)
	require.NotContains(t, ps.byKey, producerKey{1, 9}, "the oldest go first")
	require.Contains(t, ps.byKey, producerKey{1, 10})
}

func TestProducersDropPartition(t *testing.T) {
	ps := newProducers()
	ps.record(producerKey{1, 1}, 0, producerBatch{records: 1})
	ps.record(producerKey{2, 1}, 0, producerBatch{records: 1})
	ps.drop(map[uint64]bool{1: true})
	require.Equal(t, 1, ps.order.Len())
	require.Contains(t, ps.byKey, producerKey{2, 1})
}

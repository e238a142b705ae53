package rpc

import (
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

func writeRequests() []proto.Message {
	partition, ms := int32(4), int64(99)
	batch := &streamhousev1.ProduceBatchRequest{
		Topic: "t", Partition: &partition, Acks: streamhousev1.Acks_ACKS_DURABLE,
		Producer: &streamhousev1.ProducerSequence{ProducerId: 1, ProducerEpoch: 2, BaseSequence: 3},
		Records: []*streamhousev1.Record{
			{}, {Key: []byte{}, Value: []byte("v")}, {Key: []byte("k"), TimestampMs: &ms, Headers: []*streamhousev1.Header{{Key: "h", Value: []byte("x")}, {Key: "h"}}},
		},
	}
	raw := &streamhousev1.ProduceRecordBatchesRequest{Topic: "t", Partition: 2, RecordBatches: []byte("bytes")}
	return []proto.Message{
		batch, raw, &streamhousev1.ProduceBatchRequest{}, &streamhousev1.ProduceRecordBatchesRequest{},
		&streamhousev1.ProduceStreamRequest{Id: 7, Write: &streamhousev1.ProduceStreamRequest_Batch{Batch: batch}},
		&streamhousev1.ProduceStreamRequest{Id: 7, Write: &streamhousev1.ProduceStreamRequest_RecordBatches{RecordBatches: raw}},
		&nodev1.AppendRequest{Shard: 3, Durable: true, Batches: []*nodev1.PartitionBatch{
			{PartitionId: 1, RecordBatch: []byte("one"), PayloadBytes: 5, Topic: "t"}, {},
		}},
	}
}

func TestCodecDecodesLikeProtobuf(t *testing.T) {
	c := newCodec()
	for _, want := range writeRequests() {
		data, err := proto.Marshal(want)
		require.NoError(t, err)
		got := want.ProtoReflect().New().Interface()
		require.NoError(t, c.Unmarshal(mem.BufferSlice{mem.SliceBuffer(data)}, got))
		require.True(t, proto.Equal(want, got), "%s\n%s", want, got)
		c.release(got)
		c.release(got)
		require.Error(t, c.Unmarshal(mem.BufferSlice{mem.SliceBuffer("\xff")}, want.ProtoReflect().New().Interface()))
	}
	c.held.Range(func(any, any) bool {
		require.Fail(t, "a buffer is held")
		return false
	})
}

// TestCodecCopiesNothing lets the decoded bytes alias the buffer.
func TestCodecCopiesNothing(t *testing.T) {
	data, err := proto.Marshal(&streamhousev1.ProduceRecordBatchesRequest{Topic: "t", RecordBatches: make([]byte, 1<<20)})
	require.NoError(t, err)
	allocated := testing.Benchmark(func(b *testing.B) {
		b.Helper()
		for b.Loop() {
			var m streamhousev1.ProduceRecordBatchesRequest
			require.NoError(b, decodeRaw(data, &m))
		}
	}).AllocedBytesPerOp()
	require.Less(t, allocated, int64(4096))
}

// FuzzCodec decodes whatever comes and wants what protobuf says.
func FuzzCodec(f *testing.F) {
	for i, m := range writeRequests() {
		data, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(i, data)
	}
	f.Fuzz(func(t *testing.T, kind int, data []byte) {
		kinds := writeRequests()
		m := kinds[max(kind, -kind, 0)%len(kinds)]
		want, got := m.ProtoReflect().New().Interface(), m.ProtoReflect().New().Interface()
		wantErr, gotErr := proto.Unmarshal(data, want), decoderOf(got)(data)
		require.Equal(t, wantErr == nil, gotErr == nil, "%v and %v", wantErr, gotErr)
		if wantErr == nil {
			require.True(t, proto.Equal(want, got), "%s\n%s", want, got)
		}
	})
}

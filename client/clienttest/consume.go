package clienttest

import (
	"context"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// Consume returns what is there, and waits a moment where there is nothing.
func (n *Node) Consume(ctx context.Context, r *streamhousev1.ConsumeRequest) (*streamhousev1.ConsumeResponse, error) {
	resp, err := n.read(r)
	if err != nil || len(resp.GetRecords()) > 0 {
		return resp, err
	}
	wait := time.NewTimer(min(r.GetMaxWait().AsDuration(), 20*time.Millisecond))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
	return resp, nil
}

// ConsumeRecordBatches is Consume with record batches.
func (n *Node) ConsumeRecordBatches(ctx context.Context, r *streamhousev1.ConsumeRecordBatchesRequest) (*streamhousev1.ConsumeRecordBatchesResponse, error) {
	n.c.mu.Lock()
	err := n.c.checkIDLocked(r.GetTopic(), r.GetPartition(), r.GetPartitionId())
	n.c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	resp, err := n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: r.GetTopic(), Partition: r.GetPartition(), Offset: r.GetOffset(), MaxWait: r.GetMaxWait(), Group: r.GetGroup()})
	if err != nil {
		return nil, err
	}
	out := &streamhousev1.ConsumeRecordBatchesResponse{HighWatermark: resp.GetHighWatermark(), LogStartOffset: resp.GetLogStartOffset(), NextOffset: resp.GetNextOffset()}
	if len(resp.GetRecords()) == 0 {
		return out, nil
	}
	b := record.NewBuilder(record.BuilderConfig{ProducerID: -1, Compression: record.Snappy})
	for _, rec := range resp.GetRecords() {
		in := record.Record{TimestampMs: rec.GetTimestampMs(), Key: rec.Key, Value: rec.Value}
		for _, h := range rec.GetHeaders() {
			in.Headers = append(in.Headers, record.Header{Key: h.GetKey(), Value: h.Value})
		}
		b.Append(in)
	}
	batch, err := b.Build()
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	batch.SetBaseOffset(resp.GetRecords()[0].GetOffset())
	out.RecordBatches = batch
	return out, nil
}

func (n *Node) read(r *streamhousev1.ConsumeRequest) (*streamhousev1.ConsumeResponse, error) {
	unlock, err := n.enter("Consume")
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := n.c.topicLocked(r.GetTopic())
	if err != nil {
		return nil, err
	}
	p := t.partitions[r.GetPartition()]
	end := p.start + int64(len(p.records))
	if r.GetOffset() < p.start || r.GetOffset() > end {
		return nil, Error(codes.OutOfRange, streamhousev1.ErrorReason_ERROR_REASON_OFFSET_OUT_OF_RANGE, "offset "+strconv.FormatInt(r.GetOffset(), 10)+" is out of range",
			map[string]string{"log_start_offset": strconv.FormatInt(p.start, 10), "high_watermark": strconv.FormatInt(end, 10)})
	}
	records := p.records[r.GetOffset()-p.start:]
	most := max(2, len(p.records)/50) // many small answers
	if r.GetMaxRecords() > 0 {
		most = min(most, int(r.GetMaxRecords()))
	}
	records = records[:min(len(records), most)]
	return &streamhousev1.ConsumeResponse{Records: records, HighWatermark: end, LogStartOffset: p.start, NextOffset: r.GetOffset() + int64(len(records))}, nil
}

// ListOffsets answers for the beginning, the end, and a time, which is the
// beginning or the end. Hooks know a question for the end as ListEnds.
func (n *Node) ListOffsets(_ context.Context, r *streamhousev1.ListOffsetsRequest) (*streamhousev1.ListOffsetsResponse, error) {
	method := "ListOffsets"
	if r.GetLatest() {
		method = "ListEnds"
	}
	unlock, err := n.enter(method)
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := n.c.topicLocked(r.GetTopic())
	if err != nil {
		return nil, err
	}
	resp := &streamhousev1.ListOffsetsResponse{}
	for i, p := range t.partitions {
		if len(r.GetPartitions()) > 0 && !slices.Contains(r.GetPartitions(), int32(i)) {
			continue
		}
		offset := p.start
		if r.GetLatest() || r.GetTimestampMs() > createdMs {
			offset += int64(len(p.records))
		}
		resp.Offsets = append(resp.Offsets, &streamhousev1.ListedOffset{Partition: int32(i), Offset: offset, TimestampMs: -1})
	}
	return resp, nil
}

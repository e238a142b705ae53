package fakecluster

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// CreateTopic makes a topic that was created in 2026.
func (n *Node) CreateTopic(_ context.Context, r *streamhousev1.CreateTopicRequest) (*streamhousev1.CreateTopicResponse, error) {
	unlock, err := n.enter("CreateTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := n.c.topics[r.GetName()]; ok {
		return nil, Error(codes.AlreadyExists, streamhousev1.ErrorReason_ERROR_REASON_TOPIC_EXISTS, "topic "+strconv.Quote(r.GetName())+" exists", nil)
	}
	if r.GetPartitions() < 1 || r.GetPartitions() > 100_000 {
		return nil, Error(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD, "partitions must be 1 to 100000", nil)
	}
	t := &topic{info: &streamhousev1.Topic{Name: r.GetName(), Uuid: slices.Repeat([]byte{0xab}, 16), Config: r.GetConfig(), CreatedMs: 1767225600000}}
	n.c.topics[r.GetName()] = t
	t.grow(int(r.GetPartitions()))
	return &streamhousev1.CreateTopicResponse{Topic: t.info}, nil
}

func (t *topic) grow(partitions int) {
	for i := len(t.partitions); i < partitions; i++ {
		t.partitions = append(t.partitions, &partition{stored: make(map[int64]map[int32]int64), next: make(map[int64]int64)})
		t.info.Partitions = append(t.info.Partitions, &streamhousev1.Partition{Partition: int32(i), Id: uint64(i + 1), Leader: "n1", Replicas: []string{"n1", "n2"}})
	}
}

// GetTopic returns a topic.
func (n *Node) GetTopic(_ context.Context, r *streamhousev1.GetTopicRequest) (*streamhousev1.GetTopicResponse, error) {
	unlock, err := n.enter("GetTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := n.c.topicLocked(r.GetName())
	if err != nil {
		return nil, err
	}
	return &streamhousev1.GetTopicResponse{Topic: t.info}, nil
}

// ListTopics returns all topics by name.
func (n *Node) ListTopics(context.Context, *streamhousev1.ListTopicsRequest) (*streamhousev1.ListTopicsResponse, error) {
	unlock, err := n.enter("ListTopics")
	if err != nil {
		return nil, err
	}
	defer unlock()
	resp := &streamhousev1.ListTopicsResponse{}
	for _, name := range slices.Sorted(maps.Keys(n.c.topics)) {
		t := n.c.topics[name].info
		resp.Topics = append(resp.Topics, &streamhousev1.TopicSummary{Name: name, Uuid: t.GetUuid(), Partitions: int32(len(t.GetPartitions())), Config: t.GetConfig(), CreatedMs: t.GetCreatedMs()})
	}
	return resp, nil
}

// AlterTopic sets and unsets configs and grows the topic.
func (n *Node) AlterTopic(_ context.Context, r *streamhousev1.AlterTopicRequest) (*streamhousev1.AlterTopicResponse, error) {
	unlock, err := n.enter("AlterTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := n.c.topicLocked(r.GetName())
	if err != nil {
		return nil, err
	}
	config := maps.Clone(t.info.GetConfig())
	if config == nil {
		config = make(map[string]string)
	}
	maps.Copy(config, r.GetSetConfig())
	for _, k := range r.GetUnsetConfig() {
		delete(config, k)
	}
	t.info.Config = config
	t.grow(int(r.GetPartitions()))
	return &streamhousev1.AlterTopicResponse{Topic: t.info}, nil
}

// DeleteTopic deletes a topic.
func (n *Node) DeleteTopic(_ context.Context, r *streamhousev1.DeleteTopicRequest) (*streamhousev1.DeleteTopicResponse, error) {
	unlock, err := n.enter("DeleteTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := n.c.topicLocked(r.GetName()); err != nil {
		return nil, err
	}
	delete(n.c.topics, r.GetName())
	return &streamhousev1.DeleteTopicResponse{}, nil
}

// InitProducer gives ids from 1.
func (n *Node) InitProducer(context.Context, *streamhousev1.InitProducerRequest) (*streamhousev1.InitProducerResponse, error) {
	unlock, err := n.enter("InitProducer")
	if err != nil {
		return nil, err
	}
	defer unlock()
	n.c.producers++
	return &streamhousev1.InitProducerResponse{ProducerId: n.c.producers}, nil
}

// ProduceStream writes batches under their sequences.
func (n *Node) ProduceStream(s grpc.BidiStreamingServer[streamhousev1.ProduceStreamRequest, streamhousev1.ProduceStreamResponse]) error {
	for {
		req, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		resp := &streamhousev1.ProduceStreamResponse{Id: req.GetId()}
		written, failure := n.write(req.GetBatch())
		inStream, ok := errors.AsType[*streamError](failure)
		switch {
		case ok:
			resp.Error = inStream.proto
		case failure != nil:
			return failure // breaks the stream
		default:
			resp.Batches = []*streamhousev1.WrittenBatch{written}
		}
		if err := s.Send(resp); err != nil {
			return err
		}
	}
}

type streamError struct{ proto *streamhousev1.Error }

func (e *streamError) Error() string { return e.proto.GetMessage() }

// StreamError is an answer inside a stream, for the hooks.
func StreamError(code codes.Code, reason streamhousev1.ErrorReason, message string) error {
	return &streamError{&streamhousev1.Error{Code: int32(code), Reason: reason, Message: message}}
}

// Break is what a client sees whose connection broke, for the hooks.
func Break() error { return status.Error(codes.Unavailable, "the connection broke") }

func (n *Node) write(b *streamhousev1.ProduceBatchRequest) (*streamhousev1.WrittenBatch, error) {
	unlock, err := n.enter("write")
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := n.c.topicLocked(b.GetTopic())
	if err != nil {
		return nil, StreamError(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND, "the topic is gone")
	}
	if int(b.GetPartition()) >= len(t.partitions) {
		return nil, StreamError(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND, "there is no such partition")
	}
	w, err := t.partitions[b.GetPartition()].append(b)
	if err == nil && n.Appended != nil {
		err = n.Appended()
	}
	return w, err
}

func (p *partition) append(b *streamhousev1.ProduceBatchRequest) (*streamhousev1.WrittenBatch, error) {
	w := &streamhousev1.WrittenBatch{Partition: b.GetPartition(), BaseOffset: p.start + int64(len(p.records)), Records: int32(len(b.GetRecords()))}
	id, seq := b.GetProducer().GetProducerId(), b.GetProducer().GetBaseSequence()
	if base, ok := p.stored[id][seq]; ok {
		w.BaseOffset, w.Duplicate = base, true
		return w, nil
	}
	if int64(seq) != p.next[id] {
		return nil, StreamError(codes.FailedPrecondition, streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, "a gap")
	}
	if p.stored[id] == nil {
		p.stored[id] = make(map[int32]int64)
	}
	p.stored[id][seq] = w.GetBaseOffset()
	p.next[id] += int64(len(b.GetRecords()))
	for _, r := range b.GetRecords() {
		p.records = append(p.records, &streamhousev1.ConsumedRecord{
			Offset: p.start + int64(len(p.records)), TimestampMs: 1767225600000, Key: r.Key, Value: r.Value, Headers: r.GetHeaders(),
		})
	}
	return w, nil
}

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
		if r.GetLatest() || r.GetTimestampMs() > 1767225600000 {
			offset += int64(len(p.records))
		}
		resp.Offsets = append(resp.Offsets, &streamhousev1.ListedOffset{Partition: int32(i), Offset: offset, TimestampMs: -1})
	}
	return resp, nil
}

// CommitOffset stores offsets.
func (n *Node) CommitOffset(_ context.Context, r *streamhousev1.CommitOffsetRequest) (*streamhousev1.CommitOffsetResponse, error) {
	unlock, err := n.enter("CommitOffset")
	if err != nil {
		return nil, err
	}
	defer unlock()
	for _, o := range r.GetOffsets() {
		n.c.offsets[offsetKey(r.GetGroup(), r.GetTopic(), o.GetPartition())] = o.GetOffset()
	}
	return &streamhousev1.CommitOffsetResponse{}, nil
}

// GetOffset returns what was stored.
func (n *Node) GetOffset(_ context.Context, r *streamhousev1.GetOffsetRequest) (*streamhousev1.GetOffsetResponse, error) {
	unlock, err := n.enter("GetOffset")
	if err != nil {
		return nil, err
	}
	defer unlock()
	resp := &streamhousev1.GetOffsetResponse{}
	for _, p := range r.GetPartitions() {
		if o, ok := n.c.offsets[offsetKey(r.GetGroup(), r.GetTopic(), p)]; ok {
			resp.Offsets = append(resp.Offsets, &streamhousev1.CommittedOffset{Partition: p, Offset: o})
		}
	}
	return resp, nil
}

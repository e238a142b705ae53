package clienttest

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// InitProducer gives ids from 1, and the next epoch of a known one.
func (n *Node) InitProducer(_ context.Context, r *streamhousev1.InitProducerRequest) (*streamhousev1.InitProducerResponse, error) {
	unlock, err := n.enter("InitProducer")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r.GetProducerId() > 0 {
		return &streamhousev1.InitProducerResponse{ProducerId: r.GetProducerId(), ProducerEpoch: r.GetProducerEpoch() + 1}, nil
	}
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
		written, failure := n.write(req)
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

// Error returns the text for people.
func (e *streamError) Error() string { return e.proto.GetMessage() }

// StreamError is an answer inside a stream, for the hooks.
func StreamError(code codes.Code, reason streamhousev1.ErrorReason, message string) error {
	return &streamError{&streamhousev1.Error{Code: int32(code), Reason: reason, Message: message}}
}

// Break is what a client sees whose connection broke, for the hooks.
func Break() error { return status.Error(codes.Unavailable, "the connection broke") }

// append is one batch on its way into a partition.
type appended struct {
	partition int32
	producer  int64
	epoch     int32
	sequence  int32
	records   []*streamhousev1.ConsumedRecord
}

// decode reads a request of either form.
func decode(req *streamhousev1.ProduceStreamRequest) (topic string, a appended, err error) {
	if b := req.GetBatch(); b != nil {
		a = appended{b.GetPartition(), b.GetProducer().GetProducerId(), b.GetProducer().GetProducerEpoch(), b.GetProducer().GetBaseSequence(), nil}
		for _, r := range b.GetRecords() {
			a.records = append(a.records, &streamhousev1.ConsumedRecord{TimestampMs: createdMs, Key: r.Key, Value: r.Value, Headers: r.GetHeaders()})
		}
		return b.GetTopic(), a, nil
	}
	raw := req.GetRecordBatches()
	b, _, err := record.Parse(raw.GetRecordBatches())
	if err != nil {
		return "", a, StreamError(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_BATCH, err.Error())
	}
	a = appended{raw.GetPartition(), b.ProducerID(), int32(b.ProducerEpoch()), b.BaseSequence(), nil}
	for r, err := range b.All() {
		if err != nil {
			return "", a, StreamError(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_BATCH, err.Error())
		}
		out := &streamhousev1.ConsumedRecord{TimestampMs: r.TimestampMs, Key: r.Key, Value: r.Value}
		for _, h := range r.Headers {
			out.Headers = append(out.Headers, &streamhousev1.Header{Key: h.Key, Value: h.Value})
		}
		a.records = append(a.records, out)
	}
	return raw.GetTopic(), a, nil
}

func (n *Node) write(req *streamhousev1.ProduceStreamRequest) (*streamhousev1.WrittenBatch, error) {
	unlock, err := n.enter("write")
	if err != nil {
		return nil, err
	}
	defer unlock()
	name, a, err := decode(req)
	if err != nil {
		return nil, err
	}
	t, err := n.c.topicLocked(name)
	if err != nil {
		return nil, StreamError(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND, "the topic is gone")
	}
	if int(a.partition) >= len(t.partitions) {
		return nil, StreamError(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND, "there is no such partition")
	}
	w, err := t.partitions[a.partition].append(a)
	if err == nil {
		w.Forwarded = t.info.GetPartitions()[a.partition].GetLeader() != n.idLocked()
	}
	if err == nil && n.Appended != nil {
		err = n.Appended()
	}
	return w, err
}

// session is what a partition remembers of a producer.
type session struct {
	epoch  int32
	next   int32
	stored map[int32]int64 // base offset by sequence
}

func (p *partition) append(a appended) (*streamhousev1.WrittenBatch, error) {
	w := &streamhousev1.WrittenBatch{Partition: a.partition, BaseOffset: p.start + int64(len(p.records)), Records: int32(len(a.records))}
	s := p.sessions[a.producer]
	switch {
	case s == nil && a.sequence != 0:
		return nil, StreamError(codes.FailedPrecondition, streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_PRODUCER, "who are you")
	case s != nil && a.epoch < s.epoch:
		return nil, StreamError(codes.FailedPrecondition, streamhousev1.ErrorReason_ERROR_REASON_PRODUCER_FENCED, "an old epoch")
	case s == nil || a.epoch > s.epoch:
		s = &session{epoch: a.epoch, stored: make(map[int32]int64)}
	}
	if base, ok := s.stored[a.sequence]; ok {
		w.BaseOffset, w.Duplicate = base, true
		return w, nil
	}
	if a.sequence != s.next {
		return nil, StreamError(codes.FailedPrecondition, streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, "a gap")
	}
	p.sessions[a.producer] = s
	s.stored[a.sequence] = w.GetBaseOffset()
	s.next += int32(len(a.records))
	for _, r := range a.records {
		r.Offset = p.start + int64(len(p.records))
		p.records = append(p.records, r)
	}
	return w, nil
}

// ForgetProducers makes all partitions forget who wrote, as nodes do after a day of silence.
func (c *Cluster) ForgetProducers() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, t := range c.topics {
		for _, p := range t.partitions {
			clear(p.sessions)
		}
	}
}

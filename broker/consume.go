package broker

import (
	"context"
	"math"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
)

const (
	defaultReadBytes = 1 << 20
	maxWait          = 60 * time.Second
	// consumedOverheadBytes is what a record takes in an answer beside its key, value and headers.
	consumedOverheadBytes = 24
	// headerOverheadBytes is what a header takes beside its key and value.
	headerOverheadBytes = 10
	// slabRecords is how many records of an answer are allocated at once.
	slabRecords = 128
)

// Consume reads records, and waits for a first one where there is none yet.
func (b *Broker) Consume(ctx context.Context, req *streamhousev1.ConsumeRequest) (*streamhousev1.ConsumeResponse, error) {
	wait, err := waitOf(req.GetMaxWait())
	if err != nil {
		return nil, err
	}
	maxRecords := int64(req.GetMaxRecords())
	c, err := b.newConsumer(ctx, req.GetTopic(), req.GetPartition(), req.GetOffset(), req.GetMaxBytes(), maxRecords, req.GetGroup())
	if err != nil {
		return nil, err
	}
	m, err := c.next(ctx, wait)
	if err != nil {
		return nil, err
	}
	return &streamhousev1.ConsumeResponse{
		Records: m.records, HighWatermark: m.highWatermark, LogStartOffset: m.logStart, NextOffset: m.next,
	}, nil
}

// ConsumeRecordBatches reads record batches as they are stored.
func (b *Broker) ConsumeRecordBatches(ctx context.Context, req *streamhousev1.ConsumeRecordBatchesRequest) (*streamhousev1.ConsumeRecordBatchesResponse, error) {
	wait, err := waitOf(req.GetMaxWait())
	if err != nil {
		return nil, err
	}
	c, err := b.newConsumer(ctx, req.GetTopic(), req.GetPartition(), req.GetOffset(), req.GetMaxBytes(), 0, req.GetGroup())
	if err != nil {
		return nil, err
	}
	if c.at, err = b.expect(ctx, c.at, req.GetPartitionId()); err != nil {
		return nil, err
	}
	f, err := b.read(ctx, c.at, c.offset, c.maxBytes, wait)
	if err != nil {
		return nil, err
	}
	batches, err := record.Split(f.data)
	if err != nil {
		return nil, corruptData(c.at, err)
	}
	next := c.offset
	records := int64(0)
	for _, batch := range batches {
		records += batch.NextOffset() - max(batch.BaseOffset(), c.offset)
		next = batch.NextOffset()
	}
	b.consumed(req.GetTopic(), req.GetGroup(), int(records))
	return &streamhousev1.ConsumeRecordBatchesResponse{
		RecordBatches: f.data, HighWatermark: max(f.highWatermark, next), LogStartOffset: f.logStart, NextOffset: next,
	}, nil
}

// ConsumeStream sends records as they come, with following until ctx ends, else up to the high watermark at its start.
// send is called from one goroutine and must not keep the message.
func (b *Broker) ConsumeStream(ctx context.Context, req *streamhousev1.ConsumeStreamRequest, send func(*streamhousev1.ConsumeStreamResponse) error) error {
	ctx, t := b.traceStream(ctx)
	err := b.consumeStream(ctx, t, req, send)
	t.end(ctx, err)
	return err
}

// consumeStream is ConsumeStream within its span.
func (b *Broker) consumeStream(ctx context.Context, t *streamTrace, req *streamhousev1.ConsumeStreamRequest, send func(*streamhousev1.ConsumeStreamResponse) error) error {
	if req.GetMaxRecords() < 0 {
		return InvalidField("max_records", "%d is below 0", req.GetMaxRecords())
	}
	c, err := b.newConsumer(ctx, req.GetTopic(), req.GetPartition(), req.GetOffset(), req.GetMaxBytes(), 0, req.GetGroup())
	if err != nil {
		return err
	}
	t.reads(c)
	wait := maxWait
	if !req.GetFollow() {
		// Without a leader what is here is sent first.
		if end, err := b.streamEnd(ctx, c.at.partition); err == nil {
			c.end = end
		}
		wait = 0
	}
	left := req.GetMaxRecords()
	for first := true; first || c.offset < c.end; first = false {
		if left > 0 {
			c.maxRecords = left
		}
		m, err := c.next(t.next(ctx), wait)
		if err != nil {
			return err
		}
		t.read(m)
		if len(m.records) > 0 || first {
			if err := send(m.response()); err != nil {
				return err
			}
		}
		if req.GetMaxRecords() > 0 {
			if left -= int64(len(m.records)); left <= 0 {
				return nil
			}
		}
		if !req.GetFollow() && c.end == math.MaxInt64 && c.offset >= m.highWatermark {
			if c.end, err = b.streamEnd(ctx, c.at.partition); err != nil {
				return err
			}
		}
		if b.ending() {
			return newError(reasonShuttingDown, "the node is shutting down; go on at offset %d through another one", c.offset)
		}
		if err := c.refresh(ctx); err != nil {
			return err
		}
	}
	return nil
}

// streamEnd returns the high watermark that the leader knows, once one is found within leaderPatience.
func (b *Broker) streamEnd(ctx context.Context, p *fsm.Partition) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, leaderPatience)
	defer cancel()
	return b.leaderMark(ctx, p)
}

// refresh takes the partition as it is now. A topic created anew under its name is another one.
func (c *consumer) refresh(ctx context.Context) error {
	at, err := c.b.partitionOf(ctx, c.at.topic.Name, c.at.partition.Number)
	if err != nil {
		return err
	}
	c.at, err = c.b.expect(ctx, at, c.at.partition.ID)
	return err
}

// consumer reads a partition in order.
type consumer struct {
	b          *Broker
	at         place
	offset     int64 // where the next read begins
	maxBytes   int
	maxRecords int64 // 0: no bound
	end        int64 // offset behind the last one wanted
	group      string
}

func (b *Broker) newConsumer(ctx context.Context, topic string, partition int32, offset int64, maxBytes int32, maxRecords int64, group string) (*consumer, error) {
	switch {
	case offset < 0:
		return nil, InvalidField("offset", "%d is below 0", offset)
	case maxBytes < 0:
		return nil, InvalidField("max_bytes", "%d is below 0", maxBytes)
	case maxRecords < 0:
		return nil, InvalidField("max_records", "%d is below 0", maxRecords)
	}
	if group != "" {
		if err := checkGroup(group); err != nil {
			return nil, err
		}
	}
	at, err := b.partitionOf(ctx, topic, partition)
	if err != nil {
		return nil, err
	}
	c := &consumer{b: b, at: at, offset: offset, maxBytes: int(maxBytes), maxRecords: maxRecords, end: math.MaxInt64, group: group}
	if c.maxBytes == 0 {
		c.maxBytes = defaultReadBytes
	}
	c.maxBytes = min(c.maxBytes, b.cfg.MaxRequestBytes)
	return c, nil
}

// message is what one read gives a consumer.
type message struct {
	records       []*streamhousev1.ConsumedRecord
	highWatermark int64
	logStart      int64
	next          int64
}

// next reads what follows and moves on.
func (c *consumer) next(ctx context.Context, wait time.Duration) (*message, error) {
	f, err := c.b.read(ctx, c.at, c.offset, c.maxBytes, wait)
	if err != nil {
		return nil, err
	}
	m := &message{logStart: f.logStart, next: c.offset}
	if m.records, m.next, err = c.records(f.data); err != nil {
		return nil, corruptData(c.at, err)
	}
	m.highWatermark = max(f.highWatermark, m.next)
	c.offset = m.next
	c.b.consumed(c.at.topic.Name, c.group, len(m.records))
	return m, nil
}

// records takes the records from the wanted offset on out of whole batches, within the bounds and at least one. They
// alias data.
func (c *consumer) records(data []byte) (out []*streamhousev1.ConsumedRecord, next int64, err error) {
	next = c.offset
	batches, err := record.Split(data)
	if err != nil {
		return nil, next, err
	}
	bytes := 0
	for _, batch := range batches {
		if batch.NextOffset() <= c.offset {
			continue
		}
		var slab []streamhousev1.ConsumedRecord
		for r, err := range batch.All() {
			if err != nil {
				return nil, next, err
			}
			if r.Offset < next {
				continue
			}
			bytes += consumedBytes(&r)
			if r.Offset >= c.end || len(out) > 0 && (bytes > c.maxBytes || c.maxRecords > 0 && int64(len(out)) >= c.maxRecords) {
				return out, next, nil
			}
			if len(slab) == 0 {
				slab = make([]streamhousev1.ConsumedRecord, min(batch.NextOffset()-r.Offset, slabRecords))
			}
			fill(&slab[0], &r)
			out = append(out, &slab[0])
			slab = slab[1:]
			next = r.Offset + 1
		}
		next = max(next, batch.NextOffset())
	}
	return out, next, nil
}

func consumedBytes(r *record.Record) int {
	n := len(r.Key) + len(r.Value) + consumedOverheadBytes
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value) + headerOverheadBytes
	}
	return n
}

func fill(out *streamhousev1.ConsumedRecord, r *record.Record) {
	out.Offset, out.TimestampMs, out.Key, out.Value = r.Offset, r.TimestampMs, r.Key, r.Value
	if len(r.Headers) == 0 {
		return
	}
	out.Headers = make([]*streamhousev1.Header, len(r.Headers))
	for i, h := range r.Headers {
		out.Headers[i] = &streamhousev1.Header{Key: h.Key, Value: h.Value}
	}
}

func (m *message) response() *streamhousev1.ConsumeStreamResponse {
	return &streamhousev1.ConsumeStreamResponse{
		Records: m.records, HighWatermark: m.highWatermark, LogStartOffset: m.logStart, NextOffset: m.next,
	}
}

// corruptData says that stored batches do not decode.
func corruptData(at place, err error) error {
	e := newError(reasonCorruptData, "topic %q, partition %d: stored batches do not decode: %s", at.topic.Name, at.partition.Number, err)
	e.Cause = err
	return e
}

func waitOf(d *durationpb.Duration) (time.Duration, error) {
	if d == nil {
		return 0, nil
	}
	if err := d.CheckValid(); err != nil {
		return 0, InvalidField("max_wait", "%s", err)
	}
	wait := d.AsDuration()
	if wait < 0 || wait > maxWait {
		return 0, InvalidField("max_wait", "%s is not from 0 to %s", wait, maxWait)
	}
	return wait, nil
}

func checkGroup(group string) error {
	if err := fsm.ValidateName(group); err != nil {
		return InvalidField("group", "%s", err)
	}
	return nil
}

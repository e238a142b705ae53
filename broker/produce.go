package broker

import (
	"context"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
)

// write is a produce request, made into record batches.
type write struct {
	pieces   []*piece
	durable  bool
	bytes    int               // of the pieces that were built here
	builders []*record.Builder // hold the pieces' bytes
}

// builders are used again: a leader copies what it takes before its answer comes back.
var builders = sync.Pool{New: func() any { return record.NewBuilder(record.BuilderConfig{ProducerID: -1}) }}

// maxPooledBytes is how large a builder may be that is kept.
const maxPooledBytes = 4 << 20

// release gives the buffers back. Nothing may be under way any more.
func (w *write) release() {
	for _, bl := range w.builders {
		if bl.SizeBytes() > maxPooledBytes {
			continue
		}
		bl.Reset(record.BuilderConfig{ProducerID: -1})
		builders.Put(bl)
	}
	w.builders, w.pieces = nil, nil
}

// Produce writes one record.
func (b *Broker) Produce(ctx context.Context, req *streamhousev1.ProduceRequest) (*streamhousev1.ProduceResponse, error) {
	if req.GetRecord() == nil {
		return nil, InvalidField("record", "it must be set")
	}
	res, err := b.ProduceBatch(ctx, &streamhousev1.ProduceBatchRequest{
		Topic: req.GetTopic(), Partition: req.Partition, Records: []*streamhousev1.Record{req.GetRecord()},
		Acks: req.GetAcks(), Producer: req.GetProducer(),
	})
	if err != nil {
		return nil, err
	}
	w := res.GetBatches()[0]
	return &streamhousev1.ProduceResponse{Partition: w.GetPartition(), Offset: w.GetBaseOffset()}, nil
}

// ProduceBatch writes many records, those of one partition in their order and with dense offsets.
func (b *Broker) ProduceBatch(ctx context.Context, req *streamhousev1.ProduceBatchRequest) (*streamhousev1.ProduceBatchResponse, error) {
	written, err := b.write(ctx, func(ctx context.Context) (*write, error) { return b.planBatch(ctx, req) })
	if err != nil {
		return nil, err
	}
	return &streamhousev1.ProduceBatchResponse{Batches: written}, nil
}

// ProduceRecordBatches writes record batches as they are.
func (b *Broker) ProduceRecordBatches(ctx context.Context, req *streamhousev1.ProduceRecordBatchesRequest) (*streamhousev1.ProduceRecordBatchesResponse, error) {
	written, err := b.write(ctx, func(ctx context.Context) (*write, error) { return b.planRaw(ctx, req) })
	if err != nil {
		return nil, err
	}
	return &streamhousev1.ProduceRecordBatchesResponse{Batches: written}, nil
}

// write plans, appends and answers. A partition that turns out to be deleted is looked up once more, since its topic may
// have been created anew.
func (b *Broker) write(ctx context.Context, plan func(context.Context) (*write, error)) ([]*streamhousev1.WrittenBatch, error) {
	for again := false; ; again = true {
		w, err := plan(ctx)
		if err != nil {
			return nil, err
		}
		b.appendAll(ctx, w.pieces, w.durable)
		gone := w.allGone()
		written, err := outcome(w.pieces)
		w.release()
		if !gone || again {
			return written, err
		}
		if err := b.meta.Barrier(ctx); err != nil {
			return nil, err
		}
	}
}

// allGone reports whether every piece was refused since its partition is deleted; then nothing was written.
func (w *write) allGone() bool {
	for _, p := range w.pieces {
		if p.err != nil || p.result.Reason != reasonPartitionNotFound {
			return false
		}
	}
	return true
}

func durable(acks streamhousev1.Acks) (bool, error) {
	switch acks {
	case streamhousev1.Acks_ACKS_UNSPECIFIED, streamhousev1.Acks_ACKS_QUORUM:
		return false, nil
	case streamhousev1.Acks_ACKS_DURABLE:
		return true, nil
	default:
		return false, InvalidField("acks", "%d is not known", acks)
	}
}

// planRaw checks record batches and takes them as they are.
func (b *Broker) planRaw(ctx context.Context, req *streamhousev1.ProduceRecordBatchesRequest) (*write, error) {
	dur, err := durable(req.GetAcks())
	if err != nil {
		return nil, err
	}
	at, err := b.partitionOf(ctx, req.GetTopic(), req.GetPartition())
	if err != nil {
		return nil, err
	}
	batches, err := record.Split(req.GetRecordBatches())
	if err != nil {
		return nil, badBatches(err)
	}
	if len(batches) == 0 {
		return nil, InvalidField("record_batches", "it must not be empty")
	}
	w := &write{durable: dur, pieces: make([]*piece, 0, len(batches))}
	limits := record.Limits{MaxRecordBytes: b.maxRecordBytes(at.topic), MaxBatchBytes: b.cfg.MaxRequestBytes}
	for _, batch := range batches {
		stats, err := batch.Check(limits)
		if err != nil {
			return nil, badBatches(err)
		}
		w.pieces = append(w.pieces, newPiece(at, batch, stats))
	}
	return w, nil
}

// badBatches says what is wrong with batches that a client sent.
func badBatches(err error) error {
	e := AsError(err)
	if e.Metadata == nil {
		e.Metadata = make(map[string]string, 1)
	}
	e.Metadata["field"] = "record_batches"
	return e
}

func newPiece(at place, batch record.Batch, stats record.Stats) *piece {
	return &piece{
		number: at.partition.Number, shard: at.partition.Shard, records: stats.Records,
		batch: shard.AppendBatch{
			PartitionID: at.partition.ID, Topic: at.topic.Name, Data: batch, PayloadBytes: stats.PayloadBytes,
		},
	}
}

// planBatch puts every record into its partition and builds record batches.
func (b *Broker) planBatch(ctx context.Context, req *streamhousev1.ProduceBatchRequest) (*write, error) {
	dur, err := durable(req.GetAcks())
	if err != nil {
		return nil, err
	}
	if len(req.GetRecords()) == 0 {
		return nil, InvalidField("records", "it must not be empty")
	}
	producer, err := builderConfig(req)
	if err != nil {
		return nil, err
	}
	w := &write{durable: dur}
	if req.Partition != nil {
		at, err := b.partitionOf(ctx, req.GetTopic(), req.GetPartition())
		if err == nil {
			err = b.build(w, at, producer, req.GetRecords())
		}
		return w.orRelease(err)
	}
	return w.orRelease(b.buildSpread(ctx, w, req.GetTopic(), producer, req.GetRecords()))
}

// orRelease returns w, or gives its buffers back where there is an error.
func (w *write) orRelease(err error) (*write, error) {
	if err != nil {
		w.release()
		return nil, err
	}
	return w, nil
}

// buildSpread builds the batches of records that are placed by their keys.
func (b *Broker) buildSpread(ctx context.Context, w *write, topic string, producer record.BuilderConfig, records []*streamhousev1.Record) error {
	t, err := b.topic(ctx, topic)
	if err != nil {
		return err
	}
	numbers, byNumber := spread(records, int32(len(t.PartitionIDs)))
	for _, number := range numbers {
		at, err := b.partitionOf(ctx, topic, number)
		if err == nil {
			err = b.build(w, at, producer, byNumber[number])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// spread places records by their keys; those without one go together to one partition, another one each call. The
// order of the partitions is that of their first records.
func spread(records []*streamhousev1.Record, partitions int32) (numbers []int32, byNumber map[int32][]*streamhousev1.Record) {
	sticky := rand.Int32N(partitions)
	byNumber = make(map[int32][]*streamhousev1.Record, 1)
	for _, r := range records {
		number := sticky
		if r.GetKey() != nil {
			number = record.PartitionForKey(r.GetKey(), partitions)
		}
		if _, ok := byNumber[number]; !ok {
			numbers = append(numbers, number)
		}
		byNumber[number] = append(byNumber[number], r)
	}
	return numbers, byNumber
}

// builderConfig checks the producer's id, epoch and sequence.
func builderConfig(req *streamhousev1.ProduceBatchRequest) (record.BuilderConfig, error) {
	p := req.GetProducer()
	if p == nil {
		return record.BuilderConfig{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}, nil
	}
	switch {
	case req.Partition == nil:
		return record.BuilderConfig{}, InvalidField("partition", "it must be set where producer is")
	case p.GetProducerId() < 0:
		return record.BuilderConfig{}, InvalidField("producer.producer_id", "%d is below 0", p.GetProducerId())
	case p.GetProducerEpoch() < 0 || p.GetProducerEpoch() > math.MaxInt16:
		return record.BuilderConfig{}, InvalidField("producer.producer_epoch", "%d is not from 0 to %d", p.GetProducerEpoch(), math.MaxInt16)
	case p.GetBaseSequence() < 0:
		return record.BuilderConfig{}, InvalidField("producer.base_sequence", "%d is below 0", p.GetBaseSequence())
	}
	return record.BuilderConfig{
		ProducerID: p.GetProducerId(), ProducerEpoch: int16(p.GetProducerEpoch()), BaseSequence: p.GetBaseSequence(),
	}, nil
}

// build adds the batch of one partition's records to w.
func (b *Broker) build(w *write, at place, c record.BuilderConfig, records []*streamhousev1.Record) error {
	bl := builders.Get().(*record.Builder)
	w.builders = append(w.builders, bl)
	bl.Reset(c)
	limit, nowMs := b.maxRecordBytes(at.topic), time.Now().UnixMilli()
	payload := int64(0)
	for _, r := range records {
		bytes := recordBytes(r)
		if bytes > limit {
			return TooLarge(reasonRecordTooLarge, "a record", bytes, limit)
		}
		if r.GetTimestampMs() < 0 {
			return InvalidField("records.timestamp_ms", "%d is below 0", r.GetTimestampMs())
		}
		bl.Append(toRecord(r, nowMs))
		payload += int64(bytes)
	}
	batch, err := bl.Build()
	if err != nil {
		return InvalidField("records", "%s", err)
	}
	w.bytes += len(batch)
	if w.bytes > b.cfg.MaxRequestBytes {
		return TooLarge(reasonRequestTooLarge, "the request as record batches", w.bytes, b.cfg.MaxRequestBytes)
	}
	w.pieces = append(w.pieces, newPiece(at, batch, record.Stats{Records: int32(len(records)), PayloadBytes: payload}))
	return nil
}

// recordBytes returns the bytes of key, value and headers.
func recordBytes(r *streamhousev1.Record) int {
	n := len(r.GetKey()) + len(r.GetValue())
	for _, h := range r.GetHeaders() {
		n += len(h.GetKey()) + len(h.GetValue())
	}
	return n
}

func toRecord(r *streamhousev1.Record, nowMs int64) record.Record {
	out := record.Record{TimestampMs: nowMs, Key: r.GetKey(), Value: r.GetValue()}
	if r.TimestampMs != nil {
		out.TimestampMs = r.GetTimestampMs()
	}
	if len(r.GetHeaders()) > 0 {
		out.Headers = make([]record.Header, len(r.GetHeaders()))
		for i, h := range r.GetHeaders() {
			out.Headers[i] = record.Header{Key: h.GetKey(), Value: h.GetValue()}
		}
	}
	return out
}

// maxRecordBytes bounds one record of the topic, by the topic's config and this node's setting.
func (b *Broker) maxRecordBytes(t *fsm.Topic) int {
	if n := t.EffectiveConfig().MaxMessageBytes; n > 0 {
		return int(min(n, int64(b.cfg.MaxRecordBytes)))
	}
	return b.cfg.MaxRecordBytes
}

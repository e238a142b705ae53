package client

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/record"
)

// unknown is an offset that is not known.
const unknown = int64(-1)

// fetchGrace is how much longer than FetchMaxWait a node may take to answer.
const fetchGrace = 5 * time.Second

// partition is one that a consumer reads. The consumer's mutex guards it.
type partition struct {
	TopicPartition

	ownership uint64
	id        uint64             // of the partition in the cluster; 0 while it is not known
	wake      chan struct{}      // has room for one: the fetcher may go on
	started   bool               // there is a fetcher
	stop      context.CancelFunc // ends the fetcher; set when started
	abort     context.CancelFunc // ends the read that is under way; nil where none is

	// position is the offset that Poll returns next, processed what it was when Poll was called last, committed what was
	// committed last by this consumer.
	position, processed, committed int64
	fetchAt                        int64 // where the next read goes on
	turns                          int   // counts seeks: what was read before one is dropped
	batches                        []record.Batch
	batchBytes                     int
	decoded                        []Record // rest of a batch that was decoded
	highWatermark                  int64

	paused  bool
	revoked bool   // it is to be given up: nothing more is returned
	stuck   bool   // an error was told; only Seek goes on
	told    Reason // why nothing can be read for now, as told last
	// beyond is since when nodes say that fetchAt is above the high watermark; zero where they do not.
	beyond time.Time
}

// addLocked adds a partition, which reads once it is started.
func (r *Consumer) addLocked(tp TopicPartition) *partition {
	r.ownership++
	p := &partition{
		TopicPartition: tp, ownership: r.ownership, wake: make(chan struct{}, 1),
		position: unknown, processed: unknown, committed: unknown, fetchAt: unknown, highWatermark: unknown,
	}
	r.partitions[tp] = p
	r.ring = append(r.ring, p)
	return p
}

func (r *Consumer) startLocked(p *partition) {
	if p.started {
		return
	}
	p.started = true
	ctx, cancel := context.WithCancel(r.ctx)
	p.stop = cancel
	r.wg.Go(func() { r.fetch(ctx, p) })
}

// removeLocked drops a partition with what was read ahead.
func (r *Consumer) removeLocked(p *partition) {
	r.clearLocked(p)
	if p.stop != nil {
		p.stop()
	}
	delete(r.partitions, p.TopicPartition)
	r.ring = slices.DeleteFunc(r.ring, func(o *partition) bool { return o == p })
}

// clearLocked drops what was read ahead, and what is being read; the next read begins at the position.
func (r *Consumer) clearLocked(p *partition) {
	r.bufferedLocked(p, -p.batchBytes)
	p.batches, p.decoded, p.fetchAt = nil, nil, p.position
	p.turns++
	if p.abort != nil {
		p.abort()
	}
	for _, o := range r.ring {
		o.notify() // there may be room now
	}
}

// isAnother reports whether the partition's topic was deleted and created again: its id was another one.
func (p *partition) isAnother(id uint64) bool { return id != 0 && p.id != 0 && id != p.id }

// restartLocked begins anew with a partition whose topic was deleted and created again. What Poll has returned of the old
// one can't be committed any more. For a member it returns false: its group has to give it the new one, which another may
// have by now.
func (r *Consumer) restartLocked(p *partition) bool {
	if r.member != nil {
		r.member.notify()
		return false
	}
	r.removeLocked(p)
	anew := r.addLocked(p.TopicPartition)
	anew.paused = p.paused
	r.startLocked(anew)
	r.c.cfg.Logger.Warn("topic was created anew, reading it from where there is no committed offset", "partition", p.String())
	return true
}

func (r *Consumer) bufferedLocked(p *partition, bytes int) {
	p.batchBytes += bytes
	r.prefetched += bytes
	r.c.metrics.prefetched.Add(float64(bytes))
}

func (p *partition) notify() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// seekLocked goes on at an offset.
func (r *Consumer) seekLocked(p *partition, offset int64) {
	p.position, p.processed, p.stuck, p.told, p.beyond = offset, offset, false, "", time.Time{}
	r.clearLocked(p)
}

// failLocked tells an error once, and reads the partition no further until a seek.
func (r *Consumer) failLocked(p *partition, err error) {
	p.stuck = true
	r.raiseLocked(&PartitionError{p.TopicPartition, err})
}

// tellLocked tells an error unless it was told of the partition last. It is read on.
func (r *Consumer) tellLocked(p *partition, err error) {
	if reason := reasonOf(err); reason != p.told {
		p.told = reason
		r.raiseLocked(&PartitionError{p.TopicPartition, err})
	}
}

// fetch reads a partition ahead until ctx ends.
func (r *Consumer) fetch(ctx context.Context, p *partition) {
	var avoid *conn
	for tries := 0; ctx.Err() == nil; {
		read, maxBytes, ok := r.wanted(ctx, p)
		if !ok {
			select {
			case <-p.wake:
			case <-ctx.Done():
			}
			continue
		}
		node, err := r.read(read, p, avoid, maxBytes)
		read.cancel()
		if err == nil {
			tries, avoid = 0, nil
			continue
		}
		if ctx.Err() != nil || read.superseded(r, p) {
			continue
		}
		r.c.metrics.fetchErrors.Inc()
		if r.handled(ctx, p, read, err) {
			continue
		}
		avoid = node
		if node != nil {
			r.c.failed(node, err)
		}
		r.c.ask(p.Topic)
		_ = pause.For(ctx, backoffAfter(tries)) // the loop looks at ctx
		tries++
	}
}

// reading is one read that is under way.
type reading struct {
	ctx    context.Context //nolint:containedctx // of this one read
	cancel context.CancelFunc
	offset int64
	turn   int
}

// superseded reports whether there was a seek since the read began.
func (rd reading) superseded(r *Consumer, p *partition) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return rd.turn != p.turns
}

// wanted begins a read where there is room for what it brings.
func (r *Consumer) wanted(ctx context.Context, p *partition) (rd reading, maxBytes int, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	gone := ctx.Err() != nil // removeLocked ends it; the ring may be empty then
	if gone || p.paused || p.revoked || p.stuck || p.batchBytes >= r.cfg.FetchBytes || r.prefetched >= r.cfg.PrefetchBytes {
		return rd, 0, false
	}
	const leastBytes = 64 << 10
	maxBytes = min(r.cfg.FetchBytes, max(r.cfg.PrefetchBytes/len(r.ring), leastBytes))
	rd = reading{offset: p.fetchAt, turn: p.turns}
	rd.ctx, rd.cancel = context.WithTimeout(ctx, r.cfg.FetchMaxWait+fetchGrace)
	p.abort = rd.cancel
	return rd, maxBytes, true
}

// read reads once, or where the position is not known finds it. It returns the node that it asked.
func (r *Consumer) read(rd reading, p *partition, avoid *conn, maxBytes int) (*conn, error) {
	t, err := r.partitionOf(rd.ctx, p.TopicPartition)
	if err != nil {
		return nil, err
	}
	id := r.identify(p, t.ids[p.Partition])
	if rd.offset == unknown {
		offset, err := r.begin(rd.ctx, p.TopicPartition, id)
		if err != nil {
			return nil, err
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		if rd.turn == p.turns {
			p.position, p.processed, p.fetchAt = offset, offset, offset
		}
		return nil, nil
	}
	node, err := r.c.leader(t.shards[p.Partition], avoid)
	if err != nil {
		return nil, err
	}
	res, err := node.api().ConsumeRecordBatches(rd.ctx, &streamhousev1.ConsumeRecordBatchesRequest{
		Topic: p.Topic, Partition: p.Partition, PartitionId: id, Offset: rd.offset, MaxWait: durationpb.New(r.cfg.FetchMaxWait),
		MaxBytes: int32(maxBytes), Group: r.cfg.Group,
	})
	if err != nil {
		return node, err
	}
	r.c.worked()
	batches, err := record.Split(res.GetRecordBatches())
	if err != nil {
		return node, &Error{Reason: ErrCorruptData, Message: fmt.Sprintf("what %s sent for offset %d: %v", node.addr, rd.offset, err)}
	}
	r.fetched(p, rd, res, batches)
	return node, nil
}

// partitionOf returns what is known of a topic, which has the partition.
func (r *Consumer) partitionOf(ctx context.Context, tp TopicPartition) (*topicMeta, error) {
	t, err := r.c.topic(ctx, tp.Topic)
	if err == nil && int(tp.Partition) >= len(t.shards) {
		t, err = r.c.refresh(ctx, tp.Topic)
	}
	if err != nil {
		return nil, err
	}
	if n := len(t.shards); int(tp.Partition) >= n {
		return nil, &Error{Reason: ErrPartitionNotFound, Message: fmt.Sprintf("the topic has partitions 0 to %d", n-1)}
	}
	return t, nil
}

// identify returns the id that the partition has had since it was begun with; it is this one from now on where it had
// none.
func (r *Consumer) identify(p *partition, id uint64) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.id == 0 {
		p.id = id
	}
	return p.id
}

// fetched takes what a read brought.
func (r *Consumer) fetched(p *partition, rd reading, res *streamhousev1.ConsumeRecordBatchesResponse, batches []record.Batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rd.turn != p.turns {
		return
	}
	p.told, p.beyond = "", time.Time{}
	p.highWatermark = res.GetHighWatermark()
	p.fetchAt = max(p.fetchAt, res.GetNextOffset())
	if len(batches) == 0 {
		return
	}
	p.batches = append(p.batches, batches...)
	r.bufferedLocked(p, len(res.GetRecordBatches()))
	r.notify()
}

// begin returns where to begin: what the group has committed, or what Reset says. A node that is behind may answer for a
// topic that had the name before; then it is asked again.
func (r *Consumer) begin(ctx context.Context, tp TopicPartition, id uint64) (int64, error) {
	if r.cfg.Group != "" {
		res, err := r.c.getOffsets(ctx, r.cfg.Group, tp.Topic, tp.Partition)
		if err != nil {
			return unknown, err
		}
		for _, o := range res {
			if o.GetPartition() == tp.Partition {
				return o.GetOffset(), checkID(id, o.GetPartitionId())
			}
		}
	}
	if r.cfg.Reset == ResetNone {
		return unknown, ErrNoOffset
	}
	at := LogStart
	if r.cfg.Reset == ResetLatest {
		at = LogEnd
	}
	offsets, err := r.c.findOffsets(ctx, tp.Topic, at, tp.Partition)
	if err != nil {
		return unknown, err
	}
	for _, o := range offsets {
		if o.GetPartition() == tp.Partition {
			return o.GetOffset(), checkID(id, o.GetPartitionId())
		}
	}
	return unknown, &Error{Reason: ErrPartitionNotFound, Message: "no node told an offset of " + tp.String()}
}

// checkID fails where an answer is about another partition than was meant. 0 is any.
func checkID(want, got uint64) error {
	if want != 0 && got != 0 && want != got {
		return &Error{Code: codes.Unavailable, Message: "a node answered for another topic of the name"}
	}
	return nil
}

// drainLocked appends records of a partition to out, up to MaxPollRecords.
func (r *Consumer) drainLocked(p *partition, out []Record) ([]Record, error) {
	begin := len(out)
	defer func() { r.deliveredLocked(p, out[begin:]) }()
	for len(out) < r.cfg.MaxPollRecords {
		if len(p.decoded) > 0 {
			n := min(len(p.decoded), r.cfg.MaxPollRecords-len(out))
			out = append(out, p.decoded[:n]...)
			p.decoded = p.decoded[n:]
			continue
		}
		if len(p.batches) == 0 {
			break
		}
		b := p.batches[0]
		p.batches = p.batches[1:]
		r.bufferedLocked(p, -b.SizeBytes())
		var err error
		if room := r.cfg.MaxPollRecords - len(out); int(b.NumRecords()) <= room {
			if out == nil {
				out = make([]Record, 0, room)
			}
			out, err = p.decode(b, out)
		} else {
			p.decoded, err = p.decode(b, make([]Record, 0, b.NumRecords()))
		}
		if err != nil {
			decoded := p.decoded // before the damage
			r.clearLocked(p)     // what is behind it is not returned
			p.decoded = decoded
			return out, &Error{Reason: ErrCorruptData, Message: err.Error()}
		}
	}
	if p.batchBytes < r.cfg.FetchBytes {
		p.notify()
	}
	return out, nil
}

// decode appends the records of a batch that are not below the position.
func (p *partition) decode(b record.Batch, out []Record) ([]Record, error) {
	for rec, err := range b.All() {
		if err != nil {
			return out, err
		}
		if rec.Offset < p.position {
			continue
		}
		out = append(out, Record{
			Topic: p.Topic, Partition: p.Partition, Offset: rec.Offset, Timestamp: time.UnixMilli(rec.TimestampMs),
			Key: rec.Key, Value: rec.Value, Headers: rec.Headers, ownership: p.ownership,
		})
	}
	return out, nil
}

// deliveredLocked moves the position behind records of the partition, and counts them.
func (r *Consumer) deliveredLocked(p *partition, records []Record) {
	if len(records) == 0 {
		return
	}
	p.position = records[len(records)-1].Offset + 1
	bytes := 0
	for i := range records {
		bytes += records[i].payloadBytes()
	}
	r.c.metrics.consumed.WithLabelValues(p.Topic).Add(float64(len(records)))
	r.c.metrics.consumedBytes.WithLabelValues(p.Topic).Add(float64(bytes))
}

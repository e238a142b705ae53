package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

const (
	// appendAttempt bounds one try of an append that may be made again; another one waits for the caller's deadline.
	appendAttempt        = 5 * time.Second
	durableAppendAttempt = 20 * time.Second
)

// piece is one record batch of a write, on its way to a partition.
type piece struct {
	number  int32 // the partition's number
	shard   uint32
	batch   shard.AppendBatch
	records int32
	// Set when the piece has its outcome.
	forwarded bool // to another node
	result    shard.AppendResult
	err       error
}

// fail returns why the piece was not written, nil when it was.
func (p *piece) fail() error {
	if p.err != nil || p.result.Reason == reasonNone {
		return p.err
	}
	return refusal(p)
}

// refusal turns the answer of the state machine into an error.
func refusal(p *piece) error {
	e := &Error{Reason: p.result.Reason, Metadata: map[string]string{"partition": strconv.Itoa(int(p.number))}}
	b := p.batch.Data
	switch p.result.Reason {
	case reasonOutOfOrder:
		e.Message = fmt.Sprintf("producer %d wrote sequence %d, expected is %d", b.ProducerID(), b.BaseSequence(), p.result.ExpectedSequence)
		e.Metadata["expected"] = strconv.Itoa(int(p.result.ExpectedSequence))
	case reasonFenced:
		e.Message = fmt.Sprintf("producer %d has a newer epoch than %d", b.ProducerID(), b.ProducerEpoch())
	case reasonUnknownProducer:
		e.Message = fmt.Sprintf("nothing is known of producer %d here (any more); start again with InitProducer", b.ProducerID())
	case reasonDuplicate:
		e.Message = fmt.Sprintf("sequence %d of producer %d was stored before, and its offset is forgotten", b.BaseSequence(), b.ProducerID())
	case reasonPartitionNotFound:
		e = partitionNotFound(p.batch.Topic, p.number)
	default:
		e.Message = "the batch was refused"
	}
	return e
}

// appendAll writes the pieces, those of one shard together and the shards at once, and sets every piece's outcome.
func (b *Broker) appendAll(ctx context.Context, pieces []*piece, durable bool) {
	if len(pieces) == 0 {
		return
	}
	byShard := make(map[uint32][]*piece, 1)
	for _, p := range pieces {
		byShard[p.shard] = append(byShard[p.shard], p)
	}
	if len(byShard) == 1 {
		b.appendShard(ctx, pieces, durable, false)
		return
	}
	var wg sync.WaitGroup
	for _, group := range byShard {
		wg.Go(func() { b.appendShard(ctx, group, durable, false) })
	}
	wg.Wait()
}

// appendShard writes pieces of one shard in one request, which is stored in one piece or not at all. unclear says that an
// earlier attempt may have written.
func (b *Broker) appendShard(ctx context.Context, pieces []*piece, durable, unclear bool) {
	batches := make([]shard.AppendBatch, len(pieces))
	repeatable := true
	for i, p := range pieces {
		batches[i] = p.batch
		repeatable = repeatable && p.batch.Data.ProducerID() >= 0
	}
	call := leaderCall{shard: pieces[0].shard, repeatable: repeatable, unclear: unclear}
	if repeatable {
		call.attemptTimeout = attemptTimeout(durable)
	}
	var results []shard.AppendResult
	forwarded := false
	err := b.onLeader(ctx, call, func(ctx context.Context, t target) error {
		unclear, forwarded = t.unclear, t.local == nil
		var err error
		results, err = b.appendOn(ctx, t, call.shard, batches, durable)
		return err
	})
	for i, p := range pieces {
		p.err = err
		if err != nil {
			continue
		}
		p.result, p.forwarded = results[i], forwarded
		if unclear && overtaken(results[i].Reason) {
			p.err = outcomeUnknown(p.fail())
		}
	}
}

// attemptTimeout bounds one try of an append that may be made again.
func attemptTimeout(durable bool) time.Duration {
	if durable {
		return durableAppendAttempt
	}
	return appendAttempt
}

// overtaken reports whether a refusal leaves open that an earlier try of the same batch was stored: what refuses the
// batch now may have come between the two.
func overtaken(reason Reason) bool {
	return reason == reasonFenced || reason == reasonUnknownProducer || reason == reasonPartitionNotFound
}

var errShortAnswer = errors.New("the leader answered for fewer batches than it was sent")

func (b *Broker) appendOn(ctx context.Context, t target, number uint32, batches []shard.AppendBatch, durable bool) ([]shard.AppendResult, error) {
	if t.local != nil {
		return t.local.Append(ctx, batches, durable)
	}
	req := &nodev1.AppendRequest{Shard: number, Durable: durable, Batches: make([]*nodev1.PartitionBatch, len(batches))}
	for i, batch := range batches {
		req.Batches[i] = &nodev1.PartitionBatch{
			PartitionId: batch.PartitionID, RecordBatch: batch.Data, PayloadBytes: batch.PayloadBytes, Topic: batch.Topic,
		}
	}
	ctx, span := b.tracer.Child(ctx, "forward")
	if span.IsRecording() {
		span.SetAttributes(attribute.Int64("streamhouse.shard", int64(number)), attribute.String("streamhouse.to_node", t.nodeID),
			attribute.Int("streamhouse.batches", len(batches)))
	}
	res, err := ask(ctx, b, req, t.client.Append)
	tracing.End(span, err)
	if err != nil {
		return nil, err
	}
	if len(res.GetResults()) != len(batches) {
		return nil, outcomeUnknown(errShortAnswer)
	}
	results := make([]shard.AppendResult, len(batches))
	for i, r := range res.GetResults() {
		results[i] = shard.AppendResult{
			Reason: Reason(r.GetReason()), BaseOffset: r.GetBaseOffset(), Duplicate: r.GetDuplicate(),
			ExpectedSequence: r.GetExpectedSequence(),
		}
	}
	return results, nil
}

// outcome turns the outcomes of all pieces into the answer: what was written where all of it was, else an error. Where
// some was written and some not, the error says so, since the same request sent again would write that part twice.
func outcome(pieces []*piece) ([]*streamhousev1.WrittenBatch, error) {
	var written []*streamhousev1.WrittenBatch
	var first error
	idempotent, allDefinite := true, true
	for _, p := range pieces {
		err := p.fail()
		if err == nil {
			written = append(written, &streamhousev1.WrittenBatch{
				Partition: p.number, BaseOffset: p.result.BaseOffset, Records: p.records, Duplicate: p.result.Duplicate, Forwarded: p.forwarded,
			})
			continue
		}
		idempotent = idempotent && p.batch.Data.ProducerID() >= 0
		allDefinite = allDefinite && definite(AsError(err).Reason)
		if first == nil || !definite(AsError(err).Reason) {
			first = err
		}
	}
	if first == nil {
		return written, nil
	}
	if len(written) == 0 {
		if !allDefinite {
			return nil, outcomeUnknown(first)
		}
		return nil, first
	}
	e := AsError(first)
	if !idempotent || !allDefinite {
		e = outcomeUnknown(first)
	}
	return nil, partly(e, written)
}

// partly adds to an error what was written all the same.
func partly(e *Error, written []*streamhousev1.WrittenBatch) *Error {
	var numbers []int32
	for _, w := range written {
		numbers = append(numbers, w.GetPartition())
	}
	slices.Sort(numbers)
	numbers = slices.Compact(numbers)
	list := make([]string, len(numbers))
	for i, n := range numbers {
		list[i] = strconv.Itoa(int(n))
	}
	out := &Error{Reason: e.Reason, Cause: e, Metadata: make(map[string]string, len(e.Metadata)+2)}
	maps.Copy(out.Metadata, e.Metadata)
	out.Metadata["written_partitions"] = strings.Join(list, ",")
	out.Metadata["written_batches"] = strconv.Itoa(len(written))
	out.Message = fmt.Sprintf("%d batches were written, to partitions %s, and others were not: %s",
		len(written), out.Metadata["written_partitions"], e.Message)
	return out
}

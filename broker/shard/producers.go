package shard

import (
	"container/list"
	"math"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

const (
	// producerKeepMs is how long a silent producer is remembered, by the entries' time.
	producerKeepMs = 24 * 60 * 60 * 1000
	// maxProducers bounds the producer states of a shard; the oldest go first.
	maxProducers = 100_000
	// rememberedBatches is how many batches of a producer are known by their offset, as in Kafka.
	rememberedBatches = 5
)

// producerKey names a producer in one partition.
type producerKey struct {
	partitionID uint64
	producerID  int64
}

// producerBatch is a batch that was stored.
type producerBatch struct {
	epoch        int16
	baseSequence int32
	records      int32
	baseOffset   int64
}

// producerState is what is remembered of a producer in a partition.
type producerState struct {
	key     producerKey
	epoch   int16
	timeMs  int64
	batches []producerBatch // newest last, at most rememberedBatches
}

// nextSequence returns the sequence that must come next. Sequences wrap to 0 behind the largest int32 (KIP-98).
func (p *producerState) nextSequence() int32 {
	last := p.batches[len(p.batches)-1]
	return addSequence(last.baseSequence, last.records)
}

func addSequence(seq, n int32) int32 {
	return int32((int64(seq) + int64(n)) & math.MaxInt32)
}

// producers are the producer states of a shard, ordered by their last write.
type producers struct {
	byKey map[producerKey]*list.Element
	order *list.List // of *producerState, oldest first
}

func newProducers() *producers {
	return &producers{byKey: make(map[producerKey]*list.Element), order: list.New()}
}

// check says whether a batch is new, a duplicate, or refused. It changes nothing.
func (ps *producers) check(key producerKey, epoch int16, base, records int32) AppendResult {
	el := ps.byKey[key]
	if el == nil {
		if base != 0 {
			return AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_PRODUCER}
		}
		return AppendResult{}
	}
	p := el.Value.(*producerState)
	switch {
	case epoch < p.epoch:
		return AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_PRODUCER_FENCED}
	case epoch > p.epoch:
		if base != 0 {
			return AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE}
		}
		return AppendResult{}
	}
	for _, b := range p.batches {
		if b.baseSequence == base && b.records == records {
			return AppendResult{BaseOffset: b.baseOffset, Duplicate: true}
		}
	}
	next := p.nextSequence()
	if base == next {
		return AppendResult{}
	}
	// Half of the circle behind the expected sequence counts as old, the other half as a gap.
	if behind := (int64(next) - int64(base)) & math.MaxInt32; behind <= math.MaxInt32/2 {
		return AppendResult{Reason: reasonForgotten}
	}
	return AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, ExpectedSequence: next}
}

// record notes a stored batch.
func (ps *producers) record(key producerKey, timeMs int64, b producerBatch) {
	el := ps.byKey[key]
	if el == nil {
		el = ps.order.PushBack(&producerState{key: key, epoch: b.epoch})
		ps.byKey[key] = el
		if ps.order.Len() > maxProducers {
			ps.remove(ps.order.Front())
		}
	} else {
		ps.order.MoveToBack(el)
	}
	p := el.Value.(*producerState)
	if p.epoch != b.epoch {
		p.epoch, p.batches = b.epoch, nil
	}
	if len(p.batches) == rememberedBatches {
		copy(p.batches, p.batches[1:])
		p.batches = p.batches[:rememberedBatches-1]
	}
	p.batches = append(p.batches, b)
	p.timeMs = timeMs
}

// expire forgets the producers that were silent for producerKeepMs.
func (ps *producers) expire(nowMs int64) {
	for el := ps.order.Front(); el != nil; el = ps.order.Front() {
		if nowMs-el.Value.(*producerState).timeMs <= producerKeepMs {
			return
		}
		ps.remove(el)
	}
}

// drop forgets the producers of partitions.
func (ps *producers) drop(gone map[uint64]bool) {
	var next *list.Element
	for el := ps.order.Front(); el != nil; el = next {
		next = el.Next()
		if gone[el.Value.(*producerState).key.partitionID] {
			ps.remove(el)
		}
	}
}

func (ps *producers) remove(el *list.Element) {
	ps.order.Remove(el)
	delete(ps.byKey, el.Value.(*producerState).key)
}

// restore adds a state behind all others.
func (ps *producers) restore(p *producerState) {
	ps.byKey[p.key] = ps.order.PushBack(p)
}

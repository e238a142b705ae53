package client

import (
	"cmp"
	"slices"
	"time"

	"github.com/streamhouse/streamhouse/storage/record"
)

// maxInFlight is how many batches of a producer in a partition nodes remember, as in Kafka.
const maxInFlight = 5

// waiting is a record whose result is not known.
type waiting struct {
	record  *Record
	promise Promise
}

// buffers are used again, by one batch after the other.
type buffers struct {
	builder *record.Builder
	waiting []waiting
}

// maxPooledBytes is the largest batch whose buffers are kept for later use.
const maxPooledBytes = 1 << 20

// recycle gives a batch's buffers back. Nobody may use the batch any more.
func (p *Producer) recycle(b *batch) {
	buf := b.buffers
	b.buffers = nil
	if buf.builder.SizeBytes() > maxPooledBytes {
		return
	}
	buf.builder.Reset(record.BuilderConfig{ProducerID: -1})
	clear(buf.waiting)
	buf.waiting = buf.waiting[:0]
	p.pool.Put(buf)
}

// batch is what is written at once. The producer's mutex guards it until it is sent; then the sender owns it.
type batch struct {
	*buffers

	id      uint64
	queue   *queue
	records int
	bytes   int           // of the producer's buffer
	payload int           // bytes of keys, values and headers
	since   time.Time     // when its first record came
	done    chan struct{} // closed once its promises were told
	trace   batchTrace

	// sequence is of its first record. It is given when the batch is sent first, and numbered tells that it was.
	sequence int32
	numbered bool
	// unclear is set once an attempt ended without a clear answer: the batch may have been written.
	unclear bool
	tries   int
	// last is the error of the last attempt.
	last error
}

// queue holds what is to be written to one partition, in order. The producer's mutex guards it.
type queue struct {
	topic     string
	partition int32
	sender    *sender
	active    bool // the sender has it in its list

	open   *batch // takes records
	sealed []*batch
	// sent are how many of sealed, from the first, were sent in this round; inFlight of them are not answered.
	sent, inFlight int
	// failed is the first error of an attempt. Nothing more is sent before all that is in flight has been answered;
	// then it is decided what becomes of the batches.
	failed error
	// head is the batch that failed first.
	head *batch
	// notBefore ends the pause after a failure.
	notBefore time.Time
	// done are results that are not told yet, in order of their batches: those of batches before them come first.
	done []result

	// Sequences of this partition are under an id and epoch of their own, so that a failure here leaves the others be.
	producerID int64 // below 0 for none yet
	epoch      int32
	next       int32 // sequence
	bump       bool  // a new epoch is needed before anything is sent
	// asking is set while an id or an epoch is asked for, askErr is why that failed last, asked how often in a row.
	asking bool
	askErr error
	asked  int
}

// sealLocked ends the open batch; nothing is added to it any more.
func (p *Producer) sealLocked(q *queue) {
	if q.open == nil {
		return
	}
	q.sealed = append(q.sealed, q.open)
	q.open = nil
}

// number gives a batch its place in the partition's sequence. Sequences wrap to 0 behind the largest int32.
func (q *queue) number(b *batch) {
	if b.numbered {
		return
	}
	b.numbered, b.sequence = true, q.next
	q.next = int32((int64(q.next) + int64(len(b.waiting))) & 0x7fffffff)
}

// startEpoch begins a new sequence; what was numbered under the old one gets new numbers.
func (q *queue) startEpoch(id int64, epoch int32) {
	q.producerID, q.epoch, q.next, q.bump = id, epoch, 0, false
	for _, b := range q.sealed {
		b.numbered = false
	}
}

// remove takes a batch out of the queue.
func (q *queue) remove(b *batch) {
	i := slices.Index(q.sealed, b)
	q.sealed = slices.Delete(q.sealed, i, i+1)
	if i < q.sent {
		q.sent--
	}
}

// settled takes the results of batches that were removed, and returns what can be told now, in order.
func (q *queue) settled(results ...result) []result {
	q.done = append(q.done, results...)
	slices.SortFunc(q.done, func(a, b result) int { return cmp.Compare(a.batch.id, b.batch.id) })
	n := len(q.done)
	if len(q.sealed) > 0 {
		n, _ = slices.BinarySearchFunc(q.done, q.sealed[0].id, func(r result, id uint64) int { return cmp.Compare(r.batch.id, id) })
	}
	told := slices.Clone(q.done[:n])
	q.done = slices.Delete(q.done, 0, n)
	return told
}

// batches returns how many batches have no outcome yet.
func (q *queue) batches() int {
	n := len(q.sealed)
	if q.open != nil {
		n++
	}
	return n
}

// empty reports whether there is nothing to write.
func (q *queue) empty() bool { return q.batches() == 0 }

// oldest returns the batch that is to be written next, nil where there is none.
func (q *queue) oldest() *batch {
	if len(q.sealed) > 0 {
		return q.sealed[0]
	}
	return q.open
}

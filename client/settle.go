package client

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// maxGaps is how many times in a row a gap is taken for a passing disorder.
const maxGaps = 5

// result is what became of a batch.
type result struct {
	batch  *batch
	offset int64 // of the first record, -1 where it is not known
	err    error
}

// settle takes the answer to one batch.
func (s *sender) settle(res *streamhousev1.ProduceStreamResponse) error {
	s.promises.Lock()
	defer s.promises.Unlock()
	done, err := s.answered(res)
	if err != nil {
		return err
	}
	s.notify()
	for _, r := range done {
		s.p.finish(r)
	}
	return nil
}

func (s *sender) answered(res *streamhousev1.ProduceStreamResponse) ([]result, error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if len(s.flight) == 0 || s.flight[0].id != res.GetId() {
		return nil, &Error{Code: codes.Unavailable, Message: fmt.Sprintf("the node answered a request %d that it was not sent", res.GetId())}
	}
	b := s.flight[0]
	s.flight[0] = nil
	s.flight = s.flight[1:]
	s.progress, s.worked = time.Now(), true
	q := b.queue
	q.inFlight--
	err := fromProto(res.GetError())
	switch {
	case err == nil:
		offset := int64(-1)
		if len(res.GetBatches()) == 1 {
			offset = res.GetBatches()[0].GetBaseOffset()
			if res.GetBatches()[0].GetForwarded() {
				s.forwarded = q.topic
			}
		}
		q.remove(b)
		q.done = append(q.done, result{b, offset, nil})
	case reasonOf(err) == reasonDuplicate: // an earlier attempt has stored it
		q.remove(b)
		q.done = append(q.done, result{b, -1, nil})
	default:
		q.fail(b, err)
	}
	return q.settled(s.p.decideLocked(q)...), nil
}

// fail notes that an attempt to write a batch has failed.
func (q *queue) fail(b *batch, err error) {
	b.tries++
	b.last = err
	if !notWritten(err) {
		b.unclear = true
	}
	if q.failed == nil {
		q.failed, q.head = err, b
	}
}

// endFlight takes it that what was not answered over a stream that has ended may have been written or not.
func (s *sender) endFlight(err error) {
	if err == nil {
		err = &Error{Code: codes.Unavailable, Message: "the stream ended"}
	}
	s.promises.Lock()
	defer s.promises.Unlock()
	s.p.mu.Lock()
	var done []result
	flight := s.flight
	s.flight = nil
	for _, b := range flight {
		b.queue.inFlight--
		b.queue.fail(b, &Error{Code: codes.Unavailable, Reason: ErrOutcomeUnknown, Message: err.Error()})
	}
	for _, b := range flight {
		done = append(done, b.queue.settled(s.p.decideLocked(b.queue)...)...)
	}
	s.p.mu.Unlock()
	for _, r := range done {
		s.p.finish(r)
	}
}

// decideLocked says what becomes of a partition's batches after a failure, once nothing of it is in flight: what is
// returned has failed, and the rest is sent again after a pause.
//
// Nodes take a partition's batches only in sequence. So where the first that failed was surely not written, none behind
// it was. Where that is not known, nothing is known of those behind it that were sent, either; they can't be written
// under a new sequence without the danger of a duplicate, so they fail with it.
func (p *Producer) decideLocked(q *queue) []result {
	if q.failed == nil || q.inFlight > 0 {
		return nil
	}
	err, head := q.failed, q.head
	q.failed, q.head, q.sent = nil, nil, 0
	reason := reasonOf(err)
	renew := reason == reasonUnknownProducer || reason == reasonFencedProducer || (reason == reasonOutOfOrder && head.tries > maxGaps)
	switch {
	case renew && !head.unclear:
		q.bump = true
		q.clear()
	case renew, !retryable(err, idempotent) && reason != reasonOutOfOrder, time.Since(head.since) > p.cfg.DeliveryTimeout:
		q.notBefore = time.Now().Add(firstBackoff)
		return p.failHead(q, err)
	}
	pause := backoffAfter(head.tries - 1)
	if e, ok := errors.AsType[*Error](err); ok {
		pause = max(pause, e.RetryDelay)
	}
	q.notBefore = time.Now().Add(pause)
	p.c.metrics.retries.Inc()
	return nil
}

// clear notes that no batch of the queue can have been written.
func (q *queue) clear() {
	for _, b := range q.sealed {
		b.unclear = false
	}
}

// failHead gives up the queue's oldest batch, and with it those whose outcome hangs on it. err is nil where its time has
// ended before it was tried, or between two tries. Nothing of the queue is in flight.
func (p *Producer) failHead(q *queue, err error) []result {
	p.sealLocked(q)
	head := q.sealed[0]
	late := time.Since(head.since) > p.cfg.DeliveryTimeout
	if err == nil {
		err = q.askErr
	}
	cause := err
	if late {
		cause = fmt.Errorf("%w after %s", ErrDeliveryTimeout, p.cfg.DeliveryTimeout)
		switch {
		case err != nil:
			cause = fmt.Errorf("%w: %w", cause, err)
		case head.last != nil && head.unclear:
			cause = fmt.Errorf("%w: %w", cause, head.last)
		case head.last != nil: // its reason says nothing of a batch that surely was not written
			cause = fmt.Errorf("%w: %s", cause, head.last.Error())
		}
	}
	q.sent = 0
	q.remove(head)
	q.bump = q.bump || head.numbered
	if !head.unclear {
		q.clear()
		return []result{{head, -1, cause}}
	}
	if !errors.Is(cause, ErrOutcomeUnknown) {
		cause = fmt.Errorf("%w: %w", cause, ErrOutcomeUnknown)
	}
	out := []result{{head, -1, cause}}
	for len(q.sealed) > 0 && q.sealed[0].unclear {
		b := q.sealed[0]
		q.remove(b)
		out = append(out, result{b, -1, fmt.Errorf("a batch before it failed: %w", cause)})
	}
	return out
}

// tell finishes batches that failed while nothing was in flight.
func (s *sender) tell(failed []result) {
	if len(failed) == 0 {
		return
	}
	s.promises.Lock()
	defer s.promises.Unlock()
	for _, r := range failed {
		s.p.finish(r)
	}
}

// expire fails what is too old to be tried again, with the reason why no stream could be opened.
func (s *sender) expire(err error) {
	s.p.mu.Lock()
	var failed []result
	for _, q := range s.active {
		for !q.empty() && q.inFlight == 0 && time.Since(q.oldest().since) > s.p.cfg.DeliveryTimeout {
			failed = append(failed, q.settled(s.p.failHead(q, err)...)...)
		}
	}
	s.p.mu.Unlock()
	s.tell(failed)
}

// abandon fails all that is left when the producer ends.
func (s *sender) abandon() {
	s.p.mu.Lock()
	var left []result
	for _, q := range s.active {
		s.p.sealLocked(q)
		for _, b := range q.sealed {
			err := ErrClosed
			if b.unclear {
				err = fmt.Errorf("%w: %w", ErrClosed, ErrOutcomeUnknown)
			}
			q.done = append(q.done, result{b, -1, err})
		}
		q.sealed, q.sent, q.inFlight = nil, 0, 0
		left = append(left, q.settled()...)
	}
	s.active = nil
	s.p.mu.Unlock()
	s.tell(left)
}

// finish tells the promises of a batch and gives back what it holds.
func (p *Producer) finish(r result) {
	b, m := r.batch, p.c.metrics
	b.trace.end(r)
	topic := b.queue.topic
	for i, w := range b.waiting {
		w.record.Partition, w.record.Offset = b.queue.partition, -1
		if r.offset >= 0 {
			w.record.Offset = r.offset + int64(i)
		}
		if w.promise != nil {
			w.promise(w.record, r.err)
		}
	}
	if r.err == nil {
		m.produced.WithLabelValues(topic).Add(float64(len(b.waiting)))
		m.producedBytes.WithLabelValues(topic).Add(float64(b.payload))
		m.batchRecords.Observe(float64(len(b.waiting)))
		tracing.Observe(m.ackSeconds, time.Since(b.since).Seconds(), b.trace.context())
	} else {
		m.produceErrors.WithLabelValues(topic).Add(float64(len(b.waiting)))
		p.mu.Lock()
		p.failed += len(b.waiting)
		if p.failure == nil {
			p.failure = r.err
		}
		p.mu.Unlock()
	}
	m.bufferedBytes.Sub(float64(b.bytes))
	p.room.Release(int64(b.bytes))
	p.mu.Lock()
	delete(p.unfinished, b)
	p.mu.Unlock()
	close(b.done)
	b.queue.sender.spend(b)
}

// spend leaves a batch to the sender's goroutine, which recycles it when it surely has sent it.
func (s *sender) spend(b *batch) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.spent = append(s.spent, b)
}

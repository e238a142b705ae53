package client

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/record"
)

const (
	// silentFor is how long a node may owe an answer before the sender asks whether the shard has another leader.
	silentFor = 2 * time.Second
	// stalledFor is how long a node may owe an answer before it is given up.
	stalledFor = 15 * time.Second
	// leaderEvery is how often a sender looks for the leader while it writes through another node.
	leaderEvery = time.Second
	// idleStream is how long a stream stays open with nothing to send.
	idleStream = 10 * time.Second
)

// sender writes to one shard, over one stream at a time. Its goroutine ends with the producer.
type sender struct {
	p     *Producer
	shard uint32
	wake  chan struct{} // has room for one

	// promises is held while results are told, so that they are told one at a time and in order. Before p.mu.
	promises sync.Mutex

	// Guarded by p.mu.
	active   []*queue // those with batches
	flight   []*batch // sent over the stream and not answered, in order
	progress time.Time
	worked   bool // a batch was answered in this session
	// forwarded is a topic of which the node that is written through has said that another one leads its shard.
	forwarded string
	spent     []*batch // finished, to be recycled

	avoid    *conn // has failed just now, and is avoided for avoidFor since
	failedAt time.Time

	tries int // sessions that failed in a row; used by the goroutine alone
}

// avoidFor is how long a node is avoided that has failed: it may be known as the leader for a while yet.
const avoidFor = 3 * time.Second

func (s *sender) avoiding() *conn {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if time.Since(s.failedAt) > avoidFor {
		return nil
	}
	return s.avoid
}

func (s *sender) fail(node *conn, err error) {
	s.p.c.failed(node, err)
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.avoid, s.failedAt = node, time.Now()
}

// senderLocked returns the sender of a shard, which it starts where there is none. The caller has seen that the producer
// is not closed.
func (p *Producer) senderLocked(shard uint32) *sender {
	s := p.senders[shard]
	if s == nil {
		s = &sender{p: p, shard: shard, wake: make(chan struct{}, 1)}
		p.senders[shard] = s
		p.wg.Go(s.run)
	}
	return s
}

func (s *sender) addLocked(q *queue) {
	if !q.active {
		q.active = true
		s.active = append(s.active, q)
	}
}

// notify makes the sender look for work.
func (s *sender) notify() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run opens streams while there is something to send, until the producer ends.
func (s *sender) run() {
	ctx := s.p.ctx
	for ctx.Err() == nil {
		if s.idle() {
			select {
			case <-s.wake:
			case <-ctx.Done():
			}
			continue
		}
		err := s.session(ctx)
		s.endFlight(err)
		s.recycle()
		if s.hasWorked() {
			s.tries = 0
		}
		if err == nil || ctx.Err() != nil {
			continue
		}
		s.lookForLeader()
		delay := backoffAfter(s.tries)
		if e, ok := errors.AsType[*Error](err); ok {
			delay = max(delay, e.RetryDelay)
		}
		s.tries++
		s.expire(err)
		_ = pause.For(ctx, delay) // the loop looks at ctx
	}
	s.abandon()
}

// hasWorked reports whether a batch was answered since it was asked last.
func (s *sender) hasWorked() bool {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	worked := s.worked
	s.worked = false
	return worked
}

// recycle gives back the buffers of finished batches. The goroutine that sends calls it, so none is being sent.
func (s *sender) recycle() {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	for i, b := range s.spent {
		s.p.recycle(b)
		s.spent[i] = nil
	}
	s.spent = s.spent[:0]
}

func (s *sender) idle() bool {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	return len(s.active) == 0
}

// session sends over one stream until it fails, the shard's leader is elsewhere, or there has been nothing to send for a
// while; then it returns nil.
func (s *sender) session(ctx context.Context) error {
	node, err := s.p.c.leader(s.shard, s.avoiding())
	if err != nil {
		return err
	}
	s.p.mu.Lock()
	s.forwarded = ""
	s.p.mu.Unlock()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := node.api().ProduceStream(ctx)
	if err != nil {
		s.fail(node, err)
		return err
	}
	received := make(chan error, 1)
	go func() { received <- s.receive(stream) }() // joined by send
	var watching sync.WaitGroup
	watching.Go(func() { s.watch(ctx, node, cancel) })
	err = s.send(stream, node, received, cancel) //nolint:contextcheck // an id that is asked for meanwhile outlives the stream
	if cause, ok := errors.AsType[*Error](context.Cause(ctx)); ok {
		err = cause
	}
	cancel(nil)
	watching.Wait()
	if err != nil && s.p.ctx.Err() == nil {
		s.fail(node, err)
	}
	return err
}

type produceStream = grpc.BidiStreamingClient[streamhousev1.ProduceStreamRequest, streamhousev1.ProduceStreamResponse]

// send sends what is ready and ends after receive has ended.
func (s *sender) send(stream produceStream, node *conn, received <-chan error, cancel context.CancelCauseFunc) error {
	finish := func() error {
		_ = stream.CloseSend() // never fails
		late := time.AfterFunc(stalledFor, func() { cancel(notInTime(node)) })
		defer late.Stop()
		return <-received
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	idleSince, looked := time.Time{}, time.Now()
	for {
		s.recycle()
		step := s.next(time.Now())
		s.tell(step.failed)
		if step.batch != nil {
			idleSince = time.Time{}
			if err := stream.Send(s.request(step.batch)); err != nil {
				return <-received // Recv knows why
			}
			continue
		}
		now := time.Now()
		if now.Sub(looked) > leaderEvery {
			looked = now
			if moved, silent := s.moved(node); moved && !silent {
				return finish()
			}
		}
		if step.idle {
			if idleSince.IsZero() {
				idleSince = now
			}
			if now.Sub(idleSince) > idleStream {
				return finish()
			}
		}
		timer.Reset(step.wait)
		select {
		case <-s.wake:
		case <-timer.C:
		case err := <-received:
			return err
		}
	}
}

func notInTime(node *conn) error {
	return &Error{Code: codes.Unavailable, Message: node.addr + " did not answer in time"}
}

// moved reports whether the shard's leader is known to be another node than the one that is written through, and whether
// that one is silent though it owes an answer. It asks for the leader where there is a doubt.
func (s *sender) moved(node *conn) (moved, silent bool) {
	leader := s.p.c.knownLeader(s.shard)
	s.p.mu.Lock()
	silent = len(s.flight) > 0 && time.Since(s.progress) > silentFor
	forwarded := s.forwarded
	s.forwarded = ""
	s.p.mu.Unlock()
	if silent {
		s.p.c.leave(node) // it may be cut off from the others, and not know who leads by now
	}
	switch {
	case forwarded != "":
		s.p.c.ask(forwarded)
	case silent || leader != node:
		s.lookForLeader()
	}
	return leader != nil && leader != node && leader != s.avoiding(), silent
}

// lookForLeader asks in the background for the topic of some queue.
func (s *sender) lookForLeader() {
	s.p.mu.Lock()
	topic := ""
	if len(s.active) > 0 {
		topic = s.active[0].topic
	}
	s.p.mu.Unlock()
	if topic != "" {
		s.p.c.ask(topic)
	}
}

// step is what a sender does next: it sends batch, or where there is none waits.
type step struct {
	batch  *batch
	wait   time.Duration
	idle   bool
	failed []result
}

// next chooses what to do, and drops queues that are empty.
func (s *sender) next(now time.Time) step {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	st := step{wait: leaderEvery, idle: len(s.flight) == 0}
	s.active = slices.DeleteFunc(s.active, func(q *queue) bool {
		if q.empty() {
			q.active = false
			return true
		}
		return false
	})
	for i, q := range s.active {
		st.idle = false
		left := q.oldest().since.Add(s.p.cfg.DeliveryTimeout).Sub(now)
		if left < 0 && q.inFlight == 0 {
			st.failed = append(st.failed, q.settled(s.p.failHead(q, nil)...)...)
			st.wait = 0
			continue
		}
		st.wait = min(st.wait, max(left, watchEvery)) // what is in flight too long ends with the session: see watch
		if !s.readyLocked(q, now, &st.wait) {
			continue
		}
		if q.producerID < 0 && s.p.id >= 0 {
			q.startEpoch(s.p.id, 0)
		}
		if q.producerID < 0 || q.bump {
			s.askLocked(q)
			continue
		}
		b := q.sealed[q.sent]
		q.number(b)
		q.sent++
		q.inFlight++
		if len(s.flight) == 0 {
			s.progress = now
		}
		s.flight = append(s.flight, b)
		// The next look begins with the next queue.
		s.active = append(s.active[i+1:], s.active[:i+1]...)
		return step{batch: b, failed: st.failed}
	}
	return st
}

// readyLocked says whether a batch of the queue is to be sent now; else it lowers wait to when one may be.
func (s *sender) readyLocked(q *queue, now time.Time, wait *time.Duration) bool {
	if q.failed != nil || q.asking || q.inFlight >= maxInFlight || (q.bump && q.inFlight > 0) {
		return false
	}
	if d := q.notBefore.Sub(now); d > 0 {
		*wait = min(*wait, d)
		return false
	}
	if q.sent < len(q.sealed) {
		return true
	}
	if q.open == nil {
		return false
	}
	if d := q.open.since.Add(s.p.cfg.Linger).Sub(now); d > 0 {
		*wait = min(*wait, d)
		return false
	}
	s.p.sealLocked(q)
	return true
}

// request encodes a batch. The builder is the sender's by now.
func (s *sender) request(b *batch) *streamhousev1.ProduceStreamRequest {
	q := b.queue
	b.builder.Configure(record.BuilderConfig{
		Compression: compressions[s.p.cfg.Compression], ProducerID: q.producerID, ProducerEpoch: int16(q.epoch), BaseSequence: b.sequence,
	})
	data, err := b.builder.Build()
	if err != nil {
		data = nil // a node refuses it, and says so
		s.p.c.cfg.Logger.Error("a batch can't be encoded", "topic", q.topic, "partition", q.partition, "err", err)
	}
	acks := streamhousev1.Acks_ACKS_QUORUM
	if s.p.cfg.Acks == AcksDurable {
		acks = streamhousev1.Acks_ACKS_DURABLE
	}
	parent, state := b.trace.send(s.p.c.cfg.Propagator, b)
	return &streamhousev1.ProduceStreamRequest{
		Id: b.id, Traceparent: parent, Tracestate: state,
		Write: &streamhousev1.ProduceStreamRequest_RecordBatches{RecordBatches: &streamhousev1.ProduceRecordBatchesRequest{
			Topic: q.topic, Partition: q.partition, RecordBatches: data, Acks: acks,
		}},
	}
}

// receive takes answers until the stream ends, nil where nothing is owed then.
func (s *sender) receive(stream produceStream) error {
	for {
		res, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			s.p.mu.Lock()
			owed := len(s.flight)
			s.p.mu.Unlock()
			if owed == 0 {
				return nil
			}
			return &Error{Code: codes.Unavailable, Message: "the node ended the stream early"}
		}
		if err != nil {
			return err
		}
		if err := s.settle(res); err != nil {
			return err
		}
	}
}

package producer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"google.golang.org/grpc"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

const (
	// maxInFlight is how many batches of a partition servers remember.
	maxInFlight = 5
	// maxPendingBytes bounds what waits for its acknowledgement.
	maxPendingBytes = 32 << 20
	// stallTimeout is how long a node may keep silent while it owes an answer.
	stallTimeout = 15 * time.Second
	// freshIDAfter is when an idle producer asks for a new id: servers forget an idle one after a day.
	freshIDAfter = 6 * time.Hour
	// maxGaps is how many times in a row a gap is taken for a passing disorder.
	maxGaps = 5
	// sequenceModulus is where sequences begin anew.
	sequenceModulus = int64(1) << 31
)

// Config says what is written where.
type Config struct {
	Pool  *remote.Pool
	Topic string
	Acks  streamhousev1.Acks
	// Timeout is how long a batch is tried before the producer gives up.
	Timeout time.Duration
	// OnAck is called for each acknowledged batch, one call at a time; it may be nil.
	OnAck func(Ack)
}

// Ack is where a batch went.
type Ack struct {
	Partition int32
	// BaseOffset is -1 where the server has forgotten it.
	BaseOffset int64
	Records    int
	Bytes      int64
}

// Batch is what is written at once.
type Batch struct {
	Partition int32
	Records   []*streamhousev1.Record
	// Bytes counts the records' keys and values.
	Bytes int64
	// Name says in an error which records these are, such as "lines 1 to 100".
	Name string
}

type pendingBatch struct {
	Batch
	id       uint64
	sequence int32
	since    time.Time
}

// Producer writes to one topic. Run sends; one goroutine calls Send and then Finish.
type Producer struct {
	cfg  Config
	work chan struct{} // something to send, or finished
	room chan struct{} // a batch was acknowledged
	done chan struct{} // Run has ended

	mu sync.Mutex
	// id, epoch and sequences change only while nothing is pending.
	id        int64
	epoch     int32
	sequences map[int32]int64
	// pending holds what is not acknowledged, in order; the first sent of them are in flight.
	pending      []*pendingBatch
	sent         int
	pendingBytes int64
	perPartition map[int32]int
	lastID       uint64
	lastProgress time.Time
	finished     bool
}

// Open gets a producer id. Run must be called.
func Open(ctx context.Context, cfg Config) (*Producer, error) {
	p := &Producer{
		cfg:          cfg,
		work:         make(chan struct{}, 1),
		room:         make(chan struct{}, 1),
		done:         make(chan struct{}),
		perPartition: make(map[int32]int),
	}
	return p, p.freshID(ctx)
}

func (p *Producer) freshID(ctx context.Context) error {
	resp, err := remote.Call(ctx, p.cfg.Pool, remote.Idempotent, func(ctx context.Context, cc grpc.ClientConnInterface) (*streamhousev1.InitProducerResponse, error) {
		return streamhousev1.NewStreamHouseServiceClient(cc).InitProducer(ctx, &streamhousev1.InitProducerRequest{})
	})
	if err != nil {
		return fmt.Errorf("get a producer id: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.id, p.epoch = resp.GetProducerId(), resp.GetProducerEpoch()
	p.sequences = make(map[int32]int64)
	p.lastProgress = time.Now()
	return nil
}

// errEnded is what Send returns once Run has ended; Run's error says more.
var errEnded = errors.New("the producer has ended")

// Send hands a batch over; the producer keeps its records. It blocks while too
// much waits for acknowledgement.
func (p *Producer) Send(ctx context.Context, b Batch) error {
	if err := p.waitRoom(ctx, b.Partition); err != nil {
		return err
	}
	if p.idleTooLong() {
		if err := p.freshID(ctx); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.lastID++
	if len(p.pending) == 0 {
		p.lastProgress = time.Now()
	}
	seq := p.sequences[b.Partition]
	p.sequences[b.Partition] = (seq + int64(len(b.Records))) % sequenceModulus
	p.pending = append(p.pending, &pendingBatch{Batch: b, id: p.lastID, sequence: int32(seq), since: time.Now()})
	p.pendingBytes += b.Bytes
	p.perPartition[b.Partition]++
	notify(p.work)
	return nil
}

// Finish says that there is no more; Run ends when all is acknowledged.
func (p *Producer) Finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.finished = true
	notify(p.work)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (p *Producer) waitRoom(ctx context.Context, partition int32) error {
	for {
		p.mu.Lock()
		ok := p.perPartition[partition] < maxInFlight && p.pendingBytes < maxPendingBytes
		p.mu.Unlock()
		if ok {
			return nil
		}
		select {
		case <-p.room:
		case <-p.done:
			return errEnded
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (p *Producer) idleTooLong() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.pending) == 0 && time.Since(p.lastProgress) > freshIDAfter
}

// Pending returns the number of records that are not acknowledged.
func (p *Producer) Pending() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, b := range p.pending {
		n += len(b.Records)
	}
	return n
}

// Run sends what Send gives it until Finish was called and all is
// acknowledged. It returns an error when a batch is refused, or was tried for
// longer than the time-out.
func (p *Producer) Run(ctx context.Context) error {
	defer close(p.done)
	for tries, gaps := 0, 0; ; {
		more, err := p.waitWork(ctx)
		if err != nil || !more {
			return err
		}
		node := p.cfg.Pool.Node()
		before := p.progress()
		err = p.attempt(ctx, node)
		if err == nil {
			continue // the stream ended with nothing left to say
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if p.progress() != before {
			tries, gaps = 0, 0
			p.cfg.Pool.Worked()
		}
		gap := isGap(err)
		if gap {
			gaps++
		}
		if (!gap && !remote.Retryable(err, remote.Idempotent)) || gaps > maxGaps {
			return err
		}
		if over := p.overdue(); over > 0 {
			return fmt.Errorf("gave up after %s: %w", over.Round(time.Second), err)
		}
		p.cfg.Pool.Failed(node, err)
		delay := remote.Backoff(tries)
		if e, ok := errors.AsType[*remote.Error](err); ok {
			delay = max(delay, e.RetryDelay)
		}
		tries++
		if err := remote.Wait(ctx, delay); err != nil {
			return err
		}
	}
}

func isGap(err error) bool {
	e, ok := errors.AsType[*remote.Error](err)
	return ok && e.Reason == streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE
}

// waitWork returns true when something is to be sent, and false when all is done.
func (p *Producer) waitWork(ctx context.Context) (bool, error) {
	for {
		p.mu.Lock()
		more, finished := len(p.pending) > 0, p.finished
		p.mu.Unlock()
		if more || finished {
			return more, nil
		}
		select {
		case <-p.work:
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// progress changes with each acknowledgement.
func (p *Producer) progress() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lastID - uint64(len(p.pending))
}

// overdue returns the age of the oldest batch where that is more than the time-out.
func (p *Producer) overdue() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.pending) == 0 {
		return 0
	}
	if age := time.Since(p.pending[0].since); age > p.cfg.Timeout {
		return age
	}
	return 0
}

// attempt sends all that is pending over one stream, and what comes, until the
// stream fails, a batch fails, or all is finished.
func (p *Producer) attempt(ctx context.Context, node *remote.Node) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := streamhousev1.NewStreamHouseServiceClient(node.Conn()).ProduceStream(ctx)
	if err != nil {
		return err
	}
	p.rewind()
	defer p.watch(cancel, node.Addr())()

	received := make(chan error, 1)
	go func() { received <- p.receive(stream) }()
	err = p.send(stream, received)
	if stalled, ok := errors.AsType[*remote.Error](context.Cause(ctx)); ok {
		err = stalled
	}
	return err
}

type produceStream = grpc.BidiStreamingClient[streamhousev1.ProduceStreamRequest, streamhousev1.ProduceStreamResponse]

// send returns what receive returned, and ends after it.
func (p *Producer) send(stream produceStream, received <-chan error) error {
	for {
		b, finished := p.next()
		if b == nil && !finished {
			select {
			case <-p.work:
				continue
			case err := <-received:
				return err
			}
		}
		if b == nil {
			_ = stream.CloseSend() // never fails
			return <-received
		}
		if err := stream.Send(p.request(b)); err != nil {
			return <-received // Recv knows why
		}
	}
}

func (p *Producer) rewind() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent = 0
	p.lastProgress = time.Now()
}

// next returns the next batch to send, nil where there is none now; finished says that there never will be.
func (p *Producer) next() (b *pendingBatch, finished bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sent == len(p.pending) {
		return nil, p.finished
	}
	b = p.pending[p.sent]
	p.sent++
	return b, false
}

func (p *Producer) request(b *pendingBatch) *streamhousev1.ProduceStreamRequest {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &streamhousev1.ProduceStreamRequest{
		Id: b.id,
		Write: &streamhousev1.ProduceStreamRequest_Batch{Batch: &streamhousev1.ProduceBatchRequest{
			Topic:     p.cfg.Topic,
			Partition: &b.Partition,
			Records:   b.Records,
			Acks:      p.cfg.Acks,
			Producer:  &streamhousev1.ProducerSequence{ProducerId: p.id, ProducerEpoch: p.epoch, BaseSequence: b.sequence},
		}},
	}
}

// receive takes acknowledgements until the stream or a batch fails. It returns
// nil when the stream ended and nothing is owed.
func (p *Producer) receive(stream produceStream) error {
	for {
		resp, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			if p.Pending() == 0 {
				return nil
			}
			return &remote.Error{Code: unavailable, Message: "the node ended the stream early"}
		}
		if err != nil {
			return err
		}
		if err := p.acknowledge(resp); err != nil {
			return err
		}
	}
}

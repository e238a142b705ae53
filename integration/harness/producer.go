package harness

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// ProducerConfig describes a producer.
type ProducerConfig struct {
	// Name is in every record; unique in the topic.
	Name string
	// Partitions 0 to Partitions-1 are written to, each by a goroutine of its own.
	Partitions int32
	// BatchRecords in every batch. Default 10.
	BatchRecords int
	// RecordBytes of every value. Default 200.
	RecordBytes int
	// Window is the number of batches under way in a partition, 1 to 5. Default 3.
	Window int
	// Every is the time between two batches of a partition. Default 10 ms.
	Every time.Duration
	// CallTimeout bounds one try. Default 4 s.
	CallTimeout time.Duration
	Acks        streamhousev1.Acks
}

func (c *ProducerConfig) setDefaults() {
	def := func(v *int, d int) {
		if *v == 0 {
			*v = d
		}
	}
	def(&c.BatchRecords, 10)
	def(&c.RecordBytes, 200)
	def(&c.Window, 3)
	if c.Every == 0 {
		c.Every = 10 * time.Millisecond
	}
	if c.CallTimeout == 0 {
		c.CallTimeout = 4 * time.Second
	}
}

// giveUpAfter is how long Stop waits for what is under way.
const giveUpAfter = 30 * time.Second

// Producer writes under a producer id until it is stopped. It sends a batch
// again, through the next node, until it is acknowledged; an error that no retry
// mends ends it. What was acknowledged is in its ledger.
type Producer struct {
	Ledger *Ledger

	cfg     ProducerConfig
	clients []*Client
	id      int64
	epoch   int32

	retries    atomic.Int64
	duplicates atomic.Int64

	stop    chan struct{}
	cancel  context.CancelFunc
	stopped sync.Once
	wg      sync.WaitGroup

	mu  sync.Mutex
	err error // guarded by mu; the first one
}

// StartProducer starts a producer that is stopped at the end of the test at the latest.
func (c *Cluster) StartProducer(l *Ledger, cfg ProducerConfig) *Producer {
	c.t.Helper()
	cfg.setDefaults()
	ctx, cancel := context.WithCancel(context.WithoutCancel(c.t.Context()))
	p := &Producer{Ledger: l, cfg: cfg, clients: c.Clients(), stop: make(chan struct{}), cancel: cancel}
	if err := p.init(ctx); err != nil {
		cancel()
		c.t.Fatalf("init producer: %s", Describe(err))
	}
	for partition := range cfg.Partitions {
		p.wg.Go(func() { p.run(ctx, partition) })
	}
	c.t.Cleanup(func() {
		p.cancel()
		_ = p.end()
	})
	return p
}

func (p *Producer) init(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, giveUpAfter)
	defer cancel()
	return Retry(ctx, p.clients, func(ctx context.Context, c *Client) error {
		resp, err := c.InitProducer(ctx, &streamhousev1.InitProducerRequest{})
		p.id, p.epoch = resp.GetProducerId(), resp.GetProducerEpoch()
		return err
	})
}

// Stop lets what is under way end, and ends the test when the producer met an error.
func (p *Producer) Stop(tb testing.TB) {
	tb.Helper()
	timer := time.AfterFunc(giveUpAfter, p.cancel)
	defer timer.Stop()
	if err := p.end(); err != nil {
		tb.Fatalf("producer %s: %v", p.cfg.Name, err)
	}
}

func (p *Producer) end() error {
	p.stopped.Do(func() { close(p.stop) })
	p.wg.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

// Retries is the number of tries that failed and were repeated.
func (p *Producer) Retries() int64 { return p.retries.Load() }

// Duplicates is the number of batches that had been stored by an earlier try.
func (p *Producer) Duplicates() int64 { return p.duplicates.Load() }

func (p *Producer) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil && !errors.Is(err, context.Canceled) {
		p.err = err
	}
}

// run writes to one partition. Up to Window batches are under way; a batch that
// overtakes an earlier one is refused by its sequence and sent again.
func (p *Producer) run(ctx context.Context, partition int32) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ticker := time.NewTicker(p.cfg.Every)
	defer ticker.Stop()
	var underway []chan struct{} // in order; closed when a batch is acknowledged
	var wg sync.WaitGroup
	defer wg.Wait()
	previous := make(chan struct{})
	close(previous)
	for first := int64(0); ; first += int64(p.cfg.BatchRecords) {
		if len(underway) == p.cfg.Window {
			select {
			case <-underway[0]:
				underway = underway[1:]
			case <-ctx.Done():
				return
			}
		}
		select {
		case <-ticker.C:
		case <-p.stop:
			return
		case <-ctx.Done():
			return
		}
		before, done := previous, make(chan struct{})
		previous = done
		underway = append(underway, done)
		wg.Go(func() {
			if err := p.send(ctx, partition, first, before); err != nil {
				p.fail(err)
				cancel()
				return
			}
			close(done)
		})
	}
}

// send sends one batch until it is acknowledged. before is closed when the one before it is.
func (p *Producer) send(ctx context.Context, partition int32, first int64, before <-chan struct{}) error {
	req := p.request(partition, first)
	next := int(partition)
	for {
		beforeDone := isClosed(before)
		resp, err := p.call(ctx, p.clients[next%len(p.clients)], req)
		if err == nil {
			return p.acknowledged(partition, first, resp)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		next++
		p.retries.Add(1)
		early := !beforeDone && (Reason(err) == "OUT_OF_ORDER_SEQUENCE" || Reason(err) == "UNKNOWN_PRODUCER")
		if early {
			select {
			case <-before:
			case <-ctx.Done():
			}
			continue
		}
		if !MayRetry(err) {
			return fmt.Errorf("partition %d, records from %d: %s", partition, first, Describe(err))
		}
		wait(ctx, nil, pollInterval)
	}
}

func (p *Producer) call(ctx context.Context, c *Client, req *streamhousev1.ProduceBatchRequest) (*streamhousev1.ProduceBatchResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, p.cfg.CallTimeout)
	defer cancel()
	return c.ProduceBatch(ctx, req)
}

func (p *Producer) request(partition int32, first int64) *streamhousev1.ProduceBatchRequest {
	req := &streamhousev1.ProduceBatchRequest{
		Topic: p.Ledger.Topic, Partition: &partition, Acks: p.cfg.Acks,
		Producer: &streamhousev1.ProducerSequence{ProducerId: p.id, ProducerEpoch: p.epoch, BaseSequence: int32(first)},
	}
	s := source{partition, p.cfg.Name}
	for i := range int64(p.cfg.BatchRecords) {
		req.Records = append(req.Records, &streamhousev1.Record{Value: s.value(first+i, p.cfg.RecordBytes)})
	}
	return req
}

func (p *Producer) acknowledged(partition int32, first int64, resp *streamhousev1.ProduceBatchResponse) error {
	if len(resp.GetBatches()) != 1 {
		return fmt.Errorf("partition %d: an acknowledgement of %d batches for one", partition, len(resp.GetBatches()))
	}
	b := resp.GetBatches()[0]
	if b.GetPartition() != partition || int(b.GetRecords()) != p.cfg.BatchRecords {
		return fmt.Errorf("partition %d: a wrong acknowledgement: %v", partition, b)
	}
	if b.GetDuplicate() {
		p.duplicates.Add(1)
	}
	p.Ledger.Ack(partition, p.cfg.Name, first, p.cfg.BatchRecords, b.GetBaseOffset())
	return nil
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// ProduceN writes n batches to every partition, in order, and notes them in the ledger.
func (c *Cluster) ProduceN(l *Ledger, cfg ProducerConfig, batches int) {
	c.t.Helper()
	cfg.setDefaults()
	ctx, cancel := context.WithTimeout(c.t.Context(), 2*time.Minute)
	defer cancel()
	p := &Producer{Ledger: l, cfg: cfg, clients: c.Clients()}
	if err := p.init(ctx); err != nil {
		c.t.Fatalf("init producer: %s", Describe(err))
	}
	none := make(chan struct{})
	close(none)
	var wg sync.WaitGroup
	for partition := range cfg.Partitions {
		wg.Go(func() {
			for i := range batches {
				if err := p.send(ctx, partition, int64(i*cfg.BatchRecords), none); err != nil {
					p.fail(fmt.Errorf("partition %d: %w", partition, err))
					return
				}
			}
		})
	}
	wg.Wait()
	if p.err != nil {
		c.t.Fatalf("produce: %v", p.err)
	}
}

// IsCode reports whether an error has a gRPC code and a reason.
func IsCode(err error, code codes.Code, reason string) bool {
	return status.Code(err) == code && Reason(err) == reason
}

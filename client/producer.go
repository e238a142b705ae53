package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc/codes"

	"github.com/streamhouse/streamhouse/internal/tracing"
	"github.com/streamhouse/streamhouse/storage/record"
)

// ProducerConfig says how a producer writes. Zero values are the defaults.
type ProducerConfig struct {
	// Acks says when a record is acknowledged. The default is AcksQuorum.
	Acks Acks
	// Compression of batches. The default is CompressionNone.
	Compression Compression
	// BatchBytes is how large a batch may grow before it is sent, before compression, 1 to 8 MiB. A record that is
	// larger makes a batch of its own. The default is 256 KiB.
	BatchBytes int
	// Linger is how long a batch waits for more records, at most 1 minute. ProduceSync and Flush do not wait. Below 0 is
	// no wait at all. The default is 5 ms.
	Linger time.Duration
	// BufferBytes bounds what waits for acknowledgement, in bytes of keys, values and headers and a little more for each
	// record. Produce blocks while it is full. The default is 32 MiB.
	BufferBytes int
	// DeliveryTimeout is how long a record is tried before it fails with ErrDeliveryTimeout. The default is 2 minutes.
	DeliveryTimeout time.Duration
	// Partitioner chooses partitions. The default is ByKey.
	Partitioner Partitioner
}

const (
	maxBatchBytes     = 8 << 20
	defaultBatchBytes = 256 << 10
	maxLinger         = time.Minute
	// recordOverhead is about what a record takes in a batch beside its payload, and while it waits.
	recordOverhead = 64
	// maxTimestampMs is the end of the year 9999.
	maxTimestampMs = 253402300799999
)

// Validate returns an error that names the first field with a bad value.
func (c ProducerConfig) Validate() error {
	_, known := compressions[c.Compression]
	switch {
	case c.Acks != "" && c.Acks != AcksQuorum && c.Acks != AcksDurable:
		return badField("Acks", "%q must be quorum or durable", c.Acks)
	case !known:
		return badField("Compression", "%q must be none, snappy, lz4 or zstd", c.Compression)
	case c.BatchBytes < 0 || c.BatchBytes > maxBatchBytes:
		return badField("BatchBytes", "%d is not from 1 to %d", c.BatchBytes, maxBatchBytes)
	case c.Linger > maxLinger:
		return badField("Linger", "%s is above %s", c.Linger, maxLinger)
	case c.BufferBytes < 0:
		return badField("BufferBytes", "%d is below 0", c.BufferBytes)
	case c.DeliveryTimeout < 0:
		return badField("DeliveryTimeout", "%s is below 0", c.DeliveryTimeout)
	}
	return nil
}

func (c ProducerConfig) withDefaults() ProducerConfig {
	setDefault(&c.Acks, AcksQuorum)
	setDefault(&c.Compression, CompressionNone)
	setDefault(&c.BatchBytes, defaultBatchBytes)
	setDefault(&c.Linger, 5*time.Millisecond)
	setDefault(&c.BufferBytes, 32<<20)
	setDefault(&c.DeliveryTimeout, 2*time.Minute)
	if c.Partitioner == nil {
		c.Partitioner = ByKey
	}
	c.Linger = max(c.Linger, 0)
	return c
}

// Promise is told what became of a record: err is nil once it is acknowledged, and then Partition and Offset of the
// record are set. Promises are called one at a time for each shard, in order for each partition, and must not block:
// nothing more of the shard is acknowledged meanwhile. They must not call Produce, ProduceSync, Flush or Close of the same
// producer, which may wait for them.
type Promise func(r *Record, err error)

// Producer writes records. It batches what goes to one partition, sends batches to the shards' leaders, and tries again
// what fails: always under a producer id, so that a retry never stores a record twice nor out of order. It is safe for
// concurrent use.
type Producer struct {
	c      *Client
	cfg    ProducerConfig
	room   *semaphore.Weighted // of BufferBytes
	ctx    context.Context     //nolint:containedctx // ends the senders
	cancel context.CancelFunc
	wg     sync.WaitGroup // the senders
	pool   sync.Pool      // of *buffers
	tracer tracing.Tracer

	mu      sync.Mutex
	closed  bool
	topics  map[string]*producerTopic
	senders map[uint32]*sender
	// unfinished are the batches whose promises were not all told.
	unfinished map[*batch]struct{}
	failed     int   // records that failed since the last Flush
	failure    error // of the first of them
	lastID     uint64
	// id is the first producer id that was given out, below 0 before. Partitions count on their own under it.
	id int64
}

// producerTopic is what a producer knows of a topic. The producer's mutex guards it.
type producerTopic struct {
	meta   *topicMeta
	queues []*queue // by partition
	sticky int32    // partition that takes records without a key; below 0 where one is to be chosen
}

// NewProducer returns a producer. The error names a bad field of cfg. Close ends it.
func NewProducer(c *Client, cfg ProducerConfig) (*Producer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("producer config: %w", err)
	}
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(c.ctx)
	p := &Producer{
		c: c, cfg: cfg, room: semaphore.NewWeighted(int64(cfg.BufferBytes)), ctx: ctx, cancel: cancel,
		topics: make(map[string]*producerTopic), senders: make(map[uint32]*sender), unfinished: make(map[*batch]struct{}), id: -1,
		tracer: tracing.New(c.cfg.TracerProvider),
	}
	p.pool.New = func() any { return &buffers{builder: record.NewBuilder(record.BuilderConfig{ProducerID: -1})} }
	return p, nil
}

// Produce hands a record over and returns; promise, which may be nil, is called once with the result. Key, value and
// headers may be used again when Produce has returned; the record itself belongs to the producer until then. Produce
// blocks while the buffer is full, and for the first record of a topic, until ctx ends. An error means that the record
// was not taken and the promise will not be called: of ctx, ErrClosed, ErrTopicNotFound, ErrPartitionNotFound,
// ErrRecordTooLarge, or that no node could be reached.
func (p *Producer) Produce(ctx context.Context, r *Record, promise Promise) error {
	_, err := p.produce(ctx, r, promise, false)
	return err
}

func (p *Producer) produce(ctx context.Context, r *Record, promise Promise, sync bool) (*batch, error) {
	size := r.payloadBytes() + recordOverhead
	if err := p.check(r, size); err != nil {
		return nil, err
	}
	meta, err := p.c.topic(ctx, r.Topic)
	if err != nil {
		return nil, err
	}
	if meta, err = p.fits(ctx, meta, size); err != nil {
		return nil, err
	}
	if !p.room.TryAcquire(int64(size)) {
		p.hurry()
		if err := p.room.Acquire(ctx, int64(size)); err != nil {
			return nil, err
		}
	}
	if r.Timestamp.IsZero() {
		r.Timestamp = time.Now()
	}
	b, err := p.add(ctx, meta, waiting{r, promise}, size, sync)
	if err != nil {
		p.room.Release(int64(size))
		return nil, err
	}
	p.c.metrics.bufferedBytes.Add(float64(size))
	return b, nil
}

// fits refuses a record whose whole batch a node would refuse. The limit may have been raised since it was asked for.
func (p *Producer) fits(ctx context.Context, meta *topicMeta, size int) (*topicMeta, error) {
	bytes := size - recordOverhead
	over := func() bool {
		return (meta.maxRecordBytes > 0 && bytes > meta.maxRecordBytes) || (meta.maxRequestBytes > 0 && size > meta.maxRequestBytes)
	}
	if over() && time.Since(meta.fetched) > time.Second {
		var err error
		if meta, err = p.c.refresh(ctx, meta.name); err != nil {
			return nil, err
		}
	}
	if over() {
		return nil, tooLarge("a record of %d bytes is above what topic %s takes: %d, and %d in a request", bytes, meta.name, meta.maxRecordBytes, meta.maxRequestBytes)
	}
	return meta, nil
}

func tooLarge(format string, args ...any) error {
	return &Error{Code: codes.InvalidArgument, Reason: ErrRecordTooLarge, Message: fmt.Sprintf(format, args...)}
}

// check refuses what can't be encoded or would never fit.
func (p *Producer) check(r *Record, size int) error {
	if size > p.cfg.BufferBytes {
		return tooLarge("a record of %d bytes does not fit into a buffer of %d", size, p.cfg.BufferBytes)
	}
	for i := range r.Headers {
		if !utf8.ValidString(r.Headers[i].Key) {
			return invalid("headers", "the key of header %d is not UTF-8", i)
		}
	}
	if ms := r.Timestamp.UnixMilli(); !r.Timestamp.IsZero() && (ms < 0 || ms > maxTimestampMs) {
		return invalid("timestamp", "%s is not from 1970 to 9999", r.Timestamp.Format(time.RFC3339))
	}
	return nil
}

// add puts a record into the open batch of its partition.
func (p *Producer) add(ctx context.Context, meta *topicMeta, w waiting, size int, sync bool) (*batch, error) {
	r := w.record
	partition := p.cfg.Partitioner(r, int32(len(meta.shards)))
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || p.ctx.Err() != nil { // the senders end with ctx, and then look at what is left under the mutex
		return nil, ErrClosed
	}
	t := p.topicLocked(meta)
	if partition == Unassigned {
		partition = p.stickLocked(t, size)
	}
	if n := len(meta.shards); partition < 0 || int(partition) >= n {
		return nil, badPartition(TopicPartition{r.Topic, partition}, n)
	}
	q := t.queues[partition]
	b := p.appendLocked(ctx, meta, q, w, size)
	if b.bytes >= p.batchBytes(meta) || sync {
		p.sealLocked(q)
	}
	q.sender.notify()
	return b, nil
}

// batchBytes is how large a batch of a topic may grow.
func (p *Producer) batchBytes(meta *topicMeta) int {
	if meta.maxRequestBytes > 0 {
		return min(p.cfg.BatchBytes, meta.maxRequestBytes)
	}
	return p.cfg.BatchBytes
}

// appendLocked adds a record to the open batch, or to a new one where it would grow too large.
func (p *Producer) appendLocked(ctx context.Context, meta *topicMeta, q *queue, w waiting, size int) *batch {
	if q.open != nil && q.open.bytes+size > p.batchBytes(meta) {
		p.sealLocked(q)
	}
	if q.open == nil {
		p.lastID++
		q.open = &batch{id: p.lastID, queue: q, buffers: p.pool.Get().(*buffers), since: time.Now(), done: make(chan struct{})}
		q.sender.addLocked(q)
		p.unfinished[q.open] = struct{}{}
		p.traceLocked(ctx, q.open)
	} else {
		q.open.trace.join(ctx)
	}
	b, r := q.open, w.record
	b.builder.Append(record.Record{TimestampMs: r.Timestamp.UnixMilli(), Key: r.Key, Value: r.Value, Headers: r.Headers})
	b.waiting = append(b.waiting, w)
	b.records++
	b.bytes += size
	b.payload += size - recordOverhead
	return b
}

// topicLocked returns the topic's state, with queues for all partitions that are known.
func (p *Producer) topicLocked(meta *topicMeta) *producerTopic {
	t := p.topics[meta.name]
	if t == nil {
		t = &producerTopic{sticky: Unassigned}
		p.topics[meta.name] = t
	}
	if t.meta == meta {
		return t
	}
	t.meta = meta
	for i := len(t.queues); i < len(meta.shards); i++ {
		t.queues = append(t.queues, &queue{
			topic: meta.name, partition: int32(i), producerID: -1, sender: p.senderLocked(meta.shards[i]),
		})
	}
	return t
}

// stickLocked returns the partition for a record without a key: another one whenever the open batch has no room for it.
func (p *Producer) stickLocked(t *producerTopic, size int) int32 {
	n := int32(len(t.meta.shards))
	if t.sticky >= 0 && t.sticky < n {
		q := t.queues[t.sticky]
		if q.open != nil && q.open.bytes+size <= p.batchBytes(t.meta) {
			return t.sticky
		}
		p.sealLocked(q)
		q.sender.notify()
	}
	t.sticky = t.chooseLocked(n)
	return t.sticky
}

// maxChoice is how many partitions are looked at for the next batch of records without a key.
const maxChoice = 64

// chooseLocked returns one of n partitions for the next batch, another one than the last where there are more: at random,
// but of maxChoice partitions the one with the fewest batches to write. So a slow partition does not fill the buffer while
// others have nothing to do (KIP-794 has the same aim).
func (t *producerTopic) chooseLocked(n int32) int32 {
	start := rand.Int32N(n)
	best, fewest := start, math.MaxInt
	for i := range min(n, maxChoice) {
		at := (start + i) % n
		if at == t.sticky && n > 1 {
			continue
		}
		if have := t.queues[at].batches(); have < fewest {
			best, fewest = at, have
		}
		if fewest == 0 {
			break
		}
	}
	return best
}

// ProduceSync writes records and waits until each is acknowledged or has failed. It does not linger. The error joins
// those of all that failed; records that it does not tell of are acknowledged. When ctx ends first, what was handed over
// is still tried, and its outcome is not known.
func (p *Producer) ProduceSync(ctx context.Context, records ...*Record) error {
	var (
		mu   sync.Mutex
		errs []error
		left = len(records)
		done = make(chan struct{})
	)
	settle := func(r *Record, err error) {
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			errs = append(errs, fmt.Errorf("produce to %s: %w", r.Topic, err))
		}
		if left--; left == 0 {
			close(done)
		}
	}
	if left == 0 {
		return nil
	}
	touched := make(map[*queue]struct{}, 1)
	for _, r := range records {
		b, err := p.produce(ctx, r, settle, len(records) == 1)
		if err != nil {
			settle(r, err)
			continue
		}
		touched[b.queue] = struct{}{}
	}
	p.mu.Lock()
	for q := range touched {
		p.sealLocked(q)
		q.sender.notify()
	}
	p.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(errs...)
}

// hurry sends what lingers, and returns all batches whose promises were not told.
func (p *Producer) hurry() []*batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.senders {
		for _, q := range s.active {
			p.sealLocked(q)
		}
		s.notify()
	}
	return slices.Collect(maps.Keys(p.unfinished))
}

// Flush sends all that lingers, and waits until everything that was handed over before is acknowledged or has failed and
// its promises have returned, or ctx ends. A promise must not call it. The error tells how many records failed since the
// last Flush, and wraps the error of the first.
func (p *Producer) Flush(ctx context.Context) error {
	for _, b := range p.hurry() {
		select {
		case <-b.done:
		case <-ctx.Done():
			return fmt.Errorf("flush: %w", ctx.Err())
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	n, first := p.failed, p.failure
	p.failed, p.failure = 0, nil
	if n > 0 {
		return fmt.Errorf("%d records were not delivered, the first: %w", n, first)
	}
	return nil
}

// Close flushes and ends the producer. What is not acknowledged when ctx ends fails with ErrClosed; it may have been
// written. The error is Flush's. Concurrent and later calls wait for the end and return nil.
func (p *Producer) Close(ctx context.Context) error {
	p.mu.Lock()
	first := !p.closed
	p.closed = true
	p.mu.Unlock()
	var err error
	if first {
		err = p.Flush(ctx)
		p.cancel()
	}
	p.wg.Wait()
	return err
}

// BufferedRecords returns how many records wait for their acknowledgement.
func (p *Producer) BufferedRecords() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for b := range p.unfinished {
		n += b.records
	}
	return n
}

package shard

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/hashicorp/raft"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

const (
	// maxEntryBytes is how large an entry gets by coalescing; one request may be larger.
	maxEntryBytes = 256 << 10
	// maxInflightEntries is how many entries wait for their commit at once; meanwhile requests gather for the next one.
	maxInflightEntries = 16
	// enqueueTimeout bounds the wait for a place in Raft's queue.
	enqueueTimeout = 10 * time.Second
)

// request is one Append on its way through the proposer.
type request struct {
	batches []AppendBatch
	counts  []batchCounts  // what the metrics need after the caller took its buffers back
	single  [1]batchCounts // room for the counts of one batch
	bytes   int
	span    trace.Span    // of the append
	began   time.Time     // when the entry was proposed; set where span is recording
	done    chan struct{} // closed when results or err are set
	results []AppendResult
	err     error
}

func (r *request) finish(results []AppendResult, err error) {
	r.results, r.err = results, err
	close(r.done)
}

// batchCounts is what one batch adds to the metrics once it is committed.
type batchCounts struct {
	series  *topicMetrics
	records int32
	payload int64
}

// countBatches returns what the batches add, in counts where that has room for it.
func (m *Metrics) countBatches(counts []batchCounts, batches []AppendBatch) []batchCounts {
	if len(batches) > cap(counts) {
		counts = make([]batchCounts, 0, len(batches))
	}
	var series *topicMetrics
	for i, b := range batches {
		if i == 0 || b.Topic != batches[i-1].Topic {
			series = m.topic(b.Topic)
		}
		counts = append(counts, batchCounts{series, b.Data.NumRecords(), b.PayloadBytes})
	}
	return counts
}

// proposer coalesces the requests that wait into Raft entries, in order, without a delay when nothing is under way.
type proposer struct {
	apply func(data []byte, timeout time.Duration) raft.ApplyFuture
	nowMs func() int64
	// metrics count every batch that was stored, also where its caller has given up.
	metrics *Metrics
	tracer  tracing.Tracer

	mu     sync.Mutex
	queue  []*request
	closed bool
	wake   chan struct{}
}

func newProposer(apply func([]byte, time.Duration) raft.ApplyFuture, nowMs func() int64, m *Metrics, t tracing.Tracer) *proposer {
	return &proposer{apply: apply, nowMs: nowMs, metrics: m, tracer: t, wake: make(chan struct{}, 1)}
}

// begin queues batches. What is begun first is stored first.
func (p *proposer) begin(batches []AppendBatch, span trace.Span) (*request, error) {
	r := &request{span: span, batches: batches, bytes: entrySize(batches), done: make(chan struct{})}
	r.counts = p.metrics.countBatches(r.single[:0], batches)
	return r, p.enqueue(r)
}

// wait returns the results of what was begun. When ctx ends first, the request is withdrawn if it was not proposed yet,
// and nothing was written; afterwards the outcome is unknown.
func (p *proposer) wait(ctx context.Context, r *request) ([]AppendResult, error) {
	select {
	case <-r.done:
		return r.results, r.err
	case <-ctx.Done():
		if p.withdraw(r) {
			return nil, ctx.Err()
		}
	}
	select {
	case <-r.done:
		return r.results, r.err
	default:
		return nil, errors.Join(ErrUnknownOutcome, ctx.Err())
	}
}

func (p *proposer) enqueue(r *request) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return ErrClosed
	}
	p.queue = append(p.queue, r)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return nil
}

func (p *proposer) withdraw(r *request) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.queue, r)
	if i < 0 {
		return false
	}
	p.queue = slices.Delete(p.queue, i, i+1)
	return true
}

// take encodes the requests that make the next entry. It copies the batches under the lock, so that a caller that
// gave up never sees its buffer read afterwards.
func (p *proposer) take() (data []byte, reqs []*request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n, bytes := 0, 0
	for n < len(p.queue) && (n == 0 || bytes+p.queue[n].bytes <= maxEntryBytes) {
		bytes += p.queue[n].bytes
		n++
	}
	if n == 0 {
		return nil, nil
	}
	reqs = p.queue[:n:n]
	p.queue = p.queue[n:]
	data = appendHeader(make([]byte, 0, entryHeaderBytes+bytes), kindAppend, p.nowMs())
	for _, r := range reqs {
		for _, b := range r.batches {
			data = appendAppendItem(data, b)
		}
	}
	return data, reqs
}

// proposed is an entry whose commit is waited for.
type proposed struct {
	future raft.ApplyFuture
	reqs   []*request
}

// run proposes until ctx ends; then it refuses what waits, and returns once all that was proposed has its outcome.
func (p *proposer) run(ctx context.Context) {
	inflight := make(chan proposed, maxInflightEntries)
	var wg sync.WaitGroup
	wg.Go(func() {
		for e := range inflight {
			p.traceCommit(e)
			e.complete()
		}
	})
	defer wg.Wait()
	defer close(inflight)
	for {
		select {
		case <-ctx.Done():
			p.shut()
			return
		case <-p.wake:
		}
		for data, reqs := p.take(); reqs != nil; data, reqs = p.take() {
			p.mark(reqs)
			inflight <- proposed{p.apply(data, enqueueTimeout), reqs}
		}
	}
}

// mark notes when requests are proposed whose trace is wanted.
func (p *proposer) mark(reqs []*request) {
	for _, r := range reqs {
		if r.span.IsRecording() {
			r.began = time.Now()
		}
	}
}

// traceCommit waits for the entry's outcome, and makes the spans of the wait: of every request, since each is in a trace of
// its own.
func (p *proposer) traceCommit(e proposed) {
	err := e.future.Error()
	for _, r := range e.reqs {
		if !r.span.IsRecording() {
			continue
		}
		_, span := p.tracer.Child(trace.ContextWithSpan(context.Background(), r.span), "raft commit", trace.WithTimestamp(r.began))
		if err == nil {
			tellCommit(time.Since(r.began), r.span.SpanContext())
			span.SetAttributes(attribute.Int64("streamhouse.raft.index", int64(e.future.Index())), //nolint:gosec // below 2^63
				attribute.Int("streamhouse.raft.entry_requests", len(e.reqs)))
		}
		tracing.End(span, err)
	}
}

// tellCommit gives Raft's own histogram of commits an exemplar.
func tellCommit(took time.Duration, sc trace.SpanContext) {
	metrics.AddSampleWithLabels([]string{tracing.CommitKey}, float32(took.Seconds()),
		[]metrics.Label{{Name: tracing.TraceLabel, Value: sc.TraceID().String()}})
}

func (p *proposer) shut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, r := range p.queue {
		r.finish(nil, ErrClosed)
	}
	p.queue = nil
}

// complete waits for the entry's outcome and gives every request its part.
func (e proposed) complete() {
	if err := e.future.Error(); err != nil {
		err = proposeError(err)
		for _, r := range e.reqs {
			r.finish(nil, err)
		}
		return
	}
	res, _ := e.future.Response().(applied)
	at := 0
	for _, r := range e.reqs {
		if res.err != nil || at+len(r.batches) > len(res.results) {
			r.finish(nil, errors.Join(ErrUnknownOutcome, res.err))
			continue
		}
		results := res.results[at : at+len(r.batches)]
		for i, c := range r.counts {
			if results[i].Reason == reasonNone && !results[i].Duplicate {
				c.committed()
			}
		}
		r.finish(results, nil)
		at += len(r.batches)
	}
}

// proposeError tells what was surely not appended from what may have been.
func proposeError(err error) error {
	if replica.NotAppended(err) {
		return &NotLeaderError{}
	}
	return errors.Join(ErrUnknownOutcome, err)
}

package broker

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

const (
	// streamWindow is how many requests of one stream may be unanswered.
	streamWindow = 1024
	// DefaultDeadline is for calls that bring none, and for each request of a stream.
	DefaultDeadline = 30 * time.Second
)

// StreamResult is the result of one request of a stream.
type StreamResult struct {
	ID      uint64
	Topic   string
	Batches []*streamhousev1.WrittenBatch
	// Err is set when the request failed. Then Batches is empty.
	Err error
}

// ProduceStream is the client's side of a stream of writes.
type ProduceStream interface {
	// Recv returns the next request, io.EOF after the last one. A request that was refused comes with refused set and is
	// answered with it, in its turn. release is called once the request is answered.
	Recv() (req *streamhousev1.ProduceStreamRequest, release func(), refused error, err error)
	// Send sends a result. It is called from one goroutine, not the one that calls Recv.
	Send(StreamResult) error
}

// streamWrite is a request of a stream on its way.
type streamWrite struct {
	id      uint64
	topic   string
	write   *write
	span    trace.Span // nil where the request is not traced
	err     error
	waits   sync.WaitGroup // shards that have not answered
	release func()
}

func (w *streamWrite) result() StreamResult {
	r := StreamResult{ID: w.id, Topic: w.topic, Err: w.err}
	if w.write != nil && w.err == nil {
		r.Batches, r.Err = outcome(w.write.pieces)
	}
	return r
}

// ProduceStream writes what comes in, many requests at a time, and sends the results in the order of the requests. What
// one producer sends to a partition under one epoch, or what is sent without producer ids, is stored in the order in which
// it came, also across retries: see lane.
func (b *Broker) ProduceStream(ctx context.Context, s ProduceStream) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p := &pipeline{b: b, traced: b.tracer.On() || trace.SpanContextFromContext(ctx).IsValid(), lanes: make(map[uint32]*lane), results: make(chan *streamWrite, streamWindow)}
	sent := make(chan error, 1)
	go func() { // joined below
		err := p.respond(ctx, s)
		cancel()
		sent <- err
	}()
	err := p.receive(ctx, s)
	close(p.results)
	sendErr := <-sent
	p.close()
	if sendErr != nil {
		return sendErr
	}
	return err
}

// pipeline carries one stream's writes.
type pipeline struct {
	b       *Broker
	lanes   map[uint32]*lane  // used by receive only
	results chan *streamWrite // in the order of the requests
	wg      sync.WaitGroup    // the lanes' goroutines
	traced  bool              // requests may be traced that name no trace
}

// receive takes requests until the client has no more, or ctx ends.
func (p *pipeline) receive(ctx context.Context, s ProduceStream) error {
	for {
		req, release, refused, err := s.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		w := &streamWrite{id: req.GetId(), err: refused, release: release}
		p.begin(ctx, w, req)
		select {
		case p.results <- w:
		case <-ctx.Done():
			w.waits.Wait()
			w.done()
			return ctx.Err()
		}
	}
}

// begin plans a write and hands its pieces to the shards' lanes.
func (p *pipeline) begin(ctx context.Context, w *streamWrite, req *streamhousev1.ProduceStreamRequest) {
	w.topic = max(req.GetBatch().GetTopic(), req.GetRecordBatches().GetTopic()) // one of them is empty
	if w.err != nil {
		return
	}
	planCtx := p.trace(ctx, w, req)
	planCtx, cancel := context.WithTimeout(planCtx, DefaultDeadline)
	defer cancel()
	switch kind := req.GetWrite().(type) {
	case *streamhousev1.ProduceStreamRequest_Batch:
		w.write, w.err = p.b.planBatch(planCtx, kind.Batch)
	case *streamhousev1.ProduceStreamRequest_RecordBatches:
		w.write, w.err = p.b.planRaw(planCtx, kind.RecordBatches)
	default:
		w.err = InvalidField("write", "it must be set")
	}
	if w.err != nil {
		return
	}
	byShard := make(map[uint32][]*piece, 1)
	for _, piece := range w.write.pieces {
		byShard[piece.shard] = append(byShard[piece.shard], piece)
	}
	w.waits.Add(len(byShard))
	for shard, pieces := range byShard {
		p.lane(ctx, shard).push(newLaneItem(w, pieces))
	}
}

// trace gives a request of a stream its span: below the one that the request names, or the one that the stream has come
// with. It returns ctx with it.
func (p *pipeline) trace(ctx context.Context, w *streamWrite, req *streamhousev1.ProduceStreamRequest) context.Context {
	parent := req.GetTraceparent()
	if parent == "" && !p.traced {
		return ctx
	}
	if parent != "" {
		ctx = tracing.WithRemote(ctx, parent, req.GetTracestate())
	}
	traced, span := p.b.tracer.Request(ctx, "ProduceStream request", trace.SpanKindServer)
	if !span.IsRecording() && !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx // nobody will ask for it
	}
	w.span = span
	return traced
}

// written tells of a request that has its outcome, in its span and for debugging.
func (b *Broker) written(ctx context.Context, w *streamWrite, r StreamResult) {
	if w.span != nil {
		ctx = trace.ContextWithSpan(ctx, w.span)
		if w.write != nil && w.span.IsRecording() { // else a client may have named anything: a queued span would hold it
			w.span.SetAttributes(attribute.String("messaging.destination.name", r.Topic), attribute.Int("streamhouse.batches", len(r.Batches)))
		}
		if r.Err != nil {
			w.span.SetStatus(codes.Error, r.Err.Error())
		}
	}
	if !b.log.Enabled(ctx, slog.LevelDebug) {
		return
	}
	attrs := append(make([]slog.Attr, 0, 5), slog.String("topic", r.Topic)) //nolint:prealloc // as many as there may be
	if len(r.Batches) > 0 {
		first := r.Batches[0]
		attrs = append(attrs, slog.Int("partition", int(first.GetPartition())), slog.Int64("offset", first.GetBaseOffset()),
			slog.Int("records", int(first.GetRecords())), slog.Bool("forwarded", first.GetForwarded()))
	}
	if r.Err != nil {
		attrs = append(attrs, slog.String("error", r.Err.Error()))
	}
	b.log.LogAttrs(ctx, slog.LevelDebug, "request of a stream", attrs...)
}

// respond sends results in order until there are no more. After a failed send it only waits.
func (p *pipeline) respond(ctx context.Context, s ProduceStream) error {
	var failed error
	for w := range p.results {
		w.waits.Wait()
		if failed == nil {
			r := w.result()
			p.b.written(ctx, w, r)
			failed = s.Send(r)
		}
		w.done()
	}
	return failed
}

// done gives back what the write holds.
func (w *streamWrite) done() {
	if w.span != nil {
		w.span.End()
	}
	if w.write != nil {
		w.write.release()
	}
	if w.release != nil {
		w.release()
	}
}

// lane returns the lane of a shard, which it starts where there is none.
func (p *pipeline) lane(ctx context.Context, shard uint32) *lane {
	l := p.lanes[shard]
	if l == nil {
		l = &lane{b: p.b, shard: shard, wake: make(chan struct{}, 1)}
		p.lanes[shard] = l
		p.wg.Go(func() { l.run(ctx) })
	}
	return l
}

// close ends the lanes and waits for them. Nothing waits in them any more.
func (p *pipeline) close() {
	for _, l := range p.lanes {
		close(l.wake)
	}
	p.wg.Wait()
}

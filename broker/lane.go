package broker

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/broker/shard"
)

const (
	// groupBytes is how much of a stream is appended in one request to a shard.
	groupBytes = 256 << 10
	// minGroupBytes is how much there must be to append while something is under way; less waits until nothing is, or there
	// is more.
	minGroupBytes = groupBytes / 4
	// maxGroups is how many groups of a lane are under way at once. A shard has about as many entries under way.
	maxGroups = 16
)

// lane appends what a stream sends to one shard, in groups.
//
// Groups whose batches all carry a producer id are under way together where this node leads the shard. A producer's
// sequences keep its order in a partition: a batch behind one that was not stored is refused. When a group has to be tried
// again, the lane waits for all that is under way, and then tries again in order, one group at a time, what was not stored.
// Nothing keeps the order of batches without an id but to wait for each group, and so it is with what goes to another node.
type lane struct {
	b     *Broker
	shard uint32
	wake  chan struct{} // has room for one; closed when no more comes

	mu     sync.Mutex
	queue  []laneItem // guarded by mu
	queued int        // bytes in queue; guarded by mu

	underWay []*laneGroup // in order; used by run only
}

// laneItem is the part of a write that goes to one shard.
type laneItem struct {
	write  *streamWrite
	pieces []*piece
	kind   laneKind
	bytes  int
}

// laneKind is what the items of one group have in common.
type laneKind struct {
	durable    bool
	repeatable bool // all pieces carry a producer id
}

func newLaneItem(w *streamWrite, pieces []*piece) laneItem {
	i := laneItem{write: w, pieces: pieces, kind: laneKind{durable: w.write.durable, repeatable: true}}
	for _, p := range pieces {
		i.bytes += len(p.batch.Data)
		i.kind.repeatable = i.kind.repeatable && p.batch.Data.ProducerID() >= 0
	}
	return i
}

func (l *lane) push(i laneItem) {
	l.mu.Lock()
	l.queued += i.bytes
	l.queue = append(l.queue, i)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// laneGroup is what is appended in one request.
type laneGroup struct {
	laneKind
	items    []laneItem
	pieces   []*piece
	deadline time.Time // set when the group is first tried
	// span is of the first item that is traced, nil where none is. What is done for the group is done in its trace; the
	// other items' spans link to it.
	span trace.Span

	// What became of the first try, where the group went with others. done is closed when results or err is set.
	done    chan struct{}
	results []shard.AppendResult
	err     error
}

// next takes the next group from the queue: at most groupBytes unless one item is larger. It returns nil where there is
// none, or where the next one has to wait for what is under way.
func (l *lane) next() *laneGroup {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	g := &laneGroup{laneKind: l.queue[0].kind}
	if len(l.underWay) > 0 && (!g.repeatable || l.queued < minGroupBytes) {
		return nil
	}
	n, bytes := 0, 0
	for _, i := range l.queue {
		if n > 0 && (bytes+i.bytes > groupBytes || i.kind != g.laneKind) {
			break
		}
		n++
		bytes += i.bytes
		g.pieces = append(g.pieces, i.pieces...)
	}
	g.items = l.queue[:n:n]
	g.trace()
	l.queue = l.queue[n:]
	l.queued -= bytes
	return g
}

// trace chooses the span that the group is appended in: a recorded one, else any.
func (g *laneGroup) trace() {
	for _, i := range g.items {
		s := i.write.span
		switch {
		case s == nil:
		case g.span == nil || s.IsRecording() && !g.span.IsRecording():
			g.span = s
		case s.IsRecording():
			s.AddLink(trace.Link{SpanContext: g.span.SpanContext()})
		}
	}
}

// context returns ctx with the group's trace.
func (g *laneGroup) context(ctx context.Context) context.Context {
	if g.span == nil {
		return ctx
	}
	return trace.ContextWithSpan(ctx, g.span)
}

// run appends until the lane is closed, when nothing is left in it. What comes after ctx has ended fails at once.
func (l *lane) run(ctx context.Context) {
	for {
		var oldest chan struct{}
		if len(l.underWay) > 0 {
			oldest = l.underWay[0].done
		}
		select {
		case _, open := <-l.wake:
			if !open {
				return
			}
		case <-oldest:
			l.settle(ctx)
		}
		l.begin(ctx)
	}
}

// begin begins as many groups as may be under way.
func (l *lane) begin(ctx context.Context) {
	for len(l.underWay) < maxGroups {
		g := l.next()
		if g == nil {
			return
		}
		if g.err = ctx.Err(); g.err != nil {
			g.outcomes()
			g.finish()
			continue
		}
		local, leads := l.b.leads(l.shard)
		if g.repeatable && leads {
			g.deadline = time.Now().Add(DefaultDeadline)
			g.begin(ctx, local)
			l.underWay = append(l.underWay, g)
			continue
		}
		l.drain(ctx)
		g.deadline = time.Now().Add(DefaultDeadline)
		l.append(ctx, g, g.pieces, false)
		g.finish()
	}
}

// append appends pieces of a group to the shard, wherever that is led, and gives them their outcomes. unclear says that
// some may have been stored before.
func (l *lane) append(ctx context.Context, g *laneGroup, pieces []*piece, unclear bool) {
	ctx, cancel := context.WithDeadline(g.context(ctx), g.deadline)
	defer cancel()
	l.b.appendShard(ctx, pieces, g.durable, unclear)
}

// begin appends the group to this node's replica, and returns before it has an outcome. One try has all the time there is:
// another one would ask the same replica, and where that leads no more, Raft ends the wait.
func (g *laneGroup) begin(ctx context.Context, local LocalShard) {
	g.done = make(chan struct{})
	batches := make([]shard.AppendBatch, len(g.pieces))
	for i, p := range g.pieces {
		batches[i] = p.batch
	}
	// Of a context it takes the trace alone, which is looked for faster where there is nothing else.
	wait, err := local.BeginAppend(g.context(context.Background()), batches, g.durable) //nolint:contextcheck // see above
	if err != nil {
		g.err = err
		close(g.done)
		return
	}
	go func() { // joined by who receives from done
		defer close(g.done)
		ctx, cancel := context.WithDeadline(ctx, g.deadline)
		defer cancel()
		g.results, g.err = wait(ctx)
	}()
}

// settle takes the outcome of the oldest group, which is done, and where it has to be tried again those of all.
func (l *lane) settle(ctx context.Context) {
	g := l.underWay[0]
	if g.mustRetry() {
		l.drain(ctx)
		return
	}
	l.underWay[0] = nil
	l.underWay = l.underWay[1:]
	g.outcomes()
	g.finish()
}

// drain waits for all that is under way, and gives it its outcome: what has to be tried again is, in order.
func (l *lane) drain(ctx context.Context) {
	for _, g := range l.underWay {
		<-g.done
	}
	retried := false
	for i, g := range l.underWay {
		l.underWay[i] = nil
		gaps := g.outcomes()
		switch {
		case ctx.Err() != nil: // nobody waits for more
		case g.mustRetry():
			retried = true
			l.append(ctx, g, g.pieces, !definite(AsError(g.err).Reason))
		case retried && len(gaps) > 0:
			l.append(ctx, g, gaps, false)
		}
		g.finish()
	}
	l.underWay = l.underWay[:0]
}

// mustRetry reports whether the first try has failed and another one may do better.
func (g *laneGroup) mustRetry() bool {
	return g.err != nil && decide(AsError(g.err).Reason, true) == verdictRetry
}

// outcomes gives the pieces what became of the first try. gaps are those that were refused for want of a batch before
// them: they may be stored when that one was.
func (g *laneGroup) outcomes() (gaps []*piece) {
	for i, p := range g.pieces {
		if g.err != nil {
			p.err = AsError(g.err)
			continue
		}
		p.result = g.results[i]
		if r := p.result.Reason; r == reasonOutOfOrder || r == reasonUnknownProducer {
			gaps = append(gaps, p)
		}
	}
	return gaps
}

// finish tells the group's writes that it has its outcome.
func (g *laneGroup) finish() {
	for _, i := range g.items {
		i.write.waits.Done()
	}
}

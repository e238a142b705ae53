package broker

import (
	"context"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/broker/shard"
)

const (
	// groupBytes is how much of a stream is appended in one request to a shard.
	groupBytes = 256 << 10
	// minGroupBytes is how much there must be to append while something is under way; less waits for it, and for more.
	minGroupBytes = groupBytes / 4
	// maxGroups is how many groups of a lane are under way at once, as many as a shard proposes.
	maxGroups = 16
)

// lane appends what a stream sends to one shard, in groups.
//
// Groups whose batches all carry a producer id are under way together where this node leads the shard. Sequences keep
// their order: a batch behind one that was not stored is refused. When a group has to be tried again, the lane waits for
// all that is under way, and then tries again in order, one group at a time, what was not stored. Nothing keeps the order
// of batches without an id but to wait for each group, and so it is with what goes to another node.
type lane struct {
	b     *Broker
	shard uint32
	wake  chan struct{} // has room for one; closed when no more comes

	mu    sync.Mutex
	queue []laneItem // guarded by mu

	underWay []*laneGroup // in order; used by run only
}

// laneItem is the part of a write that goes to one shard.
type laneItem struct {
	write  *streamWrite
	pieces []*piece
}

func (i laneItem) bytes() int {
	n := 0
	for _, p := range i.pieces {
		n += len(p.batch.Data)
	}
	return n
}

// repeatable reports whether all pieces carry a producer id.
func (i laneItem) repeatable() bool {
	for _, p := range i.pieces {
		if p.batch.Data.ProducerID() < 0 {
			return false
		}
	}
	return true
}

func (l *lane) push(i laneItem) {
	l.mu.Lock()
	l.queue = append(l.queue, i)
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// laneGroup is what is appended in one request: items of one kind.
type laneGroup struct {
	items               []laneItem
	pieces              []*piece
	durable, repeatable bool

	deadline time.Time // set when the group is first tried
	// Set while the group is under way. done is closed when results or err is set; err is why the pieces have no results.
	done    chan struct{}
	results []shard.AppendResult
	err     error
}

// take returns the next group: at most groupBytes unless one item is larger. It returns nil where there is none, or where
// the next one has to wait for what is under way.
func (l *lane) take() *laneGroup {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.queue) == 0 {
		return nil
	}
	first := l.queue[0]
	g := &laneGroup{durable: first.write.write.durable, repeatable: first.repeatable()}
	n, bytes, full := 1, first.bytes(), false
	for _, i := range l.queue[1:] {
		full = bytes+i.bytes() > groupBytes || i.write.write.durable != g.durable || i.repeatable() != g.repeatable
		if full {
			break
		}
		n++
		bytes += i.bytes()
	}
	if len(l.underWay) > 0 && (!g.repeatable || !full && bytes < minGroupBytes) {
		return nil
	}
	g.items = l.queue[:n:n]
	l.queue = l.queue[n:]
	for _, i := range g.items {
		g.pieces = append(g.pieces, i.pieces...)
	}
	return g
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
		g := l.take()
		if g == nil {
			return
		}
		g.deadline = time.Now().Add(DefaultDeadline)
		if local, ok := l.b.leads(l.shard); ok && g.repeatable {
			g.begin(ctx, local)
			l.underWay = append(l.underWay, g)
			continue
		}
		l.drain(ctx)
		l.append(ctx, g, g.pieces, false)
		g.finish()
	}
}

// append appends pieces of a group to the shard, wherever that is led, and gives them their outcomes. unclear says that
// some may have been stored before.
func (l *lane) append(ctx context.Context, g *laneGroup, pieces []*piece, unclear bool) {
	ctx, cancel := context.WithDeadline(ctx, g.deadline)
	defer cancel()
	l.b.appendShard(ctx, pieces, g.durable, unclear)
}

// begin appends the group to this node's replica, and returns before it has an outcome.
func (g *laneGroup) begin(ctx context.Context, local LocalShard) {
	g.done = make(chan struct{})
	batches := make([]shard.AppendBatch, len(g.pieces))
	for i, p := range g.pieces {
		batches[i] = p.batch
	}
	wait, err := local.BeginAppend(batches, g.durable)
	if err != nil {
		g.err = err
		close(g.done)
		return
	}
	go func() { // joined by who receives from done
		ctx, cancel := context.WithTimeout(ctx, attemptTimeout(g.durable))
		defer cancel()
		defer close(g.done)
		g.results, g.err = wait(ctx)
	}()
}

// settle takes the outcome of the oldest group, which is done, and where it has to be tried again those of all.
func (l *lane) settle(ctx context.Context) {
	g := l.underWay[0]
	if g.err != nil && decide(AsError(g.err).Reason, g.repeatable) == verdictRetry {
		l.drain(ctx)
		return
	}
	l.underWay[0] = nil
	l.underWay = l.underWay[1:]
	g.take()
	g.finish()
}

// drain waits for all that is under way, and gives it its outcome: what has to be tried again is, in order.
func (l *lane) drain(ctx context.Context) {
	for _, g := range l.underWay {
		<-g.done
	}
	failed := false // a group before was tried again
	for i, g := range l.underWay {
		l.underWay[i] = nil
		pieces, unclear := g.take(), false
		if g.err != nil {
			e := AsError(g.err)
			if decide(e.Reason, g.repeatable) != verdictRetry {
				pieces = nil
			}
			unclear = !definite(e.Reason)
		} else if !failed {
			pieces = nil // refused on their own account
		}
		if len(pieces) > 0 {
			failed = true
			l.append(ctx, g, pieces, unclear)
		}
		g.finish()
	}
	l.underWay = l.underWay[:0]
}

// take gives the pieces their outcomes, and returns those that may be stored when they are tried again: all when the group
// has failed, else those that were refused for want of a batch before them.
func (g *laneGroup) take() (again []*piece) {
	for i, p := range g.pieces {
		if g.err != nil {
			p.err = AsError(g.err)
			again = append(again, p)
			continue
		}
		p.result = g.results[i]
		if r := p.result.Reason; r == reasonOutOfOrder || r == reasonUnknownProducer {
			again = append(again, p)
		}
	}
	return again
}

// finish tells the group's writes that it has its outcome.
func (g *laneGroup) finish() {
	for _, i := range g.items {
		i.write.waits.Done()
	}
}

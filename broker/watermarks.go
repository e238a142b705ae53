package broker

import (
	"context"
	"sync"
	"time"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// markAge is how old a remembered high watermark may be where it is told beside what was read from the history.
	markAge = time.Second
	// markTimeout bounds the question for it.
	markTimeout = 500 * time.Millisecond
	// leaderPatience bounds how long a read looks for a leader where the caller sets no bound, as in a stream. It outlasts
	// an election.
	leaderPatience = 5 * time.Second
)

// watermarks remembers the high watermarks that this node was told, and has told: it never tells a smaller one again.
type watermarks struct {
	mu    sync.Mutex
	marks map[uint64]mark // guarded by mu
}

// mark is a high watermark and when it was asked for last.
type mark struct {
	value int64
	at    time.Time
}

func newWatermarks() *watermarks { return &watermarks{marks: make(map[uint64]mark)} }

func (w *watermarks) get(partitionID uint64) (value int64, fresh bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.marks[partitionID]
	return m.value, time.Since(m.at) < markAge
}

// note remembers what the leader said; a high watermark never goes back.
func (w *watermarks) note(partitionID uint64, value int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marks[partitionID] = mark{value: max(value, w.marks[partitionID].value), at: time.Now()}
}

// told returns the largest high watermark that was told of a partition, this one counted, and remembers it. What was read
// from the leader is ahead of a replica here that is slow.
func (w *watermarks) told(partitionID uint64, value int64) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := w.marks[partitionID]
	if value > m.value {
		m.value = value
		w.marks[partitionID] = m
	}
	return m.value
}

// sync forgets partitions that are not in the newest view. It takes it under the lock: an older one lacks some that were
// told meanwhile.
func (w *watermarks) sync(newest func() *fsm.View) {
	w.mu.Lock()
	defer w.mu.Unlock()
	view := newest()
	for id := range w.marks {
		if _, ok := view.Partition(id); !ok {
			delete(w.marks, id)
		}
	}
}

// searchTime bounds the search for a leader by the caller's deadline, or else by leaderPatience.
func searchTime(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, leaderPatience)
}

// leaderMark asks the shard's leader for a partition's high watermark, which includes all that was acknowledged before
// the call.
func (b *Broker) leaderMark(ctx context.Context, p *fsm.Partition) (int64, error) {
	ctx, cancel := searchTime(ctx)
	defer cancel()
	var value int64
	call := leaderCall{shard: p.Shard, repeatable: true, read: true, attemptTimeout: askTimeout}
	err := b.onLeader(ctx, call, func(ctx context.Context, t target) error {
		if t.local != nil {
			var err error
			value, err = t.local.LeaderHighWatermark(p.ID)
			return err
		}
		res, err := ask(ctx, b, &nodev1.GetHighWatermarkRequest{Shard: p.Shard, PartitionId: p.ID}, t.client.GetHighWatermark)
		value = res.GetHighWatermark()
		return err
	})
	if err != nil {
		return 0, notFound(err, p.Shard)
	}
	return value, nil
}

// notFound turns what a read could not find out into NO_LEADER: nothing is unknown about a read.
func notFound(err error, shard uint32) error {
	e := AsError(err)
	switch e.Reason {
	case reasonOutcomeUnknown, reasonDeadline:
		out := noLeader(shard)
		out.Cause = err
		return out
	default:
		return e
	}
}

// knownMark returns the best high watermark that is known without insisting: applied here, or asked for lately, or what
// is in the object store.
func (b *Broker) knownMark(ctx context.Context, p *fsm.Partition) int64 {
	if local, ok := b.cfg.Shards.Local(p.Shard); ok {
		return max(local.HighWatermark(p.ID), p.UploadedEnd)
	}
	value, fresh := b.marks.get(p.ID)
	if !fresh {
		ctx, cancel := context.WithTimeout(ctx, markTimeout)
		defer cancel()
		if asked, err := b.leaderMark(ctx, p); err == nil {
			value = asked
		}
		b.marks.note(p.ID, value)
	}
	return max(value, p.UploadedEnd)
}

// askedMark returns the leader's high watermark, or the best that is known where it does not answer soon.
func (b *Broker) askedMark(ctx context.Context, p *fsm.Partition) int64 {
	asking, cancel := context.WithTimeout(ctx, markTimeout)
	defer cancel()
	if value, err := b.leaderMark(asking, p); err == nil {
		return value
	}
	return b.knownMark(ctx, p)
}

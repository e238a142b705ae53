package metadata

import (
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/raft"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

// rounds shares one question to the leader among all who wait: a caller joins
// the round that has not begun yet, never one in progress, since that one may
// have asked before the caller came.
type rounds struct {
	wake chan struct{} // has room for one: there is a next round

	mu   sync.Mutex
	next *round // guarded by mu; nil when nobody waits
}

type round struct {
	done  chan struct{}
	index uint64 // valid once done is closed
	err   error  // likewise
}

// join returns the round that has not begun yet.
func (rs *rounds) join() *round {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.next == nil {
		rs.next = &round{done: make(chan struct{})}
		select {
		case rs.wake <- struct{}{}:
		default: // It is awake already.
		}
	}
	return rs.next
}

// take begins the next round, nil when nobody waits.
func (rs *rounds) take() *round {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r := rs.next
	rs.next = nil
	return r
}

// Barrier returns once View has all that was committed before the call, on any
// node. It retries until ctx ends.
func (g *Group) Barrier(ctx context.Context) error {
	return g.retry(ctx, func(attempt context.Context) error {
		r := g.rounds.join()
		select {
		case <-r.done:
		case <-attempt.Done():
			return fmt.Errorf("%w: %w", ErrNoLeader, attempt.Err())
		}
		if r.err != nil {
			return r.err
		}
		if err := g.WaitApplied(attempt, r.index); err != nil {
			return fmt.Errorf("%w: barrier not applied: %w", ErrNoLeader, err)
		}
		return nil
	})
}

func (g *Group) runRounds(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.rounds.wake:
		}
		r := g.rounds.take()
		if r == nil {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		r.index, r.err = g.readIndexOnce(attempt)
		cancel()
		close(r.done)
	}
}

// readIndexOnce asks the leader that is known now. A read changes nothing, so
// every failure counts as not written.
func (g *Group) readIndexOnce(ctx context.Context) (uint64, error) {
	if g.IsLeader() {
		index, err := g.ReadIndexLocal(ctx)
		if err != nil {
			return 0, fmt.Errorf("%w: %w", ErrNoLeader, err)
		}
		return index, nil
	}
	client, err := g.leaderClient()
	if err != nil {
		return 0, err
	}
	resp, err := client.ReadMetadataIndex(ctx, &nodev1.ReadMetadataIndexRequest{})
	if err != nil {
		return 0, fmt.Errorf("%w: read index on the metadata leader: %w", ErrNoLeader, err)
	}
	return resp.GetIndex(), nil
}

// ReadIndexLocal returns an index that covers all commands committed before the
// call; this replica must lead, else the error is ErrNotLeader. It has applied
// its own barrier of this term, and a majority still follows it after the index
// was read.
func (g *Group) ReadIndexLocal(ctx context.Context) (uint64, error) {
	term, err := g.ensureBarrier(ctx)
	if err != nil {
		return 0, err
	}
	index := g.View().Index()
	if err := g.await(ctx, func(rf *raft.Raft) raft.Future { return rf.VerifyLeader() }); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	if g.replica.Raft().CurrentTerm() != term {
		return 0, fmt.Errorf("%w: the term changed", ErrNotLeader)
	}
	return index, nil
}

// ensureBarrier makes sure that this leader has applied all that earlier leaders
// committed, and returns its term. Raft's barrier ends when the FSM has applied
// everything before it.
func (g *Group) ensureBarrier(ctx context.Context) (uint64, error) {
	r := g.replica.Raft()
	term := r.CurrentTerm()
	if !g.IsLeader() {
		return 0, ErrNotLeader
	}
	g.leaderMu.Lock()
	done := g.barrierTerm == term
	g.leaderMu.Unlock()
	if done {
		return term, nil
	}
	if err := g.await(ctx, func(rf *raft.Raft) raft.Future { return rf.Barrier(enqueueTimeout) }); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotLeader, err)
	}
	g.leaderMu.Lock()
	defer g.leaderMu.Unlock()
	g.barrierTerm = max(g.barrierTerm, term)
	return term, nil
}

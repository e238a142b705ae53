package metadata

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sync/errgroup"

	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

// leaderSilence is how long a follower may hear nothing from its leader before
// it stops being ready, whatever Raft still thinks.
const leaderSilence = 4 * time.Second

// Group is this node's replica of the metadata group. Its methods are safe for
// concurrent use. Barrier works only while Run runs.
type Group struct {
	cfg     Config
	fsm     *adapter
	replica *replica.Replica

	rounds   rounds
	caughtUp atomic.Bool // what was committed at start is applied

	leaderMu    sync.Mutex
	barrierTerm uint64 // guarded by leaderMu; term whose own barrier this leader has applied

	closeOnce sync.Once
	closed    chan struct{}
	closeErr  error
}

// Open verifies the replica's files and starts it. The error is what
// replica.Open says when they are missing or corrupt.
func Open(cfg Config) (*Group, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	g := &Group{cfg: cfg, fsm: newAdapter(cfg.Fatal), closed: make(chan struct{})}
	g.rounds.wake = make(chan struct{}, 1)
	rc := cfg.Replica
	rc.FSM = g.fsm
	rc.Fatal = cfg.Fatal
	r, err := replica.Open(rc)
	if err != nil {
		return nil, fmt.Errorf("open metadata replica %s: %w", rc.ID, err)
	}
	g.replica = r
	return g, nil
}

// Run does what goes on behind the calls until ctx ends, then returns nil:
// rounds of Barrier, the leader's own barrier, checkpoints.
func (g *Group) Run(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { g.runRounds(ctx); return nil })
	eg.Go(func() error { g.runCatchUp(ctx); return nil })
	eg.Go(func() error { g.runLeadership(ctx); return nil })
	eg.Go(func() error { g.runCheckpoints(ctx); return nil })
	return eg.Wait()
}

// Close stops the replica and closes its files. It is idempotent; concurrent
// callers wait for the first and get its error.
func (g *Group) Close() error {
	g.closeOnce.Do(func() {
		close(g.closed)
		g.closeErr = g.replica.Close()
	})
	return g.closeErr
}

// Replica returns the Raft replica, for membership and leadership.
func (g *Group) Replica() *replica.Replica { return g.replica }

// View returns the state as applied here. It never changes.
func (g *Group) View() *fsm.View { return g.fsm.view.Load() }

// Watch returns a channel that is closed when View changes after the call.
func (g *Group) Watch() <-chan struct{} { return g.fsm.watch() }

// WaitApplied waits until the command at index, and all before it, are in View.
// The index comes from Propose, ProposeLocal or ReadIndexLocal.
func (g *Group) WaitApplied(ctx context.Context, index uint64) error {
	for {
		changed := g.fsm.watch()
		if g.View().Index() >= index {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		case <-g.closed:
			return ErrClosed
		}
	}
}

// Leader returns the node that leads the metadata group, as far as this one knows.
func (g *Group) Leader() (nodeID string, ok bool) {
	id, ok := g.replica.Leader()
	if !ok {
		return "", false
	}
	return fsm.NodeOf(id), true
}

// IsLeader reports whether this replica leads, as far as it knows.
func (g *Group) IsLeader() bool { return g.replica.IsLeader() }

// Ready returns nil when this node knows a leader that it heard from lately and
// has applied what was committed when it started; else the reason. It does not block.
func (g *Group) Ready() error {
	if _, ok := g.Leader(); !ok {
		return ErrNoLeader
	}
	r := g.replica.Raft()
	if r.State() != raft.Leader && time.Since(r.LastContact()) > leaderSilence {
		return fmt.Errorf("%w: it was not heard for %s", ErrNoLeader, leaderSilence)
	}
	if !g.caughtUp.Load() {
		return errors.New("the metadata that was committed before this node started is not applied yet")
	}
	return nil
}

// CaughtUp reports whether what was committed when this node started is applied.
func (g *Group) CaughtUp() bool { return g.caughtUp.Load() }

// runCatchUp passes one barrier, which is what makes the node ready for the first time.
func (g *Group) runCatchUp(ctx context.Context) {
	if err := g.Barrier(ctx); err == nil {
		g.caughtUp.Store(true)
	}
}

// runLeadership lets a new leader pass its own barrier at once, so that reads need not wait for it.
func (g *Group) runLeadership(ctx context.Context) {
	ch := make(chan raft.Observation, 1)
	obs := raft.NewObserver(ch, false, func(o *raft.Observation) bool {
		_, ok := o.Data.(raft.LeaderObservation)
		return ok
	})
	g.replica.Raft().RegisterObserver(obs)
	defer g.replica.Raft().DeregisterObserver(obs)
	for {
		if g.IsLeader() {
			if _, err := g.ensureBarrier(ctx); err != nil {
				g.cfg.Logger.Debug("leader's own barrier failed", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ch:
		}
	}
}

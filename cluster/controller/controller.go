package controller

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
)

const (
	// followerTick is how often a node looks whether it leads the metadata group.
	followerTick = 250 * time.Millisecond
	// workTick is the time between two looks while something is under way.
	workTick = 250 * time.Millisecond
	// idleTick is the time between two looks while nothing is.
	idleTick = 2 * time.Second
	// idlePerGroup bounds the questions of a large and idle cluster.
	idlePerGroup = 20 * time.Millisecond
	// settleDelay keeps the looks apart that follow one another at once.
	settleDelay = 10 * time.Millisecond
	// barrierTimeout bounds the wait for the newest metadata.
	barrierTimeout = 3 * time.Second
)

// Controller reconciles the cluster while its node leads the metadata group.
type Controller struct {
	cfg      Config
	metrics  *metrics
	observer *observer
	backoff  backoff
	janitor  *janitor
	trimmed  uint64 // partition id; see retain
}

// New returns a controller; Run starts it.
func New(cfg Config) *Controller {
	cfg.setDefaults()
	c := &Controller{cfg: cfg, metrics: newMetrics(cfg.Registerer)}
	c.observer = newObserver(&c.cfg)
	c.backoff = backoff{now: cfg.Now, failed: make(map[string]failure)}
	c.janitor = newJanitor(&c.cfg, c.metrics)
	return c
}

// Run reconciles until ctx ends, then returns nil. Its goroutines have ended then.
func (c *Controller) Run(ctx context.Context) error {
	if err := c.cfg.Validate(); err != nil {
		return err
	}
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error { c.reconcile(ctx); return nil })
	eg.Go(func() error { c.every(ctx, c.cfg.RetentionInterval, c.retain); return nil })
	eg.Go(func() error { c.every(ctx, c.cfg.JanitorInterval, c.janitor.round); return nil })
	return eg.Wait()
}

// every calls f at an interval, while this node leads the metadata group.
func (c *Controller) every(ctx context.Context, interval time.Duration, f func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if c.cfg.Metadata.IsLeader() {
			f(ctx)
		}
	}
}

// reconcile looks, plans and acts until ctx ends.
func (c *Controller) reconcile(ctx context.Context) {
	led := false
	for ctx.Err() == nil {
		gossiped := c.cfg.Gossip.Changed()
		leads := c.cfg.Metadata.IsLeader()
		if leads && !led {
			c.observer.forget()
		}
		led = leads
		if !leads {
			_ = pause.For(ctx, followerTick) // the loop looks at ctx
			continue
		}
		view, wait := c.pass(ctx)
		c.pause(ctx, view, gossiped, wait)
	}
}

// pass takes one round of steps and returns the view that it was planned on, and
// how long nothing needs to be looked at if nothing changes.
func (c *Controller) pass(ctx context.Context) (*fsm.View, time.Duration) {
	barrier, cancel := context.WithTimeout(ctx, barrierTimeout)
	err := c.cfg.Metadata.Barrier(barrier)
	cancel()
	if err != nil {
		return c.cfg.Metadata.View(), workTick
	}
	view := c.cfg.Metadata.View()
	o := c.observer.look(ctx, view)
	p := newPlanner(view, o)
	if c.act(ctx, p.plan()) {
		return view, settleDelay
	}
	if p.waiting() {
		return view, workTick
	}
	return view, max(idleTick, time.Duration(len(o.Groups))*idlePerGroup)
}

// pause waits until the wish, the nodes or the members of the gossip change, and
// at most for d. Other changes of the metadata, such as uploads, wake nobody.
func (c *Controller) pause(ctx context.Context, seen *fsm.View, gossiped <-chan struct{}, d time.Duration) {
	if pause.For(ctx, settleDelay) != nil {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	for {
		changed := c.cfg.Metadata.Watch()
		if !c.cfg.Metadata.View().SamePlacement(seen) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-gossiped:
			return
		case <-changed:
		}
		// Let a busy metadata group wake this loop only so often.
		if pause.For(ctx, settleDelay) != nil {
			return
		}
	}
}

package controller

import (
	"context"
	"fmt"
	"sync"
	"time"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// actTimeout bounds one step.
	actTimeout = 10 * time.Second
	// maxActing is how many steps are taken at once.
	maxActing = 8
	// transferGap is how many entries a replica may be behind that is to lead; Raft
	// stops all writes until it has them.
	transferGap = 256

	minBackoff = 250 * time.Millisecond
	maxBackoff = 10 * time.Second
)

type failure struct {
	delay time.Duration
	until time.Time
}

// backoff keeps a step that fails from being tried at once again.
type backoff struct {
	now    func() time.Time
	failed map[string]failure
}

func (b *backoff) ready(key string) bool { return !b.now().Before(b.failed[key].until) }

func (b *backoff) note(key string, err error) {
	if err == nil {
		delete(b.failed, key)
		return
	}
	delay := min(max(2*b.failed[key].delay, minBackoff), maxBackoff)
	b.failed[key] = failure{delay: delay, until: b.now().Add(delay)}
}

// expire forgets what failed long ago.
func (b *backoff) expire() {
	for key, f := range b.failed {
		if b.now().Sub(f.until) > maxBackoff {
			delete(b.failed, key)
		}
	}
}

// key of a step, without ids that are minted anew each time.
func key(a Action) string {
	if p, ok := a.(*Propose); ok {
		return fmt.Sprintf("%T %d %d %s", p.Command.GetCommand(), p.Command.GetCreateShard().GetShard(),
			p.Command.GetSetShardReplicas().GetShard(), p.Command.GetRemoveNode().GetNodeId())
	}
	return a.String()
}

// act takes the steps and reports whether one was taken.
func (c *Controller) act(ctx context.Context, actions []Action) bool {
	c.backoff.expire()
	var mu sync.Mutex // guards taken, the backoff and the observer
	var wg sync.WaitGroup
	taken := false
	slots := make(chan struct{}, maxActing)
	for _, a := range actions {
		mu.Lock()
		ready := c.backoff.ready(key(a))
		mu.Unlock()
		if !ready {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			err := c.do(ctx, a)
			mu.Lock()
			defer mu.Unlock()
			taken = taken || err == nil
			c.backoff.note(key(a), err)
			if t, ok := a.(*Transfer); ok && t.Spread {
				c.observer.hold(t.Group)
			}
			c.note(ctx, a, err)
		})
	}
	wg.Wait()
	return taken
}

func (c *Controller) note(ctx context.Context, a Action, err error) {
	c.metrics.actions.WithLabelValues(a.kind()).Inc()
	if err == nil {
		c.cfg.Logger.Info("step taken", "step", a.String())
		return
	}
	c.metrics.failures.WithLabelValues(a.kind()).Inc()
	if ctx.Err() == nil {
		c.cfg.Logger.Warn("step failed, it is tried again", "step", a.String(), "error", err)
	}
}

func (c *Controller) do(ctx context.Context, a Action) error {
	ctx, cancel := context.WithTimeout(ctx, actTimeout)
	defer cancel()
	switch a := a.(type) {
	case *Propose:
		_, err := c.cfg.Metadata.Propose(ctx, a.Command)
		return err
	case *ChangeMembership:
		client, err := c.cfg.Peers.Client(fsm.NodeOf(a.Leader))
		if err != nil {
			return err
		}
		_, err = client.ChangeMembership(ctx, &nodev1.ChangeMembershipRequest{
			Group: a.Group.proto(), Change: a.Change, ReplicaId: a.ReplicaID, NodeId: fsm.NodeOf(a.ReplicaID), PreviousIndex: a.Index,
		})
		return err
	case *Transfer:
		return c.transfer(ctx, a)
	default:
		return fmt.Errorf("unknown step %T", a)
	}
}

// transfer hands over if the next leader has nearly all entries.
func (c *Controller) transfer(ctx context.Context, a *Transfer) error {
	leader := c.observer.ask(ctx, a.Group, fsm.NodeOf(a.Leader))
	next := c.observer.ask(ctx, a.Group, fsm.NodeOf(a.To))
	if leader == nil || next.GetReplicaId() != a.To || next.GetLastIndex()+transferGap < leader.GetLastIndex() {
		return fmt.Errorf("replica %s is not ready to lead", a.To)
	}
	client, err := c.cfg.Peers.Client(fsm.NodeOf(a.Leader))
	if err != nil {
		return err
	}
	_, err = client.TransferLeadership(ctx, &nodev1.TransferLeadershipRequest{Group: a.Group.proto(), ReplicaId: a.To})
	return err
}

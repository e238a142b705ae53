package client

import (
	"context"
	"errors"
	"slices"

	"github.com/streamhouse/streamhouse/internal/pause"
)

// pendingLocked reports whether there is a rebalance for Poll.
func (r *Consumer) pendingLocked() bool {
	m := r.member
	if len(m.lost) > 0 || len(m.assigned) != len(r.partitions) {
		return true
	}
	for tp, id := range m.assigned {
		if p := r.partitions[tp]; p == nil || p.isAnother(id) {
			return true
		}
	}
	return false
}

// rebalance does what the group has decided: it tells of what was lost, gives up what is to be given up once its positions
// are committed, and takes what was assigned.
func (r *Consumer) rebalance(ctx context.Context) error {
	r.mu.Lock()
	closed := r.closed
	if r.member == nil || closed {
		r.mu.Unlock()
		if closed {
			return ErrClosed
		}
		return nil
	}
	m := r.member
	r.expiredLocked()
	lost, overslept := m.lost, m.overslept
	m.lost, m.told = nil, overslept
	r.mu.Unlock()
	r.callback(ctx, r.cfg.OnLost, lost)
	if overslept {
		return ErrMaxPollInterval
	}
	r.giveUp(ctx)
	r.takeOver(ctx)
	return nil
}

// handover is the commit of positions before partitions are given up. It goes on between two Polls, however short they
// are.
type handover struct {
	parts []*partition
	done  chan struct{} // closed once the commit has succeeded, or was refused
}

func (h *handover) covers(parts []*partition) bool {
	return h != nil && !slices.ContainsFunc(parts, func(p *partition) bool { return !slices.Contains(h.parts, p) })
}

// giveUp gives up what is not assigned any more, when its positions are committed. Until then nothing is returned of it,
// and a later call looks again.
func (r *Consumer) giveUp(ctx context.Context) {
	revoked, ready := r.revoke() //nolint:contextcheck // the commit outlives the Poll
	if len(revoked) == 0 || !ready {
		return
	}
	r.callback(ctx, r.cfg.OnRevoked, names(revoked))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range revoked {
		if r.partitions[p.TopicPartition] == p { // not lost meanwhile
			r.removeLocked(p)
		}
	}
	r.member.handover = nil
	r.member.notify()
}

// revoke returns what is not assigned any more, and whether it may be given up now. It begins the commit before that.
func (r *Consumer) revoke() (revoked []*partition, ready bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.member
	for tp, p := range r.partitions {
		id, assigned := m.assigned[tp]
		was := p.revoked
		p.revoked = !assigned || p.isAnother(id)
		switch {
		case p.revoked:
			revoked = append(revoked, p)
		case was: // it is assigned again
			p.notify()
		}
	}
	if len(revoked) == 0 {
		m.handover = nil
		return nil, true
	}
	if r.cfg.ManualCommit {
		return revoked, true
	}
	if !m.handover.covers(revoked) {
		h := &handover{parts: revoked, done: make(chan struct{})}
		m.handover = h
		r.wg.Go(func() { r.commitBefore(h) })
	}
	select {
	case <-m.handover.done:
		return revoked, true
	default:
		return revoked, false
	}
}

// commitBefore commits what is processed until that has succeeded or was refused, or the consumer ends.
func (r *Consumer) commitBefore(h *handover) {
	defer r.notify()
	defer close(h.done)
	for tries := 0; r.ctx.Err() == nil; tries++ {
		ctx, cancel := context.WithTimeout(r.ctx, r.c.cfg.RequestTimeout)
		err := r.commitProcessed(ctx)
		cancel()
		if err == nil {
			return
		}
		r.c.cfg.Logger.Warn("offsets are not committed before partitions are given up", "group", r.cfg.Group, "err", err)
		if !retryable(err, idempotent) && !errors.Is(err, context.DeadlineExceeded) {
			return
		}
		_ = pause.For(r.ctx, backoffAfter(tries)) // the loop looks at ctx
	}
}

// callback tells the program of partitions. Its context does not end with the Poll's: what it has begun is brought to an
// end.
func (r *Consumer) callback(ctx context.Context, fn func(context.Context, []TopicPartition), tps []TopicPartition) {
	if fn == nil || len(tps) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.cfg.RequestTimeout)
	defer cancel()
	fn(ctx, tps)
}

// takeOver takes what was assigned.
func (r *Consumer) takeOver(ctx context.Context) {
	r.mu.Lock()
	var added []*partition
	for tp, id := range r.member.assigned {
		if r.partitions[tp] == nil {
			p := r.addLocked(tp)
			p.id = id
			added = append(added, p)
		}
	}
	r.mu.Unlock()
	if len(added) == 0 {
		return
	}
	r.callback(ctx, r.cfg.OnAssigned, names(added))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range added {
		if r.partitions[p.TopicPartition] == p {
			r.startLocked(p) //nolint:contextcheck // a fetcher outlives the Poll
		}
	}
}

func names(list []*partition) []TopicPartition {
	out := make([]TopicPartition, len(list))
	for i, p := range list {
		out[i] = p.TopicPartition
	}
	return sorted(out)
}

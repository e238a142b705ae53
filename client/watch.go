package client

import (
	"context"
	"time"
)

// watchEvery is how often a sender's stream is looked after.
const watchEvery = 100 * time.Millisecond

// watch ends a session by cancel when the node does not answer in time: the goroutine that sends may wait in the stream's
// flow control meanwhile, and can't look at the clock. It returns when ctx ends.
func (s *sender) watch(ctx context.Context, node *conn, cancel context.CancelCauseFunc) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	looked := time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if s.overdue(now) {
			cancel(notInTime(node))
			return
		}
		if now.Sub(looked) <= leaderEvery {
			continue
		}
		looked = now
		if moved, silent := s.moved(node); moved && silent {
			cancel(notInTime(node))
			return
		}
	}
}

// overdue reports whether the node has owed an answer for too long, or the time of a record that it has not answered is
// over.
func (s *sender) overdue(now time.Time) bool {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if len(s.flight) == 0 {
		return false
	}
	if now.Sub(s.progress) > stalledFor {
		return true
	}
	for _, q := range s.active {
		if q.inFlight > 0 && now.Sub(q.oldest().since) > s.p.cfg.DeliveryTimeout {
			return true
		}
	}
	return false
}

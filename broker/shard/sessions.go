package shard

import (
	"fmt"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/broker/group"
)

const (
	// sessionTick is how often a coordinator looks for members that are silent.
	sessionTick = 250 * time.Millisecond
	// inheritedGrace is added to the sessions that a new coordinator takes over: the old one may have answered a
	// heartbeat that the new one does not know of, for as long as its lease.
	inheritedGrace = 2 * time.Second
)

// memberKey names a member of a group.
type memberKey struct{ group, member string }

// session is what a coordinator knows of a member beside the replicated state.
type session struct {
	seen     time.Time
	sequence int64
	// revoking is since when the member has something to give up; zero when it has not.
	revoking time.Time
	// ended is set from when the member is to be removed until it was. Its heartbeats are refused meanwhile, so that no
	// answer lets it believe that it still owns something.
	ended bool
	// released is set when an ended member has joined again: it knows that it owns nothing.
	released bool
}

// errLeaving says that a member joins whose last session has ended and that is not removed yet. It may try again.
var errLeaving = fmt.Errorf("%w: the member's last session has ended and it is being removed", ErrNotReady)

// sessions are those of all members of the groups that this replica coordinates. They are not replicated: a new
// coordinator gives every member a whole session. Safe for concurrent use.
type sessions struct {
	mu  sync.Mutex
	all map[memberKey]*session // guarded by mu
}

func newSessions() *sessions { return &sessions{all: make(map[memberKey]*session)} }

// knownMember is a member in the replicated state.
type knownMember struct {
	key      memberKey
	spec     group.Spec
	revoking bool
}

// timeout is for how long the member may be silent.
func (m knownMember) timeout() time.Duration {
	return time.Duration(m.spec.SessionTimeoutMs) * time.Millisecond
}

// begin forgets all sessions and gives these members new ones.
func (s *sessions) begin(members []knownMember, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.all)
	for _, m := range members {
		s.all[m.key] = &session{seen: now}
	}
}

// seen notes a heartbeat. The error says that it must not be answered: group.ErrFencedEpoch where the session has ended,
// or another heartbeat was seen that is newer; errLeaving for a join before the last session's end is logged.
func (s *sessions) seen(key memberKey, epoch int32, sequence int64, now time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.all[key]
	if at == nil {
		at = &session{}
		s.all[key] = at
	}
	if sequence < at.sequence {
		return group.ErrFencedEpoch
	}
	if at.ended {
		return at.seenAfterEnd(epoch, sequence)
	}
	at.sequence = sequence
	if now.After(at.seen) {
		at.seen = now
	}
	return nil
}

// seenAfterEnd refuses. A join that is newer than all heartbeats tells that the member has given everything up.
func (at *session) seenAfterEnd(epoch int32, sequence int64) error {
	if epoch != 0 {
		return group.ErrFencedEpoch
	}
	if sequence > at.sequence {
		at.sequence, at.released = sequence, true
	}
	return errLeaving
}

// hasEnded reports whether a member's heartbeats are refused.
func (s *sessions) hasEnded(key memberKey) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.all[key]
	return at != nil && at.ended
}

// removed lets a member join again, now that its removal is logged.
func (s *sessions) removed(key memberKey, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at := s.all[key]; at != nil {
		*at = session{seen: now, sequence: at.sequence}
	}
}

// left returns how much of a member's session is left, at least 0.
func (s *sessions) left(m knownMember, now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.all[m.key]
	if at == nil {
		return m.timeout()
	}
	return max(at.seen.Add(m.timeout()).Sub(now), 0)
}

// expired ends the sessions of those of the members that were silent for their session timeout, or have not given up
// what they must for their rebalance timeout. It returns those to remove: not before the member itself knows, by its own
// clock or since it was refused, that it owns nothing. One that could not be removed is returned again. It forgets the
// sessions of all that are no members.
func (s *sessions) expired(members []knownMember, now time.Time) []knownMember {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []knownMember
	live := make(map[memberKey]bool, len(members))
	for _, m := range members {
		live[m.key] = true
		at := s.all[m.key]
		if at == nil {
			at = &session{seen: now}
			s.all[m.key] = at
		}
		if at.expire(m, now) {
			out = append(out, m)
		}
	}
	for key, at := range s.all {
		switch {
		case live[key]:
		case at.ended: // a removal whose outcome was unknown has happened
			*at = session{seen: now, sequence: at.sequence}
		case now.Sub(at.seen) > time.Minute: // a heartbeat that joins is seen before its member is known
			delete(s.all, key)
		}
	}
	return out
}

// expire ends the session where its time is over, and reports whether the member is to be removed.
func (at *session) expire(m knownMember, now time.Time) bool {
	switch {
	case !m.revoking:
		at.revoking = time.Time{}
	case at.revoking.IsZero():
		at.revoking = now
	}
	silent := now.Sub(at.seen) > m.timeout()
	stuck := !at.revoking.IsZero() && now.Sub(at.revoking) > time.Duration(m.spec.RebalanceTimeoutMs)*time.Millisecond
	at.ended = at.ended || silent || stuck
	return at.ended && (silent || at.released)
}

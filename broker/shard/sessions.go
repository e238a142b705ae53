package shard

import (
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
}

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

// begin forgets all sessions and gives these members new ones.
func (s *sessions) begin(members []knownMember, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.all)
	for _, m := range members {
		s.all[m.key] = &session{seen: now}
	}
}

// seen notes a heartbeat. It returns false for one that is older than another that was seen.
func (s *sessions) seen(key memberKey, sequence int64, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := s.all[key]
	if at == nil {
		at = &session{}
		s.all[key] = at
	}
	if sequence < at.sequence {
		return false
	}
	at.sequence = sequence
	if now.After(at.seen) {
		at.seen = now
	}
	return true
}

// expired returns those of the members that were silent for their session timeout, or have not given up what they must
// for their rebalance timeout, and forgets the sessions of all that are no members.
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
		switch {
		case !m.revoking:
			at.revoking = time.Time{}
		case at.revoking.IsZero():
			at.revoking = now
		}
		silent := now.Sub(at.seen) > time.Duration(m.spec.SessionTimeoutMs)*time.Millisecond
		stuck := !at.revoking.IsZero() && now.Sub(at.revoking) > time.Duration(m.spec.RebalanceTimeoutMs)*time.Millisecond
		if silent || stuck {
			out = append(out, m)
		}
	}
	for key := range s.all {
		if !live[key] && now.Sub(s.all[key].seen) > time.Minute {
			delete(s.all, key) // a heartbeat that joins is seen before its member is known
		}
	}
	return out
}

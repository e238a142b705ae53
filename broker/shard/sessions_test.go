package shard

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/broker/group"
)

// member is one of the group g with a session of 10 s, which must give up within 60 s.
func member(id string, revoking bool) knownMember {
	return knownMember{memberKey{"g", id}, group.Spec{MemberID: id, SessionTimeoutMs: 10_000, RebalanceTimeoutMs: 60_000}, revoking}
}

// A member that was silent too long is refused from the moment on that its removal is decided, until it was removed.
func TestEndedSessionTakesNoHeartbeats(t *testing.T) {
	s, now := newSessions(), time.Unix(1000, 0)
	all := []knownMember{member("a", false), member("b", false)}
	key := all[0].key
	require.NoError(t, s.seen(key, 0, 1, now))
	require.NoError(t, s.seen(all[1].key, 0, 1, now.Add(9*time.Second)))
	require.Empty(t, s.expired(all, now.Add(10*time.Second)))
	require.Equal(t, all[:1], s.expired(all, now.Add(11*time.Second)))

	late := now.Add(11*time.Second + time.Millisecond)
	require.ErrorIs(t, s.seen(key, 1, 2, late), group.ErrFencedEpoch)
	require.ErrorIs(t, s.seen(key, 0, 3, late), ErrNotReady, "it may try again")
	require.True(t, s.hasEnded(key))
	require.Equal(t, all[:1], s.expired(all, late), "its removal failed, and is tried again")

	s.removed(key, late)
	require.ErrorIs(t, s.seen(key, 1, 2, late), group.ErrFencedEpoch, "older than what was seen")
	require.NoError(t, s.seen(key, 0, 3, late))
	require.Empty(t, s.expired(all, late))
}

// A member that does not give up is alive. It is refused at once, and removed when it knows: when it has joined again,
// or when its session is over by its own clock.
func TestStuckMemberLearnsBeforeItIsRemoved(t *testing.T) {
	for name, joins := range map[string]bool{"joins again": true, "is silent": false} {
		t.Run(name, func(t *testing.T) {
			s, now := newSessions(), time.Unix(1000, 0)
			all := []knownMember{member("a", true)}
			key := all[0].key
			sequence := int64(0)
			for range 13 {
				sequence++
				require.NoError(t, s.seen(key, 1, sequence, now))
				require.Empty(t, s.expired(all, now))
				now = now.Add(5 * time.Second)
			}
			require.Empty(t, s.expired(all, now), "it may believe that it owns all that it had")
			require.ErrorIs(t, s.seen(key, 1, sequence+1, now), group.ErrFencedEpoch)
			require.ErrorIs(t, s.seen(key, 0, sequence, now), ErrNotReady)
			require.Empty(t, s.expired(all, now), "that join may be an old one")
			if joins {
				require.ErrorIs(t, s.seen(key, 0, sequence+2, now), ErrNotReady)
			} else {
				now = now.Add(6 * time.Second)
			}
			require.Equal(t, all, s.expired(all, now))
		})
	}
}

// A removal whose outcome was unknown and that has happened keeps nobody out.
func TestRemovalOfUnknownOutcome(t *testing.T) {
	s, now := newSessions(), time.Unix(1000, 0)
	all := []knownMember{member("a", false)}
	require.NoError(t, s.seen(all[0].key, 0, 1, now))
	now = now.Add(11 * time.Second)
	require.Equal(t, all, s.expired(all, now))
	require.ErrorIs(t, s.seen(all[0].key, 0, 2, now), ErrNotReady)
	require.Empty(t, s.expired(nil, now))
	require.NoError(t, s.seen(all[0].key, 0, 2, now))
	require.Empty(t, s.expired(nil, now.Add(2*time.Minute)))
	require.Empty(t, s.all, "and is forgotten in the end")
}

// A new coordinator knows nothing of ended sessions: every member has a whole one again.
func TestNewCoordinatorBeginsSessions(t *testing.T) {
	s, now := newSessions(), time.Unix(1000, 0)
	all := []knownMember{member("a", false)}
	require.NoError(t, s.seen(all[0].key, 0, 1, now))
	now = now.Add(time.Minute)
	require.Equal(t, all, s.expired(all, now))
	s.begin(all, now)
	require.NoError(t, s.seen(all[0].key, 1, 2, now))
	require.Empty(t, s.expired(all, now.Add(10*time.Second)))
}

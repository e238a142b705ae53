package replica

import (
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

func TestTransferAndHandOver(t *testing.T) {
	members := newGroup(t, 3, WAL)
	l := leader(t, members)
	for _, m := range members {
		if m != l {
			require.NoError(t, l.replica.TransferTo(t.Context(), m.id))
			require.Eventually(t, m.replica.IsLeader, waitFor, 10*time.Millisecond)
			require.ErrorIs(t, l.replica.TransferTo(t.Context(), m.id), ErrNotLeader)
			require.NoError(t, m.replica.HandOver(t.Context()))
			require.Eventually(t, func() bool { return !m.replica.IsLeader() }, waitFor, 10*time.Millisecond)
			return
		}
	}
}

// healthy-but-wedged: transfers to a follower that can't be reached fail, and leave a leader that takes entries. Where the follower comes back, it
// can be made the leader in the same term.
func TestHealthyButWedgedTransfer(t *testing.T) {
	g := newCalmGroup(1 << 20)
	g.heartbeat = 400 * time.Millisecond
	g.wires = newWires(t, g)
	members := g.grow(t, 3, WAL)
	apply(t, members, "a")
	l := leader(t, members)
	away := without(members, l)[0]
	g.wires.isolate(away)
	term := l.replica.Raft().CurrentTerm()
	for range 8 {
		require.Error(t, l.replica.TransferTo(t.Context(), away.id))
		require.Eventually(t, func() bool { return l.replica.Raft().Apply([]byte("b"), time.Second).Error() == nil }, waitFor, time.Millisecond)
	}
	require.Equal(t, term, l.replica.Raft().CurrentTerm())

	g.wires.heal(away)
	require.Eventually(t, func() bool { return l.replica.lacks(raft.ServerID(away.id)) == 0 }, waitFor, 10*time.Millisecond)
	require.Equal(t, term, l.replica.Raft().CurrentTerm())
	require.NoError(t, l.replica.TransferTo(t.Context(), away.id))
	require.Eventually(t, away.replica.IsLeader, waitFor, 10*time.Millisecond)
	require.NoError(t, away.replica.HandOver(t.Context()))
}

// A voter that does not take the leadership does not keep it from another one, whether it is gone or says nothing.
func TestHandOverWithOneVoterAway(t *testing.T) {
	g := newCalmGroup(1 << 20)
	g.heartbeat = 400 * time.Millisecond
	g.wires = newWires(t, g)
	members := g.grow(t, 3, WAL)
	apply(t, members, "a")
	for _, leave := range []func(*member){g.wires.isolate, g.wires.silence} {
		for i := range 2 { // whichever comes first
			l := leader(t, members)
			others := without(members, l)
			leave(others[i])
			require.NoError(t, l.replica.HandOver(t.Context()))
			require.Eventually(t, others[1-i].replica.IsLeader, waitFor, 10*time.Millisecond)
			g.wires.heal(others[i])
			apply(t, members, "b")
		}
	}
}

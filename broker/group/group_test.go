package group

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var topics = map[string][]uint64{"t": {1, 2, 3, 4}, "u": {10, 11}}

// beat is a heartbeat of a member that subscribes to t.
func beat(id string, epoch int32, sequence int64, owned ...uint64) Heartbeat {
	return Heartbeat{Spec: Spec{MemberID: id, Topics: []string{"t"}}, Epoch: epoch, Sequence: sequence, Owned: owned, Topics: topics}
}

func must(t *testing.T) func(Answer, error) Answer {
	t.Helper()
	return func(a Answer, err error) Answer {
		t.Helper()
		require.NoError(t, err)
		return a
	}
}

func TestMembersAreRefused(t *testing.T) {
	static := func(id string, epoch int32) Heartbeat {
		h := beat(id, epoch, 1)
		h.Spec.InstanceID = "i"
		return h
	}
	full := func(g *Group) {
		for i := range maxMembers - len(g.members) {
			must(t)(g.Heartbeat(beat(fmt.Sprintf("x%d", i), 0, 1)))
		}
	}
	for name, c := range map[string]struct {
		before func(*Group)
		h      Heartbeat
		want   error
	}{
		"never joined":               {nil, beat("a", 1, 1), ErrUnknownMember},
		"epoch of the future":        {nil, beat("m", 9, 2), ErrFencedEpoch},
		"older heartbeat":            {nil, beat("m", 1, 0), ErrFencedEpoch},
		"owns what it was not given": {func(g *Group) { must(t)(g.Heartbeat(beat("n", 0, 1))) }, beat("n", 0, 0, 1), ErrFencedEpoch},
		"instance in use":            {func(g *Group) { must(t)(g.Heartbeat(static("s", 0))) }, static("other", 0), ErrInstanceInUse},
		"instance changed":           {func(g *Group) { must(t)(g.Heartbeat(static("s", 0))) }, beat("s", 0, 2), ErrInstanceInUse},
		"full":                       {full, beat("last", 0, 1), ErrFull},
	} {
		t.Run(name, func(t *testing.T) {
			g := &Group{}
			must(t)(g.Heartbeat(beat("m", 0, 1)))
			if c.before != nil {
				c.before(g)
			}
			before := g.State()
			_, err := g.Heartbeat(c.h)
			require.ErrorIs(t, err, c.want)
			require.Equal(t, before, g.State())
		})
	}
}

// An answer that was lost is given again: the member still says the epoch before.
func TestLostAnswer(t *testing.T) {
	g := &Group{}
	must(t)(g.Heartbeat(beat("a", 0, 1)))
	must(t)(g.Heartbeat(beat("b", 0, 1)))
	must(t)(g.Heartbeat(beat("a", 1, 2, 1, 2, 3, 4)))
	first := must(t)(g.Heartbeat(beat("a", 1, 3, 1, 2)))
	require.Equal(t, Answer{Epoch: 2, Assigned: []uint64{1, 2}}, first)
	require.Equal(t, first, must(t)(g.Heartbeat(beat("a", 1, 3, 1, 2))), "the same attempt twice")
	require.Equal(t, first, must(t)(g.Heartbeat(beat("a", 1, 4, 1, 2))), "a new attempt")
}

// A static member that leaves for a while comes back under another id to what it had, and nobody else notices.
func TestStaticMemberComesBack(t *testing.T) {
	static := func(id string, epoch int32, sequence int64, owned ...uint64) Heartbeat {
		h := beat(id, epoch, sequence, owned...)
		h.Spec.InstanceID = "i"
		return h
	}
	g := &Group{}
	must(t)(g.Heartbeat(static("s1", 0, 1)))
	must(t)(g.Heartbeat(beat("b", 0, 1)))
	must(t)(g.Heartbeat(static("s1", 1, 2, 1, 2, 3, 4)))
	must(t)(g.Heartbeat(static("s1", 1, 3, 1, 2)))
	require.True(t, must(t)(g.Heartbeat(beat("b", 2, 2))).Completed)
	_, err := g.Leave("s1", 2, true)
	require.NoError(t, err)
	require.ErrorIs(t, g.Check("s1", 2, 1), ErrUnknownMember)
	require.Equal(t, Answer{Epoch: 2, Assigned: []uint64{1, 2}}, must(t)(g.Heartbeat(static("s2", 0, 1))))
	require.Equal(t, int32(2), g.Epoch())
	require.NoError(t, g.Check("s2", 2, 1))
	require.ErrorIs(t, g.Check("s2", 2, 3), ErrNotOwned)
	require.ErrorIs(t, g.Check("s2", 1, 1), ErrFencedEpoch)
}

// A member's commits count while it is the same client: also after it has joined again, with or without a leave in between.
// Who takes a static member's place counts anew.
func TestCommitSequences(t *testing.T) {
	static := func(id string, sequence int64) Heartbeat {
		h := beat(id, 0, sequence)
		h.Spec.InstanceID = "i"
		return h
	}
	requireStored := func(g *Group, id string, sequence int64, stored bool, want error) {
		t.Helper()
		got, err := g.Stored(id, sequence)
		require.ErrorIs(t, err, want)
		require.Equal(t, stored, got)
	}
	g := &Group{}
	requireStored(g, "s", 1, false, ErrUnknownMember)
	must(t)(g.Heartbeat(static("s", 1)))
	requireStored(g, "s", 1, false, nil)
	g.Committed("s", 5)
	requireStored(g, "s", 4, false, ErrStaleCommit)
	requireStored(g, "s", 5, true, nil)
	requireStored(g, "s", 6, false, nil)
	requireStored(g, "s", 0, false, nil)
	g.Committed("s", 0)
	requireStored(g, "s", 4, false, ErrStaleCommit)

	must(t)(g.Heartbeat(static("s", 2)))
	requireStored(g, "s", 4, false, ErrStaleCommit)
	_, err := g.Leave("s", 1, true)
	require.NoError(t, err)
	requireStored(g, "s", 6, false, ErrUnknownMember)
	must(t)(g.Heartbeat(static("s", 3)))
	requireStored(g, "s", 4, false, ErrStaleCommit)
	again, err := Restore(g.State())
	require.NoError(t, err)
	requireStored(again, "s", 4, false, ErrStaleCommit)

	_, err = g.Leave("s", 1, true)
	require.NoError(t, err)
	must(t)(g.Heartbeat(static("s2", 1)))
	requireStored(g, "s2", 1, false, nil)
	requireStored(g, "s", 6, false, ErrUnknownMember)
}

// A heartbeat that was sent before a static member left, and arrives after, does not bring it back: nobody works on what
// it owns. A join does, also under the same id.
func TestLateHeartbeatOfAwayMember(t *testing.T) {
	static := func(epoch int32, sequence int64) Heartbeat {
		h := beat("s", epoch, sequence)
		h.Spec.InstanceID = "i"
		return h
	}
	g := &Group{}
	must(t)(g.Heartbeat(static(0, 1)))
	_, err := g.Leave("s", 1, true)
	require.NoError(t, err)
	before := g.State()
	for name, late := range map[string]Heartbeat{"newer": static(1, 5), "the newest that was logged": static(1, 1), "the join": static(0, 1)} {
		_, err = g.Heartbeat(late)
		require.ErrorIs(t, err, ErrUnknownMember, name)
		_, settled := g.Settled(late)
		require.False(t, settled, name)
		require.Equal(t, before, g.State(), name)
	}
	require.Equal(t, Answer{Epoch: 1, Assigned: []uint64{1, 2, 3, 4}}, must(t)(g.Heartbeat(static(0, 6))))
	require.NoError(t, g.Check("s", 1, 1))
}

// A member that closes before its join is answered does not know its epoch. It leaves with 0, whatever the epoch is.
func TestLeaveWithoutEpoch(t *testing.T) {
	g := &Group{}
	must(t)(g.Heartbeat(beat("a", 0, 1)))
	must(t)(g.Heartbeat(beat("b", 0, 1)))
	must(t)(g.Heartbeat(beat("a", 1, 2)))
	must(t)(g.Heartbeat(beat("c", 0, 1)))
	must(t)(g.Heartbeat(beat("a", 2, 3)))
	_, err := g.Leave("a", 0, false)
	require.NoError(t, err)
	require.Len(t, g.members, 2)
}

func TestLeave(t *testing.T) {
	g := &Group{}
	must(t)(g.Heartbeat(beat("a", 0, 1)))
	_, err := g.Leave("a", 7, false)
	require.ErrorIs(t, err, ErrFencedEpoch)
	_, err = g.Leave("a", 1, true)
	require.NoError(t, err, "a dynamic member can't be away: it leaves")
	require.True(t, g.Empty())
	_, err = g.Leave("a", -1, false)
	require.ErrorIs(t, err, ErrUnknownMember)
}

func TestAssign(t *testing.T) {
	all := map[string][]uint64{"t": {1, 2, 3, 4, 5, 6}, "u": {10, 11}}
	subscribe := func(id string, has []uint64, topics ...string) consumer {
		c := consumer{id: id, has: has, topics: make(map[string]bool)}
		for _, topic := range topics {
			c.topics[topic] = true
		}
		return c
	}
	for name, c := range map[string]struct {
		consumers []consumer
		want      map[string][]uint64
	}{
		"alone":          {[]consumer{subscribe("a", nil, "t")}, map[string][]uint64{"a": {1, 2, 3, 4, 5, 6}}},
		"shared":         {[]consumer{subscribe("b", nil, "t"), subscribe("a", nil, "t")}, map[string][]uint64{"a": {1, 3, 5}, "b": {2, 4, 6}}},
		"sticky":         {[]consumer{subscribe("a", []uint64{4, 5, 6}, "t"), subscribe("b", []uint64{1, 2, 3}, "t")}, map[string][]uint64{"a": {4, 5, 6}, "b": {1, 2, 3}}},
		"only what must": {[]consumer{subscribe("a", []uint64{1, 2, 3, 4, 5, 6}, "t"), subscribe("b", nil, "t")}, map[string][]uint64{"a": {1, 2, 3}, "b": {4, 5, 6}}},
		"one has left":   {[]consumer{subscribe("a", []uint64{1, 2}, "t"), subscribe("b", []uint64{3, 4}, "t")}, map[string][]uint64{"a": {1, 2, 5}, "b": {3, 4, 6}}},
		"what is gone":   {[]consumer{subscribe("a", []uint64{1, 77}, "u")}, map[string][]uint64{"a": {10, 11}}},
		"two topics": {
			[]consumer{subscribe("a", nil, "t", "u"), subscribe("b", nil, "t")},
			map[string][]uint64{"a": {1, 3, 10, 11}, "b": {2, 4, 5, 6}},
		},
		"more members than partitions": {
			[]consumer{subscribe("a", nil, "u"), subscribe("b", nil, "u"), subscribe("c", nil, "u")},
			map[string][]uint64{"a": {10}, "b": {11}, "c": {}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.want, assign(all, c.consumers))
		})
	}
}

// A thousand partitions move as little as they must when the hundredth member joins.
func TestAssignMovesLittle(t *testing.T) {
	ids := make([]uint64, 1000)
	for i := range ids {
		ids[i] = uint64(i)
	}
	all := map[string][]uint64{"t": ids}
	consumers := make([]consumer, 99)
	for i := range consumers {
		consumers[i] = consumer{id: fmt.Sprintf("m%02d", i), topics: map[string]bool{"t": true}}
	}
	before := assign(all, consumers)
	for i := range consumers {
		consumers[i].has = slices.Clone(before[consumers[i].id])
	}
	after := assign(all, append(consumers, consumer{id: "new", topics: map[string]bool{"t": true}}))
	moved := 0
	for id, has := range before {
		moved += len(without(has, after[id]))
		require.GreaterOrEqual(t, len(after[id]), 10)
		require.LessOrEqual(t, len(after[id]), 11)
	}
	require.Equal(t, len(after["new"]), moved)
}

func TestRestoreRefuses(t *testing.T) {
	for name, s := range map[string]State{
		"no id":      {Members: []Member{{}}},
		"twice":      {Members: []Member{{Spec: Spec{MemberID: "a"}}, {Spec: Spec{MemberID: "a"}}}},
		"two owners": {Members: []Member{{Spec: Spec{MemberID: "a"}, Assigned: []uint64{1}}, {Spec: Spec{MemberID: "b"}, Revoking: []uint64{1}}}},
		"disorder":   {Members: []Member{{Spec: Spec{MemberID: "a"}, Assigned: []uint64{2, 1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Restore(s)
			require.Error(t, err)
		})
	}
}

func BenchmarkAssign(b *testing.B) {
	for _, members := range []int{10, 100, 1000} {
		b.Run(fmt.Sprintf("partitions=1000/members=%d", members), func(b *testing.B) {
			ids := make([]uint64, 1000)
			for i := range ids {
				ids[i] = uint64(i)
			}
			for b.Loop() {
				consumers := make([]consumer, members)
				for i := range consumers {
					consumers[i] = consumer{id: fmt.Sprint(i), topics: map[string]bool{"t": true}}
				}
				assign(map[string][]uint64{"t": ids}, consumers)
			}
		})
	}
}

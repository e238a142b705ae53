package replica

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

func without(members []*member, gone *member) []*member {
	return slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m == gone })
}

// election-storm: a replica that hears nobody for many election timeouts does not raise its term, with which it would depose
// the leader when it hears the others again.
func TestElectionStorm(t *testing.T) {
	g := newCalmGroup(100)
	g.heartbeat = time.Second
	g.wires = newWires(t, g)
	members := g.grow(t, 3, WAL)
	apply(t, members, "a")
	l := leader(t, members)
	lonely := without(members, l)[0]
	requireEntries(t, lonely, "a")
	term := lonely.replica.Raft().CurrentTerm()
	l.group.wires.isolate(lonely)
	require.Eventually(t, func() bool { return lonely.replica.Raft().State() == raft.Candidate }, waitFor, 10*time.Millisecond)
	require.Never(t, func() bool { return lonely.replica.Raft().CurrentTerm() != term }, 4*time.Second, 10*time.Millisecond)
	apply(t, members, "b")
	l.group.wires.heal(lonely)
	requireEntries(t, lonely, "a", "b")
}

// remove-plus-partition: a leader that is cut off removes nobody, and takes back nothing that the others acknowledged; a
// decision on an older configuration is refused; and a replica that was removed does not count.
func TestRemovePlusPartitionInAGroup(t *testing.T) {
	const remove = nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE
	g := newCalmGroup(100)
	g.wires = newWires(t, g)
	members := g.grow(t, 3, WAL)
	apply(t, members, "a")
	old := leader(t, members)
	conf := old.replica.Status().ConfigurationIndex
	others := without(members, old)
	old.group.wires.isolate(old)
	_, err := old.replica.ChangeMembership(t.Context(), remove, others[0].id, "", conf)
	require.Error(t, err, "no majority has agreed")
	require.Len(t, old.replica.Status().Servers, 3, "nor does this one tell of what it alone wants")
	require.Equal(t, conf, old.replica.Status().ConfigurationIndex)
	apply(t, others, "b")
	old.group.wires.heal(old)
	for _, m := range members {
		requireEntries(t, m, "a", "b")
	}
	l := leader(t, members)
	require.Len(t, l.replica.Status().Servers, 3)

	gone, other := without(members, l)[0], without(members, l)[1]
	before := l.replica.Status().ConfigurationIndex
	_, err = l.replica.ChangeMembership(t.Context(), remove, gone.id, "", before)
	require.NoError(t, err)
	_, err = l.replica.ChangeMembership(t.Context(), remove, other.id, "", before)
	require.ErrorIs(t, err, ErrStale, "it was decided before the first one")
	other.close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	require.Error(t, l.replica.Await(ctx, func(rf *raft.Raft) raft.Future { return rf.Apply([]byte("c"), time.Second) }),
		"one of two voters is no majority, and the removed one is none of them")
}

// snapshot-for-ever: a follower that was away gets what it has missed from the log, as long as that is within the bytes that
// a checkpoint leaves.
func TestSnapshotForEver(t *testing.T) {
	for retained, restored := range map[int64]int{10_000: 0, 100: 1} {
		t.Run(fmt.Sprintf("%d bytes", retained), func(t *testing.T) {
			members := newCalmGroup(retained).grow(t, 3, WAL)
			apply(t, members, "a")
			away := without(members, leader(t, members))[0]
			away.close()
			want := []string{"a"}
			rest := without(members, away)
			for i := range 30 {
				want = append(want, fmt.Sprintf("entry number %d", i))
				apply(t, rest, want[len(want)-1])
			}
			for _, m := range rest {
				requireEntries(t, m, want...)
				require.NoError(t, m.replica.Checkpoint())
			}
			require.NoError(t, away.start())
			requireEntries(t, away, want...)
			away.fsm.mu.Lock()
			defer away.fsm.mu.Unlock()
			require.Equal(t, restored, away.fsm.restored)
		})
	}
}

// crash-in-recovery: whatever a crash leaves while a snapshot is taken or installed, the replica opens again and again with
// all that it had, and goes on.
func TestCrashInRecoveryOfAReplica(t *testing.T) {
	for name, crash := range map[string]func(t *testing.T, dir, early, late string){
		"while the snapshot was written": func(t *testing.T, dir, _, late string) {
			t.Helper()
			snapshot := onlySnapshot(t, dir)
			require.NoError(t, os.Rename(snapshot, snapshot+".tmp"))
			require.NoError(t, os.Truncate(filepath.Join(snapshot+".tmp", "state.bin"), 10))
			replaceLog(t, dir, late)
		},
		"before the snapshot had its sum": func(t *testing.T, dir, _, _ string) {
			t.Helper()
			require.NoError(t, os.Remove(filepath.Join(onlySnapshot(t, dir), sumName)))
		},
		"before the log was cut": func(t *testing.T, dir, _, late string) {
			t.Helper()
			replaceLog(t, dir, late)
		},
		"before a log was deleted that the snapshot replaces": func(t *testing.T, dir, early, _ string) {
			t.Helper()
			replaceLog(t, dir, early)
		},
	} {
		t.Run(name, func(t *testing.T) {
			members := newGroup(t, 1, WAL)
			m := members[0]
			var want []string
			for i := range 20 {
				want = append(want, fmt.Sprintf("entry number %d", i))
			}
			early, late := filepath.Join(filepath.Dir(m.dir), "early"), filepath.Join(filepath.Dir(m.dir), "late")
			apply(t, members, want[:10]...)
			require.NoError(t, os.CopyFS(early, os.DirFS(m.dir))) // nothing is written meanwhile
			apply(t, members, want[10:]...)
			require.NoError(t, os.CopyFS(late, os.DirFS(m.dir)))
			require.NoError(t, m.replica.Checkpoint())
			m.close()
			crash(t, m.dir, early, late)
			for i := range 3 {
				require.NoError(t, m.start())
				want = append(want, fmt.Sprint("more ", i))
				apply(t, members, want[len(want)-1])
				requireEntries(t, m, want...)
				m.close()
			}
		})
	}
}

// membership-loss: while members come, go and restart, one change at a time, whatever was acknowledged stays, in order.
func TestMembershipLossInAGroup(t *testing.T) {
	const remove = nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE
	members := newCalmGroup(100).grow(t, 3, WAL)
	var acked []string
	write := func() {
		for range 5 {
			acked = append(acked, fmt.Sprintf("entry number %d", len(acked)))
			apply(t, members, acked[len(acked)-1])
		}
	}
	for i := range 4 {
		write()
		fresh := newMember(t, members[0].group, fmt.Sprintf("n%d/A", 4+i), WAL)
		change(t, members, addNonvoter, fresh.id, fresh.tr.Addr().String())
		write() // it does not wait for the new one
		gone := members[i%len(members)]
		members = append(members, fresh)
		l := leader(t, members)
		require.Eventually(t, func() bool { return fresh.replica.Raft().AppliedIndex() >= l.replica.Raft().CommitIndex() }, waitFor, 10*time.Millisecond)
		change(t, members, promote, fresh.id, fresh.tr.Addr().String())
		if i%2 == 0 { // it dies first
			gone.close()
		}
		change(t, members, remove, gone.id, "")
		gone.close()
		members = without(members, gone)
		restarted := members[0]
		restarted.close()
		write()
		require.NoError(t, restarted.start())
	}
	for _, m := range members {
		requireEntries(t, m, acked...)
	}
}

// onlySnapshot returns the directory of the one snapshot of a replica.
func onlySnapshot(t *testing.T, dir string) string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, snapshotsDir, "*"))
	require.NoError(t, err)
	require.Len(t, found, 1)
	return found[0]
}

// replaceLog puts the files of another time into a replica's directory, but for its snapshots.
func replaceLog(t *testing.T, dir, from string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(filepath.Join(from, snapshotsDir)))
	require.NoError(t, os.Rename(filepath.Join(dir, snapshotsDir), filepath.Join(from, snapshotsDir)))
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.Rename(from, dir))
}

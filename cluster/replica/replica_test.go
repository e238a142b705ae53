package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// waitFor bounds what comes in time, on a busy machine too.
const waitFor = time.Minute

const (
	addNonvoter = nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER
	promote     = nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE
)

// listFSM remembers every entry.
type listFSM struct {
	unreadable string // an entry with which a snapshot can't be restored
	mu         sync.Mutex
	entries    []string
	restored   int // how often it came from a snapshot
}

var errUnreadable = errors.New("no such entry is known")

func (f *listFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.entries = append(f.entries, string(l.Data))
	return nil
}

func (f *listFSM) all() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.entries...)
}

func (f *listFSM) Snapshot() (raft.FSMSnapshot, error) { return listSnapshot(f.all()), nil }

func (f *listFSM) Restore(r io.ReadCloser) error {
	b, err := io.ReadAll(r)
	f.mu.Lock()
	defer f.mu.Unlock()
	entries := strings.Split(string(b), "\n")
	if f.unreadable != "" && slices.Contains(entries, f.unreadable) {
		return errors.Join(errUnreadable, r.Close())
	}
	f.entries = entries
	f.restored++
	return errors.Join(err, r.Close())
}

type listSnapshot []string

func (s listSnapshot) Persist(sink raft.SnapshotSink) error {
	if _, err := sink.Write([]byte(strings.Join(s, "\n"))); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}
func (listSnapshot) Release() {}

// member is one node with one replica of one group.
type member struct {
	t       *testing.T
	group   *group
	id      string
	dir     string
	store   Store
	tr      *transport.Transport
	stop    context.CancelFunc
	done    chan struct{}
	fsm     *listFSM
	replica *Replica
	// unreadable is the FSM's.
	unreadable string
}

// node is the id of the member's node.
func (m *member) node() string {
	node, _, _ := strings.Cut(m.id, "/")
	return node
}

// group is a set of members that find each other.
type group struct {
	mu    sync.Mutex
	addrs map[string]string
	// wires are between the members where they are not nil.
	wires *wires
	// retainBytes is RetainBytes of all members, heartbeat their timeouts.
	retainBytes int64
	heartbeat   time.Duration
}

// newCalmGroup returns a group, to be grown, that elects no other leader just because the machine is busy.
func newCalmGroup(retainBytes int64) *group {
	return &group{addrs: make(map[string]string), retainBytes: retainBytes, heartbeat: 2 * time.Second}
}

func (g *group) RaftAddr(nodeID string) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	a, ok := g.addrs[nodeID]
	return a, ok
}

// start opens the member's replica on a port of its own; its files must exist.
func (m *member) start() error {
	m.t.Helper()
	tr, err := transport.Listen(m.t.Context(), transport.Config{Addr: "127.0.0.1:0", Resolver: m.resolver()})
	require.NoError(m.t, err)
	tr.SetClusterID("c1")
	ctx, cancel := context.WithCancel(context.Background())
	m.tr, m.stop, m.done, m.fsm = tr, cancel, make(chan struct{}), &listFSM{unreadable: m.unreadable}
	go func() {
		defer close(m.done)
		_ = tr.Run(ctx)
	}()
	m.group.mu.Lock()
	m.group.addrs[m.node()] = tr.Addr().String()
	m.group.mu.Unlock()
	m.replica, err = Open(Config{
		Dir: m.dir, Group: transport.Shard(1), ID: m.id, Addr: tr.Addr().String(), Store: m.store, FSM: m.fsm,
		Transport: tr, Timeouts: Timeouts{m.group.heartbeat, m.group.heartbeat, m.group.heartbeat / 2, 50 * time.Millisecond},
		Fatal: func(err error) { m.t.Errorf("fatal: %v", err) }, RetainBytes: m.group.retainBytes,
	})
	return err
}

func (m *member) close() {
	if m.stop == nil {
		return
	}
	if m.replica != nil {
		_ = m.replica.Close()
	}
	m.stop()
	<-m.done
	m.stop, m.replica = nil, nil
}

// newGroup starts a group that began with its first member and has grown to n voters.
func newGroup(t *testing.T, n int, store Store) []*member {
	t.Helper()
	return (&group{addrs: make(map[string]string), retainBytes: 100, heartbeat: 300 * time.Millisecond}).grow(t, n, store)
}

// grow starts the members.
func (g *group) grow(t *testing.T, n int, store Store) []*member {
	t.Helper()
	var members []*member
	for i := range n {
		members = append(members, newMember(t, g, fmt.Sprintf("n%d/A", i+1), store))
	}
	require.NoError(t, members[0].replica.Bootstrap())
	for _, m := range members[1:] {
		addVoter(t, members, m)
	}
	return members
}

func newMember(t *testing.T, g *group, id string, store Store) *member {
	t.Helper()
	m := &member{t: t, group: g, id: id, dir: filepath.Join(t.TempDir(), "r"), store: store}
	require.NoError(t, Create(m.dir))
	require.NoError(t, m.start())
	t.Cleanup(m.close)
	return m
}

func leader(t *testing.T, members []*member) *member {
	t.Helper()
	var l *member
	require.Eventually(t, func() bool {
		for _, m := range members {
			if m.replica != nil && m.replica.IsLeader() && m.replica.Raft().VerifyLeader().Error() == nil {
				l = m
				return true
			}
		}
		return false
	}, waitFor, 10*time.Millisecond, "a leader")
	return l
}

func change(t *testing.T, members []*member, c nodev1.MembershipChange, id, addr string) {
	t.Helper()
	require.Eventually(t, func() bool {
		l := leader(t, members)
		_, err := l.replica.ChangeMembership(context.Background(), c, id, addr, l.replica.Status().ConfigurationIndex)
		return err == nil
	}, waitFor, 20*time.Millisecond)
}

func addVoter(t *testing.T, members []*member, m *member) {
	t.Helper()
	change(t, members, addNonvoter, m.id, m.tr.Addr().String())
	l := leader(t, members)
	require.Eventually(t, func() bool { return m.replica.Raft().AppliedIndex() >= l.replica.Raft().CommitIndex() }, waitFor, 10*time.Millisecond)
	change(t, members, promote, m.id, m.tr.Addr().String())
}

func apply(t *testing.T, members []*member, entries ...string) {
	t.Helper()
	for _, e := range entries {
		require.NoError(t, leader(t, members).replica.Raft().Apply([]byte(e), time.Second).Error())
	}
}

func requireEntries(t *testing.T, m *member, want ...string) {
	t.Helper()
	require.Eventually(t, func() bool { return fmt.Sprint(m.fsm.all()) == fmt.Sprint(want) }, waitFor, 10*time.Millisecond,
		"%s has %v, want %v", m.id, m.fsm.all(), want)
}

func TestGroupSurvivesRestarts(t *testing.T) {
	for name, store := range map[string]Store{"wal": WAL, "bolt": Bolt} {
		t.Run(name, func(t *testing.T) {
			members := newCalmGroup(100).grow(t, 3, store)
			apply(t, members, "a", "b")
			for _, m := range members {
				requireEntries(t, m, "a", "b")
			}
			// The leader dies; the others go on; it comes back on another port and catches up.
			dead := leader(t, members)
			dead.close()
			apply(t, members, "c")
			require.NoError(t, dead.start())
			requireEntries(t, dead, "a", "b", "c")
			// All at once.
			for _, m := range members {
				m.close()
			}
			for _, m := range members {
				require.NoError(t, m.start())
			}
			apply(t, members, "d")
			for _, m := range members {
				requireEntries(t, m, "a", "b", "c", "d")
			}
		})
	}
}

func TestCheckpointAndSnapshotInstall(t *testing.T) {
	for name, store := range map[string]Store{"wal": WAL, "bolt": Bolt} {
		t.Run(name, func(t *testing.T) {
			members := newGroup(t, 2, store)
			var want []string
			for i := range 50 {
				want = append(want, fmt.Sprintf("entry number %d", i))
			}
			apply(t, members, want...)
			l := leader(t, members)
			require.NoError(t, l.replica.Checkpoint())
			require.Greater(t, l.replica.FirstIndex(), uint64(40), "RetainBytes are left")
			require.LessOrEqual(t, l.replica.LogBytes(), int64(100))

			late := newMember(t, members[0].group, "n9/A", store)
			members = append(members, late)
			addVoter(t, members, late)
			requireEntries(t, late, want...)
			apply(t, members, "more")
			late.close()
			require.NoError(t, late.start())
			requireEntries(t, late, append(want, "more")...)
		})
	}
}

// A replica that is not in its group yet hears of no leader, and says so.
func TestInGroup(t *testing.T) {
	members := newGroup(t, 1, WAL)
	require.True(t, leader(t, members).replica.InGroup())
	fresh := newMember(t, members[0].group, "n2/A", WAL)
	require.False(t, fresh.replica.InGroup())
	addVoter(t, members, fresh)
	require.True(t, fresh.replica.InGroup())
	require.Eventually(t, func() bool { return fresh.replica.Checkpoint() == nil }, waitFor, 10*time.Millisecond, "once it knows of the commit")
	members[0].close()
	fresh.close()
	require.NoError(t, fresh.start())
	require.True(t, fresh.replica.InGroup(), "without a leader, but with a configuration")
	_, led := fresh.replica.Leader()
	require.False(t, led)
}

func TestMembershipIsDecidedOnOneConfiguration(t *testing.T) {
	members := newGroup(t, 1, WAL)
	l := leader(t, members)
	require.Eventually(t, func() bool { return l.replica.Status().ConfigurationIndex > 0 }, waitFor, 10*time.Millisecond)
	before := l.replica.Status().ConfigurationIndex
	_, err := l.replica.ChangeMembership(t.Context(), addNonvoter, "n2/A", "127.0.0.1:1", before)
	require.NoError(t, err)
	_, err = l.replica.ChangeMembership(t.Context(), addNonvoter, "n3/B", "127.0.0.1:1", before)
	require.ErrorIs(t, err, ErrStale)
	require.ErrorIs(t, l.replica.HandOver(t.Context()), ErrNoSuccessor)
	require.ErrorIs(t, l.replica.TransferTo(t.Context(), "n7/A"), ErrNoServer)
}

func TestElectionDoesNotWaitForADeadLeader(t *testing.T) {
	members := newGroup(t, 3, WAL)
	apply(t, members, "a")
	l := leader(t, members)
	for _, m := range members {
		m.replica.setPatience(time.Hour, time.Hour)
	}
	l.stop() // its listener and connections close, as those of a process that was killed
	apply(t, slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m == l }), "b")
}

// wrong-replica-votes: a replica that lost its files and came back under another id does not vote for the one that it was.
func TestWrongReplicaVotes(t *testing.T) {
	members := newGroup(t, 3, WAL)
	apply(t, members, "a")
	l := leader(t, members)
	var wiped, other *member
	for _, m := range members {
		switch {
		case m == l:
		case wiped == nil:
			wiped = m
		default:
			other = m
		}
	}
	wiped.close()
	require.NoError(t, Discard(wiped.dir))
	require.ErrorIs(t, wiped.start(), ErrMissing, "it does not start without its files")
	wiped.close()
	fresh := newMember(t, wiped.group, wiped.node()+"/B", WAL)
	l.close()
	require.Never(t, func() bool { return other.replica.IsLeader() || fresh.replica.IsLeader() }, 2*time.Second, 50*time.Millisecond,
		"one of three voters is no majority, whoever else listens at the others' addresses")
	require.NoError(t, l.start())
	members = []*member{l, other, fresh}
	apply(t, members, "b")
	addVoter(t, members, fresh)
	requireEntries(t, fresh, "a", "b")
}

// bit-flip: whatever is changed, cut or removed of a replica's files is found before it starts.
func TestBitFlipInAReplica(t *testing.T) {
	damage := map[string]func(t *testing.T, path string){
		"flip": func(t *testing.T, path string) {
			t.Helper()
			b, err := os.ReadFile(path)
			require.NoError(t, err)
			i := strings.Index(string(b), "entry number 7")
			if i < 0 {
				i = len(b) / 2
			}
			b[i] ^= 0x10
			require.NoError(t, os.WriteFile(path, b, 0o600))
		},
		"cut": func(t *testing.T, path string) {
			t.Helper()
			st, err := os.Stat(path)
			require.NoError(t, err)
			require.NoError(t, os.Truncate(path, min(st.Size()/2, 400)))
		},
		"remove": func(t *testing.T, path string) {
			t.Helper()
			require.NoError(t, os.Remove(path))
		},
	}
	for name, hurt := range damage {
		for _, pattern := range []string{"*.wal", "durable", "snapshots/*/state.bin", "snapshots/*/meta.json"} {
			t.Run(name+" "+strings.ReplaceAll(pattern, "/", "_"), func(t *testing.T) {
				members := newGroup(t, 1, WAL)
				for i := range 20 {
					apply(t, members, fmt.Sprintf("entry number %d", i))
				}
				m := members[0]
				if strings.HasPrefix(pattern, "snapshots") {
					require.NoError(t, m.replica.Checkpoint())
				}
				m.close()
				files, err := filepath.Glob(filepath.Join(m.dir, pattern))
				require.NoError(t, err)
				require.NotEmpty(t, files)
				hurt(t, files[0])
				err = m.start()
				if !errors.Is(err, logstore.ErrCorrupt) && !errors.Is(err, ErrMissing) {
					// The file could be hurt where nothing is: then all must be there.
					require.NoError(t, err)
					require.Contains(t, []string{"flip durable", "cut durable"}, name+" "+pattern)
				}
			})
		}
	}
}

// Where the newest snapshot can't be restored, the replica does not begin with an older one, behind which the log is cut.
func TestUnreadableSnapshotIsNotPassedOver(t *testing.T) {
	members := newGroup(t, 1, WAL)
	m := members[0]
	for _, e := range []string{"old", "new"} {
		apply(t, members, e)
		require.NoError(t, m.replica.Checkpoint())
	}
	newest := m.replica.snapshots.newest()
	m.close()
	m.unreadable = "new"
	err := m.start()
	require.ErrorIs(t, err, errUnreadable)
	require.ErrorContains(t, err, newest)
	m.close()
	m.unreadable = ""
	require.NoError(t, m.start())
	requireEntries(t, m, "old", "new")
}

// TestCloseEndsWhatIsUnderWay closes the leader while calls wait for what they began: each of them ends.
func TestCloseEndsWhatIsUnderWay(t *testing.T) {
	members := newGroup(t, 1, WAL)
	apply(t, members, "a")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range 1000 {
				err := members[0].replica.Await(context.Background(), func(rf *raft.Raft) raft.Future {
					if i%2 == 0 {
						return rf.VerifyLeader()
					}
					return rf.Apply([]byte("b"), time.Minute)
				})
				if err != nil {
					assert.ErrorIs(t, err, ErrClosed)
					return
				}
			}
		})
	}
	require.NoError(t, members[0].replica.Close())
	wg.Wait()
}

// The leader tells how far each other node is behind, also one that is dead, and one that was dead before it led.
func TestBehind(t *testing.T) {
	members := newGroup(t, 3, WAL)
	apply(t, members, "a")
	behind := func(of *member, by uint64) {
		t.Helper()
		require.Eventually(t, func() bool { return leader(t, members).replica.Behind()[of.node()] == by }, waitFor, 10*time.Millisecond,
			"%s is %d behind", of.node(), by)
	}
	l := leader(t, members)
	followers := slices.DeleteFunc(slices.Clone(members), func(m *member) bool { return m == l })
	require.Len(t, l.replica.Behind(), 2)
	for _, f := range followers {
		behind(f, 0)
		require.Nil(t, f.replica.Behind(), "only the leader knows")
	}
	followers[0].close()
	apply(t, members, "b", "c", "d")
	behind(followers[0], 3)
	behind(followers[1], 0)
	require.NoError(t, followers[0].start())
	behind(followers[0], 0)

	l.close()
	require.NoError(t, l.start())
	next := leader(t, members)
	next.close()
	last := leader(t, members)
	require.Eventually(t, func() bool {
		return last.replica.Behind()[next.node()] == last.replica.Raft().LastIndex()-max(last.replica.FirstIndex(), 1)+1
	}, waitFor, 10*time.Millisecond, "it was never heard of")
}

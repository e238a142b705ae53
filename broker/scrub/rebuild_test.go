package scrub

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/cluster/transport"
)

const (
	rebuildWithin = 30 * time.Second
	rebuildTick   = 10 * time.Millisecond
)

// group is a real Raft group, whose nodes scrub their replicas.
type group struct {
	t     *testing.T
	nodes []*groupNode

	mu    sync.Mutex
	addrs map[string]string // guarded by mu
}

// groupNode is one node with one replica.
type groupNode struct {
	nodev1.NodeServiceClient

	g        *group
	name, id string
	dir      string
	tr       *transport.Transport
	stop     context.CancelFunc
	done     chan struct{}
	replica  *replica.Replica
	scrubber *Scrubber
	causes   []error // of Repair
	lags     bool    // it says that it has applied nothing
}

// dataFSM remembers what was applied.
type dataFSM struct {
	mu   sync.Mutex
	data []byte
}

func (f *dataFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.data = append(f.data, l.Data...)
	return nil
}

func (f *dataFSM) Snapshot() (raft.FSMSnapshot, error) {
	return nil, fmt.Errorf("no snapshot is taken here")
}
func (f *dataFSM) Restore(io.ReadCloser) error { return fmt.Errorf("there is no snapshot") }

func (g *group) RaftAddr(nodeID string) (string, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	addr, ok := g.addrs[nodeID]
	return addr, ok
}

func (g *group) Client(nodeID string) (nodev1.NodeServiceClient, error) {
	for _, n := range g.nodes {
		if n.name == nodeID && n.replica != nil {
			return n, nil
		}
	}
	return nil, errDown
}

func (n *groupNode) DigestLog(ctx context.Context, req *nodev1.DigestLogRequest, _ ...grpc.CallOption) (*nodev1.DigestLogResponse, error) {
	return n.scrubber.DigestLog(ctx, req)
}

func (n *groupNode) GetReplica(_ context.Context, req *nodev1.GetReplicaRequest, _ ...grpc.CallOption) (*nodev1.GetReplicaResponse, error) {
	res, err := broker.NewReplicas(n.replica, nil, nil).Describe(req.GetGroup())
	if n.lags && err == nil {
		res.AppliedIndex = 0
	}
	return res, err
}

// newGroup starts three voters.
func newGroup(t *testing.T) *group {
	t.Helper()
	g := &group{t: t, addrs: make(map[string]string)}
	for i := range 3 {
		n := &groupNode{g: g, name: fmt.Sprintf("n%d", i+1)}
		g.nodes = append(g.nodes, n)
		n.create("A")
		if i == 0 {
			require.NoError(t, n.replica.Bootstrap())
		} else {
			n.join()
		}
	}
	return g
}

// create makes the node's replica anew.
func (n *groupNode) create(id string) {
	n.g.t.Helper()
	n.id, n.dir = n.name+"/"+id, filepath.Join(n.g.t.TempDir(), "r")
	require.NoError(n.g.t, replica.Create(n.dir))
	require.NoError(n.g.t, n.open())
	n.g.t.Cleanup(n.close)
}

func (n *groupNode) open() error {
	t := n.g.t
	t.Helper()
	tr, err := transport.Listen(t.Context(), transport.Config{Addr: "127.0.0.1:0", Resolver: n.g})
	require.NoError(t, err)
	tr.SetClusterID("c1")
	ctx, cancel := context.WithCancel(context.Background())
	n.tr, n.stop, n.done = tr, cancel, make(chan struct{})
	go func() { // joined by close
		defer close(n.done)
		_ = tr.Run(ctx)
	}()
	n.g.mu.Lock()
	n.g.addrs[n.name] = tr.Addr().String()
	n.g.mu.Unlock()
	r, err := replica.Open(replica.Config{
		Dir: n.dir, Group: transport.Metadata, ID: n.id, Addr: tr.Addr().String(), FSM: &dataFSM{}, Transport: tr,
		Timeouts: replica.Timeouts{Heartbeat: 2 * time.Second, Election: 2 * time.Second, Lease: time.Second, Commit: 50 * time.Millisecond},
		Fatal:    func(err error) { t.Errorf("fatal: %v", err) },
	})
	if err != nil {
		return err
	}
	n.replica = r
	m, b, _ := stored(t)
	n.scrubber = newScrubber(t, m, b, nil)
	n.scrubber.cfg.BytesPerSecond = 1 << 30
	n.scrubber.cfg.Peers = n.g
	n.scrubber.cfg.Replicas = func() []Local { return []Local{{Replica: n.replica, IsMetadata: true}} }
	n.scrubber.cfg.Repair = func(ctx context.Context, r Local, cause error) error {
		n.causes = append(n.causes, cause)
		return broker.GiveUp(ctx, n.g, r.Group(), n.replica, cause)
	}
	return nil
}

func (n *groupNode) close() {
	if n.stop == nil {
		return
	}
	if n.replica != nil {
		_ = n.replica.Close()
	}
	n.stop()
	<-n.done
	n.stop, n.replica = nil, nil
}

func (g *group) leader() *groupNode {
	g.t.Helper()
	var l *groupNode
	require.Eventually(g.t, func() bool {
		for _, n := range g.nodes {
			if n.replica != nil && n.replica.IsLeader() && n.replica.Raft().VerifyLeader().Error() == nil {
				l = n
				return true
			}
		}
		return false
	}, rebuildWithin, rebuildTick, "a leader")
	return l
}

func (g *group) change(c nodev1.MembershipChange, id, addr string) {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		l := g.leader()
		_, err := l.replica.ChangeMembership(g.t.Context(), c, id, addr, l.replica.Status().ConfigurationIndex)
		return err == nil
	}, rebuildWithin, rebuildTick, "%s of %s", c, id)
}

// join makes the node's replica a voter.
func (n *groupNode) join() {
	n.g.t.Helper()
	n.g.change(nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER, n.id, n.tr.Addr().String())
	n.g.inSync()
	n.g.change(nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE, n.id, n.tr.Addr().String())
}

// inSync waits until all replicas have applied all.
func (g *group) inSync() {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		l := g.leader()
		for _, n := range g.nodes {
			if n.replica != nil && n.replica.Raft().AppliedIndex() < l.replica.Raft().LastIndex() {
				return false
			}
		}
		return true
	}, rebuildWithin, rebuildTick, "all have all")
}

func (g *group) apply(entries ...string) {
	g.t.Helper()
	for _, e := range entries {
		require.NoError(g.t, g.leader().replica.Raft().Apply([]byte(e), time.Second).Error())
	}
	g.inSync()
}

// differ gives a replica, which does not run meanwhile, another entry, with a checksum that fits.
func (n *groupNode) differ(from, to string) {
	t := n.g.t
	t.Helper()
	n.close()
	s, err := logstore.OpenWAL(logstore.Config{Dir: n.dir, Fatal: func(err error) { t.Error(err) }})
	require.NoError(t, err)
	require.NoError(t, s.Verify(0, 0))
	last, err := s.LastIndex()
	require.NoError(t, err)
	var tail []*raft.Log
	for i := uint64(1); i <= last; i++ {
		l := &raft.Log{}
		require.NoError(t, s.GetLog(i, l))
		if string(l.Data) == from {
			l.Data = []byte(to)
			tail = []*raft.Log{l}
		} else if tail != nil {
			tail = append(tail, l)
		}
	}
	require.NotEmpty(t, tail)
	require.NoError(t, s.DeleteRange(tail[0].Index, last))
	require.NoError(t, s.StoreLogs(tail))
	require.NoError(t, s.Close())
	require.NoError(t, n.open())
}

// round lets every node scrub once, and returns how many replicas differ.
func (g *group) round() (diverged float64) {
	g.t.Helper()
	g.inSync()
	for _, n := range g.nodes {
		if n.replica != nil {
			n.scrubber.round(g.t.Context())
			diverged += testutil.ToFloat64(n.scrubber.metrics.diverged)
		}
	}
	return diverged
}

// TestMinorityIsRebuilt: a replica that the two others contradict is given up, also one that leads, is not opened again, and
// the one that takes its place is equal to the others.
func TestMinorityIsRebuilt(t *testing.T) {
	for name, leads := range map[string]bool{"a follower": false, "the leader": true} {
		t.Run(name, func(t *testing.T) {
			g := newGroup(t)
			g.apply("one", "two", "three")
			require.Zero(t, g.round())
			var bad *groupNode
			for _, n := range g.nodes {
				if n != g.leader() {
					bad = n
				}
			}
			bad.differ("two", "2!!")
			g.inSync()
			if leads {
				require.Eventually(t, func() bool {
					return g.leader() == bad || g.leader().replica.TransferTo(t.Context(), bad.id) == nil && bad.replica.IsLeader()
				}, rebuildWithin, rebuildTick)
			}
			g.apply("four")
			require.InDelta(t, 1, g.round(), 0)
			for _, n := range g.nodes {
				require.Equal(t, n == bad, len(n.causes) > 0, n.name)
			}
			require.True(t, bad.replica.GivingUp())
			require.NoError(t, bad.replica.HandOver(t.Context()))
			require.Eventually(t, func() bool { return g.leader() != bad }, rebuildWithin, rebuildTick)

			old := bad.id
			bad.close()
			var corrupt *logstore.CorruptError
			require.ErrorAs(t, bad.open(), &corrupt)
			require.Contains(t, corrupt.Reason, old)
			bad.close()
			require.NoError(t, replica.Discard(bad.dir))
			g.change(nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE, old, "")
			bad.create("B")
			bad.join()
			g.apply("five")
			require.Zero(t, g.round())
			require.Positive(t, testutil.ToFloat64(bad.scrubber.metrics.compared))
		})
	}
}

// TestOneIsGivenUpAtATime: a replica is not given up while another one of its group is away, behind or given up itself, nor
// where the others are no majority; and where all is well it is.
func TestOneIsGivenUpAtATime(t *testing.T) {
	g := newGroup(t)
	g.apply("one")
	a, b, c := g.nodes[0], g.nodes[1], g.nodes[2]
	damage := &logstore.CorruptError{File: "f", Reason: "r"}
	giveUp := func(n *groupNode) error {
		return broker.GiveUp(t.Context(), g, &nodev1.Group{Metadata: true}, n.replica, damage)
	}
	require.ErrorIs(t, b.replica.GiveUp(func() error {
		require.ErrorContains(t, giveUp(a), b.id+" is damaged itself")
		require.False(t, a.replica.GivingUp(), "another one may go on")
		return errDown
	}), errDown)
	b.lags = true
	first := make(chan error)
	go func() { first <- giveUp(a) }()
	require.Eventually(t, a.replica.GivingUp, rebuildWithin, rebuildTick)
	require.ErrorContains(t, giveUp(a), b.id+" has applied index 0", "while the first call asks")
	require.ErrorContains(t, <-first, b.id+" has applied index 0")
	b.lags = false
	c.close()
	require.ErrorIs(t, giveUp(a), errDown)
	require.NoError(t, c.open())
	g.inSync()
	require.NoError(t, giveUp(a))
	require.NoError(t, giveUp(a), "it was done")
	require.ErrorContains(t, giveUp(b), a.id+" is damaged itself")
	a.close()
	require.NoError(t, a.open())
	g.inSync()

	g.change(nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE, c.id, "")
	c.close()
	g.nodes = g.nodes[:2]
	g.inSync()
	require.ErrorContains(t, giveUp(a), "no majority")
	require.False(t, a.replica.GivingUp())
	left := g.leader()
	other := a
	if left == a {
		other = b
	}
	g.change(nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE, other.id, "")
	require.Eventually(t, func() bool { return len(left.replica.Status().Servers) == 1 }, rebuildWithin, rebuildTick)
	require.ErrorIs(t, giveUp(left), broker.ErrOnlyReplica)
}

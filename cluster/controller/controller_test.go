package controller

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errDown = errors.New("node is down")

// fakeCluster serves a sim to a Controller: metadata, gossip and peers in one.
type fakeCluster struct {
	mu         sync.Mutex
	sim        *sim
	leads      bool
	noBarrier  bool
	changed    chan struct{}
	gossiped   chan struct{}
	asked      int
	proposed   int
	failChange error // what ChangeMembership answers
	changes    int
}

func newFakeCluster(s *sim) *fakeCluster {
	return &fakeCluster{sim: s, leads: true, changed: make(chan struct{}), gossiped: make(chan struct{})}
}

// do changes the cluster and wakes those who watch it.
func (f *fakeCluster) do(change func(s *sim)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change(f.sim)
	f.sim.tick()
	close(f.changed)
	close(f.gossiped)
	f.changed, f.gossiped = make(chan struct{}), make(chan struct{})
}

func (f *fakeCluster) View() *fsm.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sim.view()
}

func (f *fakeCluster) Watch() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changed
}

func (f *fakeCluster) Changed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gossiped
}

func (f *fakeCluster) Barrier(ctx context.Context) error {
	f.mu.Lock()
	bad := f.noBarrier
	f.mu.Unlock()
	if bad {
		return errors.New("no barrier")
	}
	return ctx.Err()
}

func (f *fakeCluster) IsLeader() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.leads
}

func (f *fakeCluster) IncarnationAlive(nodeID, incarnation string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	n, ok := f.sim.view().Node(nodeID)
	_, down := f.sim.down[nodeID]
	return ok && !down && n.Incarnation == incarnation
}

func (f *fakeCluster) Propose(_ context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	var res *metav1.Result
	var err error
	f.do(func(s *sim) {
		f.proposed++
		s.index++
		res, err = s.state.Apply(s.index, cmd)
	})
	if err == nil && res.GetRejection() != nil {
		err = &fsm.Rejection{Reason: streamhousev1.ErrorReason(res.GetRejection().GetReason()), Message: res.GetRejection().GetMessage()}
	}
	return res, err
}

func (f *fakeCluster) Client(nodeID string) (nodev1.NodeServiceClient, error) {
	if nodeID == "" {
		return nil, errDown
	}
	return &fakePeer{f: f, node: nodeID}, nil
}

type fakePeer struct {
	nodev1.NodeServiceClient
	f    *fakeCluster
	node string
}

func groupOf(g *nodev1.Group) GroupID {
	if g.GetMetadata() {
		return Metadata
	}
	return GroupID(g.GetShard())
}

func (p *fakePeer) GetReplica(_ context.Context, req *nodev1.GetReplicaRequest, _ ...grpc.CallOption) (*nodev1.GetReplicaResponse, error) {
	p.f.mu.Lock()
	defer p.f.mu.Unlock()
	p.f.asked++
	g := p.f.sim.groups[groupOf(req.GetGroup())]
	if _, down := p.f.sim.down[p.node]; down || g == nil {
		return nil, errDown
	}
	res := &nodev1.GetReplicaResponse{State: "Follower", LeaderReplicaId: g.Leader, LastIndex: 1000, CommitIndex: 1000, AppliedIndex: 1000}
	for _, s := range g.Servers {
		res.Servers = append(res.Servers, &nodev1.Server{ReplicaId: s.ReplicaID, Voter: s.Voter})
		if fsm.NodeOf(s.ReplicaID) == p.node {
			res.ReplicaId = s.ReplicaID
		}
	}
	if p.f.sim.frozen[p.node] {
		res.AppliedIndex, res.LastIndex = 10, 10
	}
	if g.Leader == res.GetReplicaId() && p.f.sim.hasMajority(groupOf(req.GetGroup())) {
		res.State, res.ConfigurationIndex = "Leader", g.Index
	}
	return res, nil
}

func (p *fakePeer) ChangeMembership(_ context.Context, req *nodev1.ChangeMembershipRequest, _ ...grpc.CallOption) (*nodev1.ChangeMembershipResponse, error) {
	p.f.mu.Lock()
	failed := p.f.failChange
	p.f.changes++
	p.f.mu.Unlock()
	if failed != nil {
		return nil, failed
	}
	p.f.do(func(s *sim) {
		id := groupOf(req.GetGroup())
		require.Equal(s.t, fsm.NodeOf(s.groups[id].Leader), p.node)
		s.change(&ChangeMembership{
			Group: id, Leader: s.groups[id].Leader, Change: req.GetChange(), ReplicaID: req.GetReplicaId(), Index: req.GetPreviousIndex(),
		})
	})
	return &nodev1.ChangeMembershipResponse{}, nil
}

func (p *fakePeer) TransferLeadership(_ context.Context, req *nodev1.TransferLeadershipRequest, _ ...grpc.CallOption) (*nodev1.TransferLeadershipResponse, error) {
	p.f.do(func(s *sim) { s.groups[groupOf(req.GetGroup())].Leader = req.GetReplicaId() })
	return &nodev1.TransferLeadershipResponse{}, nil
}

// started runs a controller on n1 until the test's bubble ends.
func started(t *testing.T, f *fakeCluster, change func(c *Config)) {
	t.Helper()
	cfg := Config{NodeID: "n1", Metadata: f, Gossip: f, Peers: f, Bucket: object.NewMemory()}
	if change != nil {
		change(&cfg)
	}
	c := New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- c.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
	})
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

func (f *fakeCluster) check(look func(s *sim)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	look(f.sim)
}

func TestClusterComesUpFast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 6)
		s.join("n1")
		f := newFakeCluster(s)
		reg := prometheus.NewRegistry()
		started(t, f, func(c *Config) { c.Registerer = reg })
		pass(300 * time.Millisecond)
		f.check(func(s *sim) { s.requireWhole(1) })
		f.do(func(s *sim) { s.join("n2"); s.join("n3") })
		pass(time.Second)
		f.check(func(s *sim) {
			s.requireWhole(3)
			require.Equal(t, []string{"n1", "n2", "n3"}, s.voters(Metadata))
		})
		pass(2 * spreadAfter)
		f.check(func(s *sim) {
			_, leads := s.counts()
			require.Equal(t, map[string]int{"n1": 2, "n2": 2, "n3": 2}, leads)
		})
		n, err := testutil.GatherAndCount(reg, "streamhouse_controller_actions_total")
		require.NoError(t, err)
		require.Equal(t, len(actionKinds), n)
	})
}

func TestIdleClusterCostsLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster(boot(t, 6, "n1", "n2", "n3"))
		started(t, f, nil)
		pass(20 * time.Second)
		f.check(func(*sim) { f.asked = 0 })
		pass(time.Minute)
		f.check(func(*sim) {
			require.LessOrEqual(t, f.asked, 7*31)
			require.Positive(t, f.asked)
			f.asked = 0
		})
		// Uploads change the metadata all the time and are none of its business.
		for range 600 {
			f.allocate()
			pass(100 * time.Millisecond)
		}
		f.check(func(*sim) { require.LessOrEqual(t, f.asked, 7*31) })
	})
}

// allocate changes the metadata in something that the controller has nothing to do with.
func (f *fakeCluster) allocate() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sim.apply(&metav1.Command{Command: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIDs{Count: 1}}})
	close(f.changed)
	f.changed = make(chan struct{})
}

func TestOnlyTheMetadataLeaderActs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSim(t, 2)
		s.join("n1")
		f := newFakeCluster(s)
		f.leads = false
		started(t, f, nil)
		pass(time.Minute)
		f.check(func(*sim) { require.Zero(t, f.asked+f.proposed) })
		f.do(func(*sim) { f.leads, f.noBarrier = true, true })
		pass(time.Minute)
		f.check(func(*sim) { require.Zero(t, f.proposed, "it may not know yet what was decided") })
		f.do(func(*sim) { f.noBarrier = false })
		pass(time.Second)
		f.check(func(s *sim) { require.Len(t, s.view().Shards(), 2) })
	})
}

func TestDeadNodeIsReplacedAfterAWhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster(boot(t, 3, "n1", "n2", "n3", "n4"))
		started(t, f, func(c *Config) { c.ReplaceAfter = 5 * time.Minute })
		pass(time.Second)
		f.do(func(s *sim) { s.kill("n2") })
		pass(4 * time.Minute)
		f.check(func(s *sim) { require.NotZero(t, countsOf(s)["n2"]) })
		// Another leader has not watched for so long; this one begins anew.
		f.do(func(*sim) { f.leads = false })
		pass(time.Second)
		f.do(func(*sim) { f.leads = true })
		pass(4 * time.Minute)
		f.check(func(s *sim) { require.NotZero(t, countsOf(s)["n2"]) })
		pass(2 * time.Minute)
		f.check(func(s *sim) {
			s.requireWhole(3)
			require.Zero(t, countsOf(s)["n2"])
			require.Equal(t, []string{"n1", "n3", "n4"}, s.voters(Metadata))
		})
	})
}

// counts-too-early: a replica that has not caught up gets no vote, however long that takes.
func TestCountsTooEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster(boot(t, 1, "n1", "n2"))
		started(t, f, nil)
		pass(time.Second)
		f.do(func(s *sim) { s.join("n3") })
		pass(20 * time.Millisecond)
		f.do(func(s *sim) { s.frozen["n3"] = true })
		pass(time.Minute)
		f.check(func(s *sim) {
			require.Equal(t, []string{"n1", "n2"}, s.voters(0))
			require.Equal(t, []string{"n1", "n2"}, s.voters(Metadata)[:2])
		})
		f.do(func(s *sim) { clear(s.frozen) })
		pass(time.Second)
		f.check(func(s *sim) { s.requireWhole(3) })
	})
}

// A shard is led by a replica that is not wished for any more, and this controller has never seen it lead: it is found, and
// removed all the same.
func TestLeaderThatIsNotWishedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster(boot(t, 1, "n1", "n2", "n3", "n4"))
		f.do(func(s *sim) {
			for _, node := range []string{"n1", "n2", "n3", "n4"} {
				if countsOf(s)[node] == 0 {
					g := s.groups[0]
					g.Leader = node + "/old"
					g.Servers = append(g.Servers, Server{ReplicaID: g.Leader, Voter: true})
				}
			}
		})
		started(t, f, nil)
		pass(time.Minute)
		f.check(func(s *sim) { s.requireWhole(3) })
	})
}

// TestReplicaThatIsBehindDoesNotLead holds that leadership is not handed to whom Raft would wait for.
func TestReplicaThatIsBehindDoesNotLead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster(boot(t, 4, "n1", "n2", "n3"))
		f.do(func(s *sim) {
			for id := range GroupID(4) {
				s.groups[id].Leader = replicaOn(s, id, "n1")
			}
			s.frozen["n2"], s.frozen["n3"] = true, true
		})
		started(t, f, nil)
		pass(time.Minute)
		f.check(func(s *sim) {
			_, leads := s.counts()
			require.Equal(t, map[string]int{"n1": 4}, leads)
		})
		f.do(func(s *sim) { clear(s.frozen) })
		pass(time.Minute)
		f.check(func(s *sim) {
			_, leads := s.counts()
			require.LessOrEqual(t, leads["n1"], 2)
		})
	})
}

func TestFailingStepsBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeCluster(boot(t, 1, "n1", "n2"))
		f.failChange = errors.New("no")
		started(t, f, nil)
		f.do(func(s *sim) { s.join("n3") })
		pass(time.Minute)
		f.check(func(*sim) {
			require.Greater(t, f.changes, 5)
			require.Less(t, f.changes, 40, "two steps, each at most every 10 s in the end")
			f.failChange = nil
		})
		pass(15 * time.Second)
		f.check(func(s *sim) { s.requireWhole(3) })
	})
}

func TestConfigNamesWhatIsMissing(t *testing.T) {
	f := newFakeCluster(newSim(t, 1))
	full := Config{NodeID: "n1", Metadata: f, Gossip: f, Peers: f, Bucket: object.NewMemory()}
	for field, unset := range map[string]func(c *Config){
		"NodeID":   func(c *Config) { c.NodeID = "" },
		"Metadata": func(c *Config) { c.Metadata = nil },
		"Gossip":   func(c *Config) { c.Gossip = nil },
		"Peers":    func(c *Config) { c.Peers = nil },
		"Bucket":   func(c *Config) { c.Bucket = nil },
	} {
		c := full
		unset(&c)
		require.ErrorContains(t, New(c).Run(t.Context()), field)
	}
	c := full
	c.setDefaults()
	require.Equal(t, time.Minute, c.JanitorInterval)
	c = full
	c.ObjectGrace = time.Second
	c.setDefaults()
	require.Equal(t, time.Second, c.JanitorInterval)
}

func TestStepsSayWhatTheyDo(t *testing.T) {
	for want, a := range map[string]Action{
		"remove node n1": &Propose{Command: &metav1.Command{Command: &metav1.Command_RemoveNode{RemoveNode: &metav1.RemoveNode{NodeId: "n1"}}}},
		"propose":        &Propose{Command: &metav1.Command{Command: &metav1.Command_CreateTopic{}}},
		"metadata: remove n1/a": &ChangeMembership{
			Group: Metadata, Change: nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE, ReplicaID: "n1/a",
		},
		"shard 3: transfer from a/1 to b/2": &Transfer{Group: 3, Leader: "a/1", To: "b/2"},
	} {
		require.True(t, strings.HasPrefix(a.String(), want), a.String())
		require.True(t, slices.Contains(actionKinds, a.kind()))
	}
}

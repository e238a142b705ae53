package broker

import (
	"bytes"
	"context"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeMetadata is a metadata group whose view may lag behind what is committed.
type fakeMetadata struct {
	mu       sync.Mutex
	state    *fsm.State
	index    uint64
	visible  *fsm.View
	changed  chan struct{}
	lag      bool  // what is committed becomes visible with the next barrier only
	down     error // what Barrier and Propose fail with
	barriers int
	leader   string
	overtake func() // see onView
}

func newFakeMetadata(t *testing.T) *fakeMetadata {
	t.Helper()
	m := &fakeMetadata{state: fsm.New(), changed: make(chan struct{}), leader: "n1"}
	m.visible = m.state.View()
	m.must(t, &metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
		ClusterId: "c1", ClusterName: "test", Shards: 2, ObjectStore: "file:///x", TimeMs: 1,
	}}})
	for _, id := range []string{"n1", "n2", "n3"} {
		m.must(t, &metav1.Command{Command: &metav1.Command_RegisterNode{RegisterNode: &metav1.RegisterNode{
			NodeId: id, Incarnation: "i" + id, MetadataReplicaId: id + "/m", RaftAddr: id + ":7000", GrpcAddr: id + ":50051",
			HttpAddr: id + ":8080", GossipAddr: id + ":7946", FeatureLevel: fsm.FeatureLevel, TimeMs: 1,
		}}})
	}
	for n := range uint32(2) {
		m.must(t, &metav1.Command{Command: &metav1.Command_CreateShard{CreateShard: &metav1.CreateShard{
			Shard: n, Replica: newReplica("n1"),
		}}})
		m.must(t, &metav1.Command{Command: &metav1.Command_NoteReplica{NoteReplica: &metav1.NoteReplica{
			Shard: n, ReplicaId: "n1/r", State: metav1.ReplicaState_REPLICA_STATE_STARTED,
		}}})
		sh, _ := m.state.View().Shard(n)
		m.must(t, &metav1.Command{Command: &metav1.Command_SetShardReplicas{SetShardReplicas: &metav1.SetShardReplicas{
			Shard: n, Version: sh.Version, Replicas: []*metav1.Replica{newReplica("n1"), newReplica("n2"), newReplica("n3")},
		}}})
	}
	m.createTopic(t, "pad", 1, nil) // takes id 1, so that the next topic's partition 0 is in shard 0
	return m
}

func newReplica(node string) *metav1.Replica {
	return &metav1.Replica{ReplicaId: node + "/r", NodeId: node, State: metav1.ReplicaState_REPLICA_STATE_NEW}
}

func (m *fakeMetadata) must(t *testing.T, cmd *metav1.Command) *metav1.Result {
	t.Helper()
	res, err := m.Propose(t.Context(), cmd)
	require.NoError(t, err)
	return res
}

func (m *fakeMetadata) createTopic(t *testing.T, name string, partitions uint32, config map[string]string) *fsm.Topic {
	t.Helper()
	uuid := make([]byte, 16)
	copy(uuid, name)
	uuid[15] = 1
	m.must(t, &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: name, Uuid: uuid, Partitions: partitions, Config: config, TimeMs: 1,
	}}})
	topic, ok := m.state.View().Topic(name)
	require.True(t, ok)
	return topic
}

// recovered begins the metadata anew, as after a recovery.
func (m *fakeMetadata) recovered(t *testing.T) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	v, _, err := fsm.Recover(&fsm.Recovery{ID: "01R", Base: m.state.View(), ClusterID: "c1", ClusterName: "test", Shards: 2})
	require.NoError(t, err)
	var snapshot bytes.Buffer
	require.NoError(t, fsm.WriteSnapshot(v, &snapshot))
	require.NoError(t, m.state.Restore(&snapshot))
	m.showLocked()
}

func (m *fakeMetadata) View() *fsm.View {
	m.mu.Lock()
	view, overtake := m.visible, m.overtake
	m.overtake = nil
	m.mu.Unlock()
	if overtake != nil {
		overtake()
	}
	return view
}

// onView has f called by the next View, which then returns what was visible before.
func (m *fakeMetadata) onView(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.overtake = f
}

// viewOf returns a view with these topics, and "pad".
func viewOf(t *testing.T, topics ...string) func() *fsm.View {
	t.Helper()
	m := newFakeMetadata(t)
	for _, name := range topics {
		m.createTopic(t, name, 1, nil)
	}
	return m.View
}

func (m *fakeMetadata) Watch() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *fakeMetadata) showLocked() {
	m.visible = m.state.View()
	close(m.changed)
	m.changed = make(chan struct{})
}

func (m *fakeMetadata) Barrier(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.barriers++
	if m.down != nil {
		return m.down
	}
	m.showLocked()
	return ctx.Err()
}

func (m *fakeMetadata) Propose(_ context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down != nil {
		return nil, m.down
	}
	m.index++
	res, err := m.state.Apply(m.index, cmd)
	if err != nil {
		return nil, err
	}
	if rej := res.GetRejection(); rej != nil {
		return nil, &fsm.Rejection{Reason: Reason(rej.GetReason()), Message: rej.GetMessage(), Field: rej.GetField()}
	}
	if !m.lag {
		m.showLocked()
	}
	return res, nil
}

func (m *fakeMetadata) Leader() (string, bool) { return m.leader, m.leader != "" }

// fakeShards are the replicas of the broker's node.
type fakeShards struct {
	mu       sync.Mutex
	replicas map[uint32]LocalShard // guarded by mu
}

func (f *fakeShards) Local(n uint32) (LocalShard, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.replicas[n]
	return l, ok
}

func (f *fakeShards) add(n uint32, l LocalShard) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.replicas[n] = l
}

// fakePeers are the other nodes.
type fakePeers map[string]*fakePeer

func (f fakePeers) Client(nodeID string) (nodev1.NodeServiceClient, error) {
	p, ok := f[nodeID]
	if !ok {
		return nil, errUnreachable
	}
	return p, nil
}

// fakeHistory is the object store: the batches of each object.
type fakeHistory struct {
	mu    sync.Mutex
	logs  map[string]*fakeLog
	errs  map[string]error
	reads int
}

func (h *fakeHistory) Read(_ context.Context, ref *metav1.SegmentRef, offset int64, maxBytes int) ([]byte, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.reads++
	if err := h.errs[ref.GetObject()]; err != nil {
		return nil, err
	}
	return readFrom(h.logs[ref.GetObject()], offset, ref.GetEntry().GetEndOffset(), maxBytes), nil
}

func (h *fakeHistory) FindTime(_ context.Context, ref *metav1.SegmentRef, timestampMs int64) (int64, int64, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.logs[ref.GetObject()].batches {
		for rec, err := range b.All() {
			if err != nil {
				return 0, 0, false, err
			}
			if rec.TimestampMs >= timestampMs {
				return rec.Offset, rec.TimestampMs, true, nil
			}
		}
	}
	return 0, 0, false, nil
}

// fakeGroups describes no replicas.
type fakeGroups struct{ transferred []string }

func (*fakeGroups) Describe(*nodev1.Group) (*nodev1.GetReplicaResponse, error) {
	return nil, newError(reasonShardNotFound, "no replica")
}

func (*fakeGroups) ChangeMembership(context.Context, *nodev1.ChangeMembershipRequest) (uint64, error) {
	return 0, newError(reasonShardNotFound, "no replica")
}

func (g *fakeGroups) TransferLeadership(_ context.Context, _ *nodev1.Group, replicaID string) error {
	g.transferred = append(g.transferred, replicaID)
	return nil
}

// fixture is a broker on node n1 in a cluster of three, with two shards.
type fixture struct {
	*Broker
	meta    *fakeMetadata
	shards  []*fakeShard // led by n1 and n2
	local   *fakeShards  // those of n1
	peers   fakePeers
	history *fakeHistory
	groups  *fakeGroups
}

// newFixture returns a broker; with replicas its node has one of each shard.
func newFixture(t *testing.T, replicas bool) *fixture {
	t.Helper()
	f := &fixture{
		meta: newFakeMetadata(t), shards: []*fakeShard{newFakeShard("n1/r"), newFakeShard("n2/r")}, local: &fakeShards{replicas: make(map[uint32]LocalShard)},
		peers: fakePeers{}, groups: &fakeGroups{},
		history: &fakeHistory{logs: make(map[string]*fakeLog), errs: make(map[string]error)},
	}
	if !replicas {
		f.shards[0].leader = "n3/r"
	}
	for n, s := range f.shards {
		if replicas {
			f.local.add(uint32(n), s.on("n1"))
		}
		for _, node := range []string{"n2", "n3"} {
			if f.peers[node] == nil {
				f.peers[node] = &fakePeer{node: node, shards: make(map[uint32]LocalShard)}
			}
			f.peers[node].shards[uint32(n)] = s.on(node)
		}
	}
	b, err := New(Config{
		NodeID: "n1", Metadata: f.meta, Shards: f.local, Peers: f.peers, History: f.history, Groups: f.groups,
		PeerError: func(err error, sent bool) error {
			if !sent {
				return &Error{Reason: reasonNoLeader, Message: err.Error(), Cause: err}
			}
			return err
		},
	})
	require.NoError(t, err)
	f.Broker = b
	return f
}

// coordinator returns the shard of a group.
func (f *fixture) coordinator(t *testing.T, group string) uint32 {
	t.Helper()
	number, ok := f.meta.View().GroupShard(group)
	require.True(t, ok)
	return number
}

// requireReason checks why a call failed, and returns the metadata of the reason.
func requireReason(t *testing.T, want Reason, err error) map[string]string {
	t.Helper()
	require.Error(t, err)
	e := AsError(err)
	require.Equal(t, want.String(), e.Reason.String(), "%s", err)
	return e.Metadata
}

// upload moves a partition's records below end into the object "one", and cuts them from every replica's log.
func (f *fixture) upload(t *testing.T, id uint64, end int64) {
	t.Helper()
	p, ok := f.meta.state.View().Partition(id)
	require.True(t, ok)
	s := f.shards[p.Shard]
	l := &fakeLog{}
	maxMs := int64(0)
	for _, b := range s.logs[id].batches {
		if b.BaseOffset() >= p.UploadedEnd && b.NextOffset() <= end {
			l.batches = append(l.batches, b)
			maxMs = max(maxMs, b.MaxTimestamp())
		}
	}
	f.history.mu.Lock()
	f.history.logs["one"] = l
	f.history.mu.Unlock()
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: "one", ObjectBytes: 1000, Shard: p.Shard, TimeMs: 2,
		Segments: []*metav1.SegmentEntry{{
			PartitionId: id, BaseOffset: p.UploadedEnd, EndOffset: end, SizeBytes: 500, MaxTimestampMs: maxMs, IndexPosition: 500, IndexBytes: 10,
		}},
	}}})
	s.set(func() {
		for _, node := range []string{"n1", "n2", "n3"} {
			s.cut[node] = end
		}
	})
}

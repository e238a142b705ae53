package rpc

import (
	"context"
	"net"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeMetadata is a metadata group of one.
type fakeMetadata struct {
	mu    sync.Mutex
	state *fsm.State
	index uint64
}

func (m *fakeMetadata) View() *fsm.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.View()
}

func (m *fakeMetadata) Watch() <-chan struct{}            { return nil }
func (m *fakeMetadata) Barrier(ctx context.Context) error { return ctx.Err() }
func (m *fakeMetadata) Leader() (string, bool)            { return "n1", true }

func (m *fakeMetadata) Propose(_ context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.index++
	res, err := m.state.Apply(m.index, cmd)
	if rej := res.GetRejection(); rej != nil {
		return nil, &fsm.Rejection{Reason: broker.Reason(rej.GetReason()), Message: rej.GetMessage(), Field: rej.GetField()}
	}
	return res, err
}

func (m *fakeMetadata) ProposeLocal(context.Context, []byte) (uint64, []byte, error) {
	return 0, nil, metadata.ErrNotLeader
}

func (m *fakeMetadata) ReadIndexLocal(context.Context) (uint64, error) { return 7, nil }

// fakeShard is the leader's replica of the one shard, with one log for each partition.
type fakeShard struct {
	mu      sync.Mutex
	data    map[uint64][]byte
	next    map[uint64]int64
	changed chan struct{}
	before  func(context.Context) error // called by Append, without the lock
}

var _ broker.LocalShard = (*fakeShard)(nil)

func newFakeShard() *fakeShard {
	return &fakeShard{data: make(map[uint64][]byte), next: make(map[uint64]int64), changed: make(chan struct{})}
}

func (s *fakeShard) Leader() (string, bool) { return "n1/r", true }

func (s *fakeShard) Append(ctx context.Context, batches []shard.AppendBatch, _ bool) ([]shard.AppendResult, error) {
	if s.before != nil {
		if err := s.before(ctx); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	results := make([]shard.AppendResult, len(batches))
	for i, b := range batches {
		own := append(record.Batch(nil), b.Data...)
		own.SetBaseOffset(s.next[b.PartitionID])
		results[i].BaseOffset = own.BaseOffset()
		s.data[b.PartitionID] = append(s.data[b.PartitionID], own...)
		s.next[b.PartitionID] = own.NextOffset()
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return results, nil
}

func (s *fakeShard) BeginAppend(ctx context.Context, batches []shard.AppendBatch, durable bool) (func(context.Context) ([]shard.AppendResult, error), error) {
	results, err := s.Append(context.WithoutCancel(ctx), batches, durable)
	return func(context.Context) ([]shard.AppendResult, error) { return results, err }, nil
}

func (s *fakeShard) LeaderHighWatermark(id uint64) (int64, error) { return s.HighWatermark(id), nil }

func (s *fakeShard) HighWatermark(id uint64) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next[id]
}

func (s *fakeShard) WaitHighWatermark(ctx context.Context, id uint64, atLeast int64) error {
	for {
		s.mu.Lock()
		reached, changed := s.next[id] >= atLeast, s.changed
		s.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (s *fakeShard) Read(_ context.Context, id uint64, offset int64, _ int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batches, err := record.Split(s.data[id])
	if err != nil {
		return nil, err
	}
	var out []byte
	for _, b := range batches {
		if b.NextOffset() > offset {
			out = append(out, b...)
		}
	}
	return out, nil
}

func (s *fakeShard) FindTime(context.Context, uint64, int64) (offset, foundMs int64, found bool, err error) {
	return 0, 0, false, nil
}

func (s *fakeShard) RunGroup(context.Context, *metav1.GroupCommand) (group.Answer, error) {
	return group.Answer{Epoch: 3, Assigned: []uint64{1}}, nil
}

func (s *fakeShard) AppliedProgress() []shard.GroupProgress { return nil }

func (s *fakeShard) GroupStates([]string) ([]*metav1.ShardGroup, error) {
	return []*metav1.ShardGroup{{Group: "g", Epoch: 3, Members: []*metav1.ShardGroupMember{{
		Spec: &metav1.GroupMemberSpec{MemberId: "m"}, Epoch: 3, Assigned: []uint64{1},
	}}}}, nil
}

func (s *fakeShard) CommitOffsets(context.Context, string, shard.Committer, []shard.GroupOffset) error {
	return nil
}

func (s *fakeShard) Offsets(string, []uint64) ([]shard.GroupOffset, error) {
	return []shard.GroupOffset{{PartitionID: 1, Offset: 5}}, nil
}

type fakeShards map[uint32]broker.LocalShard

func (f fakeShards) Local(n uint32) (broker.LocalShard, bool) {
	l, ok := f[n]
	return l, ok
}

// fakePeers reach the one other node.
type fakePeers struct{ client nodev1.NodeServiceClient }

func (f fakePeers) Client(string) (nodev1.NodeServiceClient, error) { return f.client, nil }

type fakeHistory struct{}

func (fakeHistory) Read(context.Context, *metav1.SegmentRef, int64, int) ([]byte, error) {
	return nil, errNone
}

func (fakeHistory) FindTime(context.Context, *metav1.SegmentRef, int64) (offset, foundMs int64, found bool, err error) {
	return 0, 0, false, errNone
}

// fakeGroups is this node's replica, which leads.
type fakeGroups struct{}

func (fakeGroups) Describe(*nodev1.Group) (*nodev1.GetReplicaResponse, error) {
	return &nodev1.GetReplicaResponse{ReplicaId: "n1/r", LeaderReplicaId: "n1/r", Term: 1}, nil
}

func (fakeGroups) ChangeMembership(context.Context, *nodev1.ChangeMembershipRequest) (uint64, error) {
	return 9, nil
}

func (fakeGroups) TransferLeadership(context.Context, *nodev1.Group, string) error { return nil }

// fakeDigests is this node's replica with a log of nine entries.
type fakeDigests struct{}

func (fakeDigests) DigestLog(_ context.Context, req *nodev1.DigestLogRequest) (*nodev1.DigestLogResponse, error) {
	return &nodev1.DigestLogResponse{ReplicaId: "n1/r", FirstIndex: req.GetFirstIndex(), AppliedIndex: 9, Sha256: []byte{1}}, nil
}

type fakeJoiner struct{}

func (fakeJoiner) Join(context.Context, *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
	return nil, &fsm.Rejection{Reason: streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER, Message: "another cluster"}
}

// listen serves on a listener in memory and returns a connection to it.
func listen(t *testing.T, s *grpc.Server) *grpc.ClientConn {
	t.Helper()
	l := bufconn.Listen(1 << 20)
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	conn, err := grpc.NewClient("passthrough:///mem", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	require.NoError(t, err)
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		require.NoError(t, <-done)
	})
	return conn
}

// cluster is node n1, which leads the one shard, and node n2, which has no replica. The clients talk to n2.
type cluster struct {
	shard  *fakeShard
	node   nodev1.NodeServiceClient // n1's
	log    streamhousev1.StreamHouseServiceClient
	admin  streamhousev1.ClusterServiceClient
	conn   *grpc.ClientConn
	broker *broker.Broker
	reg    *prometheus.Registry
}

func newCluster(t *testing.T, cfg Config) *cluster {
	t.Helper()
	m := &fakeMetadata{state: fsm.New()}
	for _, cmd := range []*metav1.Command{
		{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{ClusterId: "c1", ClusterName: "test", Shards: 1, ObjectStore: "file:///x", TimeMs: 1}}},
		{Command: &metav1.Command_RegisterNode{RegisterNode: &metav1.RegisterNode{
			NodeId: "n1", Incarnation: "i1", MetadataReplicaId: "n1/m", RaftAddr: "n1:1", GrpcAddr: "n1:2", HttpAddr: "n1:3", GossipAddr: "n1:4", FeatureLevel: 1, TimeMs: 1,
		}}},
		{Command: &metav1.Command_CreateShard{CreateShard: &metav1.CreateShard{Replica: &metav1.Replica{
			ReplicaId: "n1/r", NodeId: "n1", State: metav1.ReplicaState_REPLICA_STATE_NEW,
		}}}},
		{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{Name: "t", Uuid: []byte("0123456789abcdef"), Partitions: 1, TimeMs: 1}}},
	} {
		_, err := m.Propose(t.Context(), cmd)
		require.NoError(t, err)
	}
	c := &cluster{shard: newFakeShard(), reg: prometheus.NewPedanticRegistry()}
	ns, err := NewNodeServer(NodeConfig{Shards: fakeShards{0: c.shard}, Groups: fakeGroups{}, Metadata: m, Joiner: fakeJoiner{}, Digests: fakeDigests{}})
	require.NoError(t, err)
	nodeGRPC := grpc.NewServer(ns.Options()...)
	ns.Register(nodeGRPC)
	c.node = nodev1.NewNodeServiceClient(listen(t, nodeGRPC))
	t.Cleanup(ns.EndPolls)

	c.broker, err = broker.New(broker.Config{
		NodeID: "n2", Metadata: m, Shards: fakeShards{}, Peers: fakePeers{c.node}, History: fakeHistory{}, Groups: fakeGroups{},
		PeerError: FromPeer, Metrics: broker.NewMetrics(c.reg),
	})
	require.NoError(t, err)
	cfg.Broker = c.broker
	s, err := NewServer(cfg)
	require.NoError(t, err)
	public := grpc.NewServer(s.Options()...)
	s.Register(public)
	c.conn = listen(t, public)
	t.Cleanup(c.broker.EndPolls)
	c.log, c.admin = streamhousev1.NewStreamHouseServiceClient(c.conn), streamhousev1.NewClusterServiceClient(c.conn)
	return c
}

// counted returns the value of a counter with these label values, in the order of their names.
func (c *cluster) counted(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := c.reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
	metrics:
		for _, m := range f.GetMetric() {
			for i, l := range m.GetLabel() {
				if l.GetValue() != labels[i] {
					continue metrics
				}
			}
			return m.GetCounter().GetValue()
		}
	}
	return -1
}

package broker

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
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

func (m *fakeMetadata) View() *fsm.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.visible
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

// fakeLog is the log of one partition, shared by the replicas of a shard.
type fakeLog struct {
	batches []record.Batch
	next    int64
}

// fakeShard is a shard: what its leader has stored, and how much each replica has applied.
type fakeShard struct {
	mu      sync.Mutex
	logs    map[uint64]*fakeLog
	leader  string           // replica id, empty for none
	applied map[string]int64 // node → high watermark of all partitions there, absent: all
	cut     map[string]int64 // node → first offset that it still has
	changed chan struct{}
	answers []func() error // of the next appends, in order; nil answers store
	appends [][]shard.AppendBatch
	durable []bool
	offsets map[string][]shard.GroupOffset
	reasons map[uint64]Reason // what appends to a partition are refused with
}

func newFakeShard(leader string) *fakeShard {
	return &fakeShard{
		logs: make(map[uint64]*fakeLog), leader: leader, applied: make(map[string]int64), cut: make(map[string]int64),
		changed: make(chan struct{}), offsets: make(map[string][]shard.GroupOffset), reasons: make(map[uint64]Reason),
	}
}

func (s *fakeShard) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeShard) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.wakeLocked()
}

// on returns the shard as the node sees it.
func (s *fakeShard) on(node string) *fakeReplica { return &fakeReplica{s, node} }

// fakeReplica is one node's replica of a fakeShard.
type fakeReplica struct {
	*fakeShard
	node string
}

var _ LocalShard = (*fakeReplica)(nil)

func (r *fakeReplica) Leader() (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader, r.leader != ""
}

func (r *fakeReplica) checkLocked() error {
	if nodeOf(r.leader) != r.node {
		return &shard.NotLeaderError{Leader: r.leader}
	}
	return nil
}

func (r *fakeReplica) Append(ctx context.Context, batches []shard.AppendBatch, durable bool) ([]shard.AppendResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) > 0 {
		answer := r.answers[0]
		r.answers = r.answers[1:]
		if answer != nil {
			if err := answer(); err != nil {
				return nil, err
			}
		}
	}
	if err := r.checkLocked(); err != nil {
		return nil, err
	}
	r.appends = append(r.appends, batches)
	r.durable = append(r.durable, durable)
	results := make([]shard.AppendResult, len(batches))
	for i, b := range batches {
		if reason := r.reasons[b.PartitionID]; reason != reasonNone {
			results[i].Reason = reason
			continue
		}
		results[i].BaseOffset = r.storeLocked(b.PartitionID, b.Data)
	}
	r.wakeLocked()
	return results, nil
}

func (s *fakeShard) storeLocked(id uint64, b record.Batch) int64 {
	l := s.logs[id]
	if l == nil {
		l = &fakeLog{}
		s.logs[id] = l
	}
	own := append(record.Batch(nil), b...)
	own.SetBaseOffset(l.next)
	l.batches = append(l.batches, own)
	l.next = own.NextOffset()
	return own.BaseOffset()
}

func (r *fakeReplica) LeaderHighWatermark(id uint64) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return 0, err
	}
	return r.markLocked(id), nil
}

func (r *fakeReplica) markLocked(id uint64) int64 {
	next := int64(0)
	if l := r.logs[id]; l != nil {
		next = l.next
	}
	if applied, ok := r.applied[r.node]; ok {
		return min(applied, next)
	}
	return next
}

func (r *fakeReplica) HighWatermark(id uint64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.markLocked(id)
}

func (r *fakeReplica) WaitHighWatermark(ctx context.Context, id uint64, atLeast int64) error {
	for {
		r.mu.Lock()
		reached, changed := r.markLocked(id) >= atLeast, r.changed
		r.mu.Unlock()
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

func (r *fakeReplica) Read(_ context.Context, id uint64, offset int64, maxBytes int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset < r.cut[r.node] {
		return nil, shard.ErrBelowLocal
	}
	return readFrom(r.logs[id], offset, r.markLocked(id), maxBytes), nil
}

func readFrom(l *fakeLog, offset, end int64, maxBytes int) []byte {
	var out []byte
	for _, b := range l.batches {
		if b.NextOffset() <= offset || b.BaseOffset() >= end {
			continue
		}
		if len(out) > 0 && len(out)+len(b) > maxBytes {
			break
		}
		out = append(out, b...)
	}
	return out
}

func (r *fakeReplica) FindTime(_ context.Context, id uint64, timestampMs int64) (offset, foundMs int64, found bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logs[id] == nil {
		return 0, 0, false, nil
	}
	for _, b := range r.logs[id].batches {
		if b.BaseOffset() < r.cut[r.node] {
			continue
		}
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

func (r *fakeReplica) CommitOffsets(_ context.Context, group string, offsets []shard.GroupOffset) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return err
	}
	r.offsets[group] = append(r.offsets[group], offsets...)
	return nil
}

func (r *fakeReplica) Offsets(group string, ids []uint64) ([]shard.GroupOffset, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return nil, err
	}
	var out []shard.GroupOffset
	for _, o := range r.offsets[group] {
		for _, id := range ids {
			if o.PartitionID == id {
				out = append(out, o)
			}
		}
		if len(ids) == 0 {
			out = append(out, o)
		}
	}
	return out, nil
}

// fakeShards are the replicas of one node.
type fakeShards map[uint32]LocalShard

func (f fakeShards) Local(n uint32) (LocalShard, bool) {
	l, ok := f[n]
	return l, ok
}

// fakePeer is another node, asked without a wire.
type fakePeer struct {
	nodev1.NodeServiceClient

	node   string
	shards fakeShards
	down   bool
	asked  []string
	mu     sync.Mutex
}

var errUnreachable = errors.New("connection refused")

// begin says whether the node answers, and lets the caller know that the call was sent.
func (p *fakePeer) begin(what string, opts []grpc.CallOption) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked = append(p.asked, what)
	if p.down {
		return errUnreachable
	}
	for _, o := range opts {
		if po, ok := o.(grpc.PeerCallOption); ok {
			po.PeerAddr.Addr = &net.TCPAddr{}
		}
	}
	return nil
}

func (p *fakePeer) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := 0
	for _, a := range p.asked {
		if a == what {
			n++
		}
	}
	return n
}

func (p *fakePeer) GetReplica(_ context.Context, req *nodev1.GetReplicaRequest, opts ...grpc.CallOption) (*nodev1.GetReplicaResponse, error) {
	if err := p.begin("GetReplica", opts); err != nil {
		return nil, err
	}
	local, ok := p.shards[req.GetGroup().GetShard()]
	if !ok {
		return nil, newError(reasonShardNotFound, "no replica")
	}
	leader, _ := local.Leader()
	return &nodev1.GetReplicaResponse{
		ReplicaId: p.node + "/r", LeaderReplicaId: leader, Term: 3, AppliedIndex: 7, CommitIndex: 8,
		Servers: []*nodev1.Server{{ReplicaId: "n1/r", Voter: true}, {ReplicaId: "n2/r", Voter: true}},
	}, nil
}

func (p *fakePeer) Append(ctx context.Context, req *nodev1.AppendRequest, opts ...grpc.CallOption) (*nodev1.AppendResponse, error) {
	if err := p.begin("Append", opts); err != nil {
		return nil, err
	}
	batches := make([]shard.AppendBatch, len(req.GetBatches()))
	for i, b := range req.GetBatches() {
		batches[i] = shard.AppendBatch{PartitionID: b.GetPartitionId(), Topic: b.GetTopic(), Data: b.GetRecordBatch(), PayloadBytes: b.GetPayloadBytes()}
	}
	results, err := p.shards[req.GetShard()].Append(ctx, batches, req.GetDurable())
	if err != nil {
		return nil, err
	}
	res := &nodev1.AppendResponse{}
	for _, r := range results {
		res.Results = append(res.Results, &nodev1.AppendResult{
			Reason: int32(r.Reason), BaseOffset: r.BaseOffset, Duplicate: r.Duplicate, ExpectedSequence: r.ExpectedSequence,
		})
	}
	return res, nil
}

func (p *fakePeer) GetHighWatermark(_ context.Context, req *nodev1.GetHighWatermarkRequest, opts ...grpc.CallOption) (*nodev1.GetHighWatermarkResponse, error) {
	if err := p.begin("GetHighWatermark", opts); err != nil {
		return nil, err
	}
	mark, err := p.shards[req.GetShard()].LeaderHighWatermark(req.GetPartitionId())
	return &nodev1.GetHighWatermarkResponse{HighWatermark: mark}, err
}

func (p *fakePeer) Fetch(ctx context.Context, req *nodev1.FetchRequest, opts ...grpc.CallOption) (*nodev1.FetchResponse, error) {
	if err := p.begin("Fetch", opts); err != nil {
		return nil, err
	}
	local := p.shards[req.GetShard()]
	if req.GetOffset() >= local.HighWatermark(req.GetPartitionId()) {
		if _, err := local.LeaderHighWatermark(req.GetPartitionId()); err != nil {
			return nil, err
		}
		wait, cancel := context.WithTimeout(ctx, time.Duration(req.GetMaxWaitMs())*time.Millisecond)
		defer cancel()
		_ = local.WaitHighWatermark(wait, req.GetPartitionId(), req.GetOffset()+1)
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	mark := local.HighWatermark(req.GetPartitionId())
	if req.GetOffset() >= mark {
		return &nodev1.FetchResponse{HighWatermark: mark}, nil
	}
	data, err := local.Read(ctx, req.GetPartitionId(), req.GetOffset(), int(req.GetMaxBytes()))
	if errors.Is(err, shard.ErrBelowLocal) {
		return &nodev1.FetchResponse{HighWatermark: mark, BelowLocal: true}, nil
	}
	return &nodev1.FetchResponse{RecordBatches: data, HighWatermark: mark}, err
}

func (p *fakePeer) FindOffset(ctx context.Context, req *nodev1.FindOffsetRequest, opts ...grpc.CallOption) (*nodev1.FindOffsetResponse, error) {
	if err := p.begin("FindOffset", opts); err != nil {
		return nil, err
	}
	return FindOffset(ctx, p.shards[req.GetShard()], req)
}

func (p *fakePeer) CommitOffsets(ctx context.Context, req *nodev1.CommitOffsetsRequest, opts ...grpc.CallOption) (*nodev1.CommitOffsetsResponse, error) {
	if err := p.begin("CommitOffsets", opts); err != nil {
		return nil, err
	}
	return &nodev1.CommitOffsetsResponse{}, p.shards[req.GetShard()].CommitOffsets(ctx, req.GetGroup(), FromNode(req.GetOffsets()))
}

func (p *fakePeer) FetchOffsets(_ context.Context, req *nodev1.FetchOffsetsRequest, opts ...grpc.CallOption) (*nodev1.FetchOffsetsResponse, error) {
	if err := p.begin("FetchOffsets", opts); err != nil {
		return nil, err
	}
	offsets, err := p.shards[req.GetShard()].Offsets(req.GetGroup(), req.GetPartitionIds())
	return &nodev1.FetchOffsetsResponse{Offsets: ToNode(offsets)}, err
}

func (p *fakePeer) TransferLeadership(_ context.Context, req *nodev1.TransferLeadershipRequest, opts ...grpc.CallOption) (*nodev1.TransferLeadershipResponse, error) {
	if err := p.begin("TransferLeadership "+req.GetReplicaId(), opts); err != nil {
		return nil, err
	}
	return &nodev1.TransferLeadershipResponse{}, nil
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
	local   fakeShards   // those of n1
	peers   fakePeers
	history *fakeHistory
	groups  *fakeGroups
}

// newFixture returns a broker; with replicas its node has one of each shard.
func newFixture(t *testing.T, replicas bool) *fixture {
	t.Helper()
	f := &fixture{
		meta: newFakeMetadata(t), shards: []*fakeShard{newFakeShard("n1/r"), newFakeShard("n2/r")}, local: fakeShards{},
		peers: fakePeers{}, groups: &fakeGroups{},
		history: &fakeHistory{logs: make(map[string]*fakeLog), errs: make(map[string]error)},
	}
	if !replicas {
		f.shards[0].leader = "n3/r"
	}
	for n, s := range f.shards {
		if replicas {
			f.local[uint32(n)] = s.on("n1")
		}
		for _, node := range []string{"n2", "n3"} {
			if f.peers[node] == nil {
				f.peers[node] = &fakePeer{node: node, shards: fakeShards{}}
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

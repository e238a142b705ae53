package broker

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
)

// fakePeer is another node, asked without a wire.
type fakePeer struct {
	nodev1.NodeServiceClient

	node   string
	shards map[uint32]LocalShard
	down   bool
	// stalled makes questions for a high watermark or a replica hang.
	stalled bool
	asked   []string
	// also are replicas that the group has besides those of n1 and n2.
	also []*nodev1.Server
	// replays is a leader that has not applied its configuration yet.
	replays bool
	mu      sync.Mutex
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

func (p *fakePeer) GetReplica(ctx context.Context, req *nodev1.GetReplicaRequest, opts ...grpc.CallOption) (*nodev1.GetReplicaResponse, error) {
	if err := p.begin("GetReplica", opts); err != nil {
		return nil, err
	}
	if p.stalled {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	local, ok := p.shards[req.GetGroup().GetShard()]
	if !ok {
		return nil, newError(reasonShardNotFound, "no replica")
	}
	leader, _ := local.Leader()
	return &nodev1.GetReplicaResponse{
		ReplicaId: p.node + "/r", LeaderReplicaId: leader, Term: 3, ConfigurationCurrent: !p.replays, AppliedIndex: fakeApplied, CommitIndex: 8,
		Servers: append([]*nodev1.Server{{ReplicaId: "n1/r", Voter: true}, {ReplicaId: "n2/r", Voter: true}}, p.also...),
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

func (p *fakePeer) GetHighWatermark(ctx context.Context, req *nodev1.GetHighWatermarkRequest, opts ...grpc.CallOption) (*nodev1.GetHighWatermarkResponse, error) {
	if err := p.begin("GetHighWatermark", opts); err != nil {
		return nil, err
	}
	if p.stalled {
		<-ctx.Done()
		return nil, ctx.Err()
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
	by := shard.Committer{MemberID: req.GetMemberId(), Epoch: req.GetMemberEpoch(), Sequence: req.GetCommitSequence()}
	return &nodev1.CommitOffsetsResponse{}, p.shards[req.GetShard()].CommitOffsets(ctx, req.GetGroup(), by, FromNode(req.GetOffsets()))
}

func (p *fakePeer) FetchOffsets(_ context.Context, req *nodev1.FetchOffsetsRequest, opts ...grpc.CallOption) (*nodev1.FetchOffsetsResponse, error) {
	if err := p.begin("FetchOffsets", opts); err != nil {
		return nil, err
	}
	offsets, err := p.shards[req.GetShard()].Offsets(req.GetGroup(), req.GetPartitionIds())
	return &nodev1.FetchOffsetsResponse{Offsets: ToNode(offsets)}, err
}

func (p *fakePeer) RunGroup(ctx context.Context, req *nodev1.RunGroupRequest, opts ...grpc.CallOption) (*nodev1.RunGroupResponse, error) {
	if err := p.begin("RunGroup", opts); err != nil {
		return nil, err
	}
	cmd := &metav1.GroupCommand{}
	if err := proto.Unmarshal(req.GetCommand(), cmd); err != nil {
		return nil, err
	}
	answer, err := p.shards[req.GetShard()].RunGroup(ctx, cmd)
	return &nodev1.RunGroupResponse{MemberEpoch: answer.Epoch, Assigned: answer.Assigned, Waiting: answer.Waiting}, err
}

func (p *fakePeer) GetGroups(ctx context.Context, req *nodev1.GetGroupsRequest, opts ...grpc.CallOption) (*nodev1.GetGroupsResponse, error) {
	if err := p.begin("GetGroups", opts); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	groups, err := p.shards[req.GetShard()].GroupStates(req.GetGroups())
	res := &nodev1.GetGroupsResponse{}
	for _, g := range groups {
		data, err := proto.Marshal(g)
		if err != nil {
			return nil, err
		}
		res.Groups = append(res.Groups, data)
	}
	return res, err
}

func (p *fakePeer) TransferLeadership(_ context.Context, req *nodev1.TransferLeadershipRequest, opts ...grpc.CallOption) (*nodev1.TransferLeadershipResponse, error) {
	if err := p.begin("TransferLeadership "+req.GetReplicaId(), opts); err != nil {
		return nil, err
	}
	return &nodev1.TransferLeadershipResponse{}, nil
}

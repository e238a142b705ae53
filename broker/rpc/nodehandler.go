package rpc

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/storage/record"
)

// nodeHandler handles NodeService. It works on what this node has and never forwards.
type nodeHandler struct {
	nodev1.UnimplementedNodeServiceServer

	shards   broker.LocalShards
	groups   broker.Groups
	metadata MetadataGroup
	joiner   Joiner
	digests  Digests

	endOnce  sync.Once
	pollsEnd chan struct{}
}

var _ nodev1.NodeServiceServer = (*nodeHandler)(nil)

func (h *nodeHandler) local(number uint32) (broker.LocalShard, error) {
	local, ok := h.shards.Local(number)
	if !ok {
		return nil, &broker.Error{
			Reason:   streamhousev1.ErrorReason_ERROR_REASON_SHARD_NOT_FOUND,
			Message:  "this node has no replica of shard " + strconv.FormatUint(uint64(number), 10),
			Metadata: map[string]string{"shard": strconv.FormatUint(uint64(number), 10)},
		}
	}
	return local, nil
}

// Join implements the RPC.
func (h *nodeHandler) Join(ctx context.Context, req *nodev1.JoinRequest) (*nodev1.JoinResponse, error) {
	return h.joiner.Join(ctx, req)
}

// ProposeMetadata implements the RPC.
func (h *nodeHandler) ProposeMetadata(ctx context.Context, req *nodev1.ProposeMetadataRequest) (*nodev1.ProposeMetadataResponse, error) {
	index, result, err := h.metadata.ProposeLocal(ctx, req.GetCommand())
	if err != nil {
		return nil, err
	}
	return &nodev1.ProposeMetadataResponse{Index: index, Result: result}, nil
}

// ReadMetadataIndex implements the RPC.
func (h *nodeHandler) ReadMetadataIndex(ctx context.Context, _ *nodev1.ReadMetadataIndexRequest) (*nodev1.ReadMetadataIndexResponse, error) {
	index, err := h.metadata.ReadIndexLocal(ctx)
	if err != nil {
		return nil, err
	}
	return &nodev1.ReadMetadataIndexResponse{Index: index}, nil
}

// Append implements the RPC. The batches' CRC is checked again: they came over a wire.
func (h *nodeHandler) Append(ctx context.Context, req *nodev1.AppendRequest) (*nodev1.AppendResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	batches := make([]shard.AppendBatch, len(req.GetBatches()))
	for i, b := range req.GetBatches() {
		data, rest, err := record.Parse(b.GetRecordBatch())
		if err != nil {
			return nil, err
		}
		if len(rest) > 0 {
			return nil, broker.InvalidField("record_batch", "%d bytes follow the batch", len(rest))
		}
		batches[i] = shard.AppendBatch{
			PartitionID: b.GetPartitionId(), Topic: b.GetTopic(), Data: data, PayloadBytes: b.GetPayloadBytes(),
		}
	}
	results, err := local.Append(ctx, batches, req.GetDurable())
	if err != nil {
		return nil, err
	}
	res := &nodev1.AppendResponse{Results: make([]*nodev1.AppendResult, len(results))}
	for i, r := range results {
		res.Results[i] = &nodev1.AppendResult{
			Reason: int32(r.Reason), BaseOffset: r.BaseOffset, Duplicate: r.Duplicate, ExpectedSequence: r.ExpectedSequence,
		}
	}
	return res, nil
}

// GetHighWatermark implements the RPC.
func (h *nodeHandler) GetHighWatermark(_ context.Context, req *nodev1.GetHighWatermarkRequest) (*nodev1.GetHighWatermarkResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	mark, err := local.LeaderHighWatermark(req.GetPartitionId())
	if err != nil {
		return nil, err
	}
	return &nodev1.GetHighWatermarkResponse{HighWatermark: mark}, nil
}

// Fetch implements the RPC. Only the leader waits, and only it says that there is nothing: a follower that has nothing
// at the offset is not the one to ask.
func (h *nodeHandler) Fetch(ctx context.Context, req *nodev1.FetchRequest) (*nodev1.FetchResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	id, offset := req.GetPartitionId(), req.GetOffset()
	if offset >= local.HighWatermark(id) {
		mark, err := local.LeaderHighWatermark(id)
		if err != nil {
			return nil, err
		}
		if offset == mark {
			if err := h.waitRecord(ctx, local, id, offset, time.Duration(req.GetMaxWaitMs())*time.Millisecond); err != nil {
				return nil, err
			}
		}
	}
	mark := local.HighWatermark(id)
	if offset >= mark {
		return &nodev1.FetchResponse{HighWatermark: mark}, nil
	}
	data, err := local.Read(ctx, id, offset, int(req.GetMaxBytes()))
	if errors.Is(err, shard.ErrBelowLocal) {
		return &nodev1.FetchResponse{HighWatermark: mark, BelowLocal: true}, nil
	}
	if err != nil {
		return nil, err
	}
	return &nodev1.FetchResponse{RecordBatches: data, HighWatermark: mark}, nil
}

// waitRecord returns when there is a record at the offset, or when the wait is over.
func (h *nodeHandler) waitRecord(ctx context.Context, local broker.LocalShard, id uint64, offset int64, wait time.Duration) error {
	if wait <= 0 {
		return nil
	}
	waitCtx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	ended := make(chan struct{})
	var wg sync.WaitGroup
	defer wg.Wait()
	defer close(ended)
	wg.Go(func() {
		select {
		case <-h.pollsEnd:
			cancel()
		case <-ended:
		}
	})
	err := local.WaitHighWatermark(waitCtx, id, offset+1)
	if err != nil && waitCtx.Err() != nil && ctx.Err() == nil && !errors.Is(err, shard.ErrClosed) {
		return nil // the wait is over
	}
	return err
}

// FindOffset implements the RPC.
func (h *nodeHandler) FindOffset(ctx context.Context, req *nodev1.FindOffsetRequest) (*nodev1.FindOffsetResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	return broker.FindOffset(ctx, local, req)
}

// CommitOffsets implements the RPC.
func (h *nodeHandler) CommitOffsets(ctx context.Context, req *nodev1.CommitOffsetsRequest) (*nodev1.CommitOffsetsResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	by := shard.Committer{MemberID: req.GetMemberId(), Epoch: req.GetMemberEpoch(), Sequence: req.GetCommitSequence()}
	if err := local.CommitOffsets(ctx, req.GetGroup(), by, broker.FromNode(req.GetOffsets())); err != nil {
		return nil, err
	}
	return &nodev1.CommitOffsetsResponse{}, nil
}

// FetchOffsets implements the RPC.
func (h *nodeHandler) FetchOffsets(_ context.Context, req *nodev1.FetchOffsetsRequest) (*nodev1.FetchOffsetsResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	offsets, err := local.Offsets(req.GetGroup(), req.GetPartitionIds())
	if err != nil {
		return nil, err
	}
	return &nodev1.FetchOffsetsResponse{Offsets: broker.ToNode(offsets)}, nil
}

// RunGroup implements the RPC.
func (h *nodeHandler) RunGroup(ctx context.Context, req *nodev1.RunGroupRequest) (*nodev1.RunGroupResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	cmd := &metav1.GroupCommand{}
	if err := proto.Unmarshal(req.GetCommand(), cmd); err != nil {
		return nil, broker.InvalidField("command", "it does not decode: %s", err)
	}
	answer, err := local.RunGroup(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return &nodev1.RunGroupResponse{MemberEpoch: answer.Epoch, Assigned: answer.Assigned, Waiting: answer.Waiting}, nil
}

// GetGroups implements the RPC.
func (h *nodeHandler) GetGroups(_ context.Context, req *nodev1.GetGroupsRequest) (*nodev1.GetGroupsResponse, error) {
	local, err := h.local(req.GetShard())
	if err != nil {
		return nil, err
	}
	groups, err := local.GroupStates(req.GetGroups())
	if err != nil {
		return nil, err
	}
	res := &nodev1.GetGroupsResponse{Groups: make([][]byte, len(groups))}
	for i, g := range groups {
		if res.Groups[i], err = proto.Marshal(g); err != nil {
			return nil, err
		}
	}
	return res, nil
}

// GetReplica implements the RPC.
func (h *nodeHandler) GetReplica(_ context.Context, req *nodev1.GetReplicaRequest) (*nodev1.GetReplicaResponse, error) {
	return h.groups.Describe(req.GetGroup())
}

// DigestLog implements the RPC.
func (h *nodeHandler) DigestLog(ctx context.Context, req *nodev1.DigestLogRequest) (*nodev1.DigestLogResponse, error) {
	return h.digests.DigestLog(ctx, req)
}

// ChangeMembership implements the RPC.
func (h *nodeHandler) ChangeMembership(ctx context.Context, req *nodev1.ChangeMembershipRequest) (*nodev1.ChangeMembershipResponse, error) {
	index, err := h.groups.ChangeMembership(ctx, req)
	if err != nil {
		return nil, err
	}
	return &nodev1.ChangeMembershipResponse{Index: index}, nil
}

// TransferLeadership implements the RPC.
func (h *nodeHandler) TransferLeadership(ctx context.Context, req *nodev1.TransferLeadershipRequest) (*nodev1.TransferLeadershipResponse, error) {
	if err := h.groups.TransferLeadership(ctx, req.GetGroup(), req.GetReplicaId()); err != nil {
		return nil, err
	}
	return &nodev1.TransferLeadershipResponse{}, nil
}

package broker

import (
	"context"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
)

// maxCommitOffsets bounds one commit.
const maxCommitOffsets = 10_000

// CommitOffset stores the offsets of a group, all or none, on the leader of the group's shard.
func (b *Broker) CommitOffset(ctx context.Context, req *streamhousev1.CommitOffsetRequest) (*streamhousev1.CommitOffsetResponse, error) {
	if err := checkGroup(req.GetGroup()); err != nil {
		return nil, err
	}
	if n := len(req.GetOffsets()); n == 0 || n > maxCommitOffsets {
		return nil, InvalidField("offsets", "%d of them, 1 to %d are allowed", n, maxCommitOffsets)
	}
	offsets := make([]shard.GroupOffset, 0, len(req.GetOffsets()))
	for _, o := range req.GetOffsets() {
		at, err := b.checkCommit(ctx, req.GetTopic(), o)
		if err != nil {
			return nil, err
		}
		offsets = append(offsets, shard.GroupOffset{PartitionID: at.partition.ID, Offset: o.GetOffset(), Metadata: o.GetMetadata()})
	}
	by := shard.Committer{MemberID: req.GetMemberId(), Epoch: req.GetMemberEpoch(), Sequence: req.GetCommitSequence()}
	number, err := b.groupShard(ctx, req.GetGroup())
	if err != nil {
		return nil, err
	}
	// An older commit must not come after a newer one, so it is not made twice where it may have happened.
	err = b.onLeader(ctx, leaderCall{shard: number}, func(ctx context.Context, t target) error {
		if t.local != nil {
			return t.local.CommitOffsets(ctx, req.GetGroup(), by, offsets)
		}
		_, err := ask(ctx, b, &nodev1.CommitOffsetsRequest{
			Shard: number, Group: req.GetGroup(), Offsets: ToNode(offsets), MemberId: by.MemberID, MemberEpoch: by.Epoch,
			CommitSequence: by.Sequence,
		}, t.client.CommitOffsets)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &streamhousev1.CommitOffsetResponse{}, nil
}

// checkCommit checks one offset: from 0 to the high watermark of a partition that exists.
func (b *Broker) checkCommit(ctx context.Context, topic string, o *streamhousev1.CommittedOffset) (place, error) {
	if o.GetOffset() < 0 {
		return place{}, InvalidField("offsets.offset", "%d is below 0", o.GetOffset())
	}
	if n := len(o.GetMetadata()); n > shard.MaxCommitMetadata {
		return place{}, InvalidField("offsets.metadata", "it has %d bytes, at most %d are allowed", n, shard.MaxCommitMetadata)
	}
	at, err := b.partitionOf(ctx, topic, o.GetPartition())
	if err != nil {
		return place{}, err
	}
	if at, err = b.expect(ctx, at, o.GetPartitionId()); err != nil {
		return place{}, err
	}
	p := at.partition
	if o.GetOffset() <= p.UploadedEnd {
		return at, nil
	}
	if local, ok := b.cfg.Shards.Local(p.Shard); ok && o.GetOffset() <= local.HighWatermark(p.ID) {
		return at, nil
	}
	if known, _ := b.marks.get(p.ID); o.GetOffset() <= known {
		return at, nil
	}
	end, err := b.leaderMark(ctx, p)
	if err != nil {
		return place{}, err
	}
	b.marks.note(p.ID, end)
	if o.GetOffset() > end {
		return place{}, outOfRange(o.GetOffset(), p.LogStart, end)
	}
	return at, nil
}

// GetOffset returns the offsets that a group has committed.
func (b *Broker) GetOffset(ctx context.Context, req *streamhousev1.GetOffsetRequest) (*streamhousev1.GetOffsetResponse, error) {
	if err := checkGroup(req.GetGroup()); err != nil {
		return nil, err
	}
	t, err := b.topic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	ids := make([]uint64, 0, len(req.GetPartitions()))
	for _, number := range req.GetPartitions() {
		at, err := b.partitionOf(ctx, t.Name, number)
		if err != nil {
			return nil, err
		}
		ids = append(ids, at.partition.ID)
	}
	offsets, err := b.groupOffsets(ctx, req.GetGroup(), ids)
	if err != nil {
		return nil, err
	}
	res := &streamhousev1.GetOffsetResponse{}
	view := b.meta.View()
	for _, o := range offsets {
		p, ok := view.Partition(o.PartitionID)
		if !ok || !sameTopic(p, t) {
			continue
		}
		res.Offsets = append(res.Offsets, &streamhousev1.CommittedOffset{
			Partition: p.Number, PartitionId: p.ID, Offset: o.Offset, Metadata: o.Metadata,
		})
	}
	return res, nil
}

func sameTopic(p *fsm.Partition, t *fsm.Topic) bool { return p.TopicUUID == t.UUID }

func (b *Broker) groupOffsets(ctx context.Context, group string, ids []uint64) ([]shard.GroupOffset, error) {
	number, err := b.groupShard(ctx, group)
	if err != nil {
		return nil, err
	}
	var offsets []shard.GroupOffset
	call := leaderCall{shard: number, repeatable: true, read: true, attemptTimeout: appendAttempt}
	err = b.onLeader(ctx, call, func(ctx context.Context, t target) error {
		if t.local != nil {
			var err error
			offsets, err = t.local.Offsets(group, ids)
			return err
		}
		res, err := ask(ctx, b, &nodev1.FetchOffsetsRequest{Shard: number, Group: group, PartitionIds: ids}, t.client.FetchOffsets)
		offsets = FromNode(res.GetOffsets())
		return err
	})
	if err != nil {
		return nil, notFound(err, number)
	}
	return offsets, nil
}

// ToNode returns group offsets as they go over the wire.
func ToNode(offsets []shard.GroupOffset) []*nodev1.GroupOffset {
	out := make([]*nodev1.GroupOffset, len(offsets))
	for i, o := range offsets {
		out[i] = &nodev1.GroupOffset{PartitionId: o.PartitionID, Offset: o.Offset, Metadata: o.Metadata}
	}
	return out
}

// FromNode returns group offsets as a shard wants them.
func FromNode(offsets []*nodev1.GroupOffset) []shard.GroupOffset {
	out := make([]shard.GroupOffset, len(offsets))
	for i, o := range offsets {
		out[i] = shard.GroupOffset{PartitionID: o.GetPartitionId(), Offset: o.GetOffset(), Metadata: o.GetMetadata()}
	}
	return out
}

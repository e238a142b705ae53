package broker

import (
	"context"

	"golang.org/x/sync/errgroup"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
)

const (
	// listParallel is how many partitions are asked about at once.
	listParallel = 32
	// scanBytes is how much of the history is looked through at once.
	scanBytes = 1 << 20
)

// ListOffsets finds offsets by position or by time.
func (b *Broker) ListOffsets(ctx context.Context, req *streamhousev1.ListOffsetsRequest) (*streamhousev1.ListOffsetsResponse, error) {
	find, err := b.finder(req)
	if err != nil {
		return nil, err
	}
	t, err := b.topic(ctx, req.GetTopic())
	if err != nil {
		return nil, err
	}
	numbers := req.GetPartitions()
	if len(numbers) == 0 {
		numbers = make([]int32, len(t.PartitionIDs))
		for i := range numbers {
			numbers[i] = int32(i)
		}
	}
	out := make([]*streamhousev1.ListedOffset, len(numbers))
	eg, egCtx := errgroup.WithContext(ctx)
	eg.SetLimit(listParallel)
	for i, number := range numbers {
		eg.Go(func() error {
			at, err := b.partitionOf(egCtx, t.Name, number)
			if err != nil {
				return err
			}
			offset, timestampMs, err := find(egCtx, at)
			out[i] = &streamhousev1.ListedOffset{Partition: number, PartitionId: at.partition.ID, Offset: offset, TimestampMs: timestampMs}
			return err
		})
	}
	if err := eg.Wait(); err != nil {
		return nil, err
	}
	return &streamhousev1.ListOffsetsResponse{Offsets: out}, nil
}

// finder returns what looks a partition's offset up. The timestamp is -1 where it is not known.
func (b *Broker) finder(req *streamhousev1.ListOffsetsRequest) (func(context.Context, place) (int64, int64, error), error) {
	switch p := req.GetPosition().(type) {
	case *streamhousev1.ListOffsetsRequest_Earliest:
		return func(_ context.Context, at place) (int64, int64, error) { return at.partition.LogStart, -1, nil }, nil
	case *streamhousev1.ListOffsetsRequest_Latest:
		return func(ctx context.Context, at place) (int64, int64, error) {
			end, err := b.leaderMark(ctx, at.partition)
			if err != nil {
				return 0, -1, err
			}
			return b.marks.told(at.partition.ID, end), -1, nil
		}, nil
	case *streamhousev1.ListOffsetsRequest_TimestampMs:
		return func(ctx context.Context, at place) (int64, int64, error) { return b.findTime(ctx, at, p.TimestampMs) }, nil
	default:
		return nil, InvalidField("position", "it must be set")
	}
}

// findTime returns the first record with the timestamp or a later one, else the high watermark. The shard is asked
// first: what it no longer has is then in the manifest behind a barrier.
func (b *Broker) findTime(ctx context.Context, at place, timestampMs int64) (offset, foundMs int64, err error) {
	newest, err := b.findNewest(ctx, at.partition, timestampMs)
	if err != nil {
		return 0, 0, err
	}
	at, err = b.refresh(ctx, at)
	if err != nil {
		return 0, 0, err
	}
	offset, foundMs, found, err := b.findHistory(ctx, at.partition, timestampMs)
	if err != nil {
		return 0, 0, err
	}
	if found {
		return offset, foundMs, nil
	}
	if newest.GetOffset() < 0 {
		return b.marks.told(at.partition.ID, newest.GetHighWatermark()), -1, nil
	}
	return newest.GetOffset(), newest.GetTimestampMs(), nil
}

// findNewest asks the shard's leader for what is not in the object store.
func (b *Broker) findNewest(ctx context.Context, p *fsm.Partition, timestampMs int64) (*nodev1.FindOffsetResponse, error) {
	search, cancel := searchTime(ctx)
	defer cancel()
	var res *nodev1.FindOffsetResponse
	err := b.onLeader(search, leaderCall{shard: p.Shard, repeatable: true, read: true}, func(ctx context.Context, t target) error {
		var err error
		req := &nodev1.FindOffsetRequest{Shard: p.Shard, PartitionId: p.ID, TimestampMs: timestampMs}
		if t.local != nil {
			res, err = FindOffset(ctx, t.local, req)
			return err
		}
		res, err = ask(ctx, b, req, t.client.FindOffset)
		return err
	})
	if err != nil {
		return nil, notFound(err, p.Shard)
	}
	return res, nil
}

// FindOffset looks a timestamp up in the leader's replica of a shard.
func FindOffset(ctx context.Context, local LocalShard, req *nodev1.FindOffsetRequest) (*nodev1.FindOffsetResponse, error) {
	if _, err := local.LeaderHighWatermark(req.GetPartitionId()); err != nil {
		return nil, err
	}
	offset, foundMs, found, err := local.FindTime(ctx, req.GetPartitionId(), req.GetTimestampMs())
	if err != nil {
		return nil, err
	}
	if !found {
		offset, foundMs = -1, -1
	}
	end, err := local.LeaderHighWatermark(req.GetPartitionId())
	if err != nil {
		return nil, err
	}
	return &nodev1.FindOffsetResponse{Offset: offset, TimestampMs: foundMs, HighWatermark: end}, nil
}

// findHistory looks through the segments whose newest record is not older.
func (b *Broker) findHistory(ctx context.Context, p *fsm.Partition, timestampMs int64) (offset, foundMs int64, found bool, err error) {
	for i := range p.Segments {
		if p.Segments[i].MaxTimestampMs < timestampMs || fsm.IsLost(p.Segments[i].Object) {
			continue
		}
		ref := p.Segments[i].Ref(p.ID)
		offset, foundMs, found, err = b.cfg.History.FindTime(ctx, ref, timestampMs)
		if err == nil && found && offset < p.LogStart {
			offset, foundMs, found, err = b.scanHistory(ctx, p, ref, timestampMs)
		}
		if err != nil {
			return 0, 0, false, b.historyError(ctx, p, ref, err)
		}
		if found {
			return offset, foundMs, true, nil
		}
	}
	return 0, 0, false, nil
}

// scanHistory looks for the timestamp from the log start on, in the one segment that begins below it.
func (b *Broker) scanHistory(ctx context.Context, p *fsm.Partition, ref *metav1.SegmentRef, timestampMs int64) (int64, int64, bool, error) {
	for offset := p.LogStart; offset < ref.GetEntry().GetEndOffset(); {
		data, err := b.cfg.History.Read(ctx, ref, offset, scanBytes)
		if err != nil {
			return 0, 0, false, err
		}
		batches, err := record.Split(data)
		if err != nil {
			return 0, 0, false, err
		}
		for _, batch := range batches {
			for r, err := range batch.All() {
				if err != nil {
					return 0, 0, false, err
				}
				if r.Offset >= p.LogStart && r.TimestampMs >= timestampMs {
					return r.Offset, r.TimestampMs, true, nil
				}
			}
			offset = batch.NextOffset()
		}
	}
	return 0, 0, false, nil
}

package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// Committed is an offset that a group has committed.
type Committed struct {
	// Offset is the next that the group wants, 0 or more and not above the high watermark.
	Offset int64
	// Metadata is free text of the committer, at most 4096 bytes.
	Metadata string
}

// Commit commits the positions of all partitions: all that Poll has returned counts as processed. It fails with
// ErrNotOwned where a partition was lost since the last Poll, and with ErrMaxPollInterval too where that was the reason;
// nothing of its topic is committed then, unless by an attempt before, whose answer was lost. Without a group it does nothing.
func (r *Consumer) Commit(ctx context.Context) error {
	r.mu.Lock()
	for _, p := range r.partitions {
		p.processed = p.position
	}
	r.mu.Unlock()
	if err := r.commitProcessed(ctx); err != nil {
		return err
	}
	return r.untoldLoss()
}

// untoldLoss returns the error of a call that needs partitions which were lost since the last Poll.
func (r *Consumer) untoldLoss() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.member
	switch {
	case m == nil:
		return nil
	case len(m.lost) > 0:
		return r.notOwnedLocked(m.lost[0])
	case m.overslept && !m.told:
		return ErrMaxPollInterval
	default:
		return nil
	}
}

// notOwnedLocked returns the error of a call for a partition that is not the consumer's.
func (r *Consumer) notOwnedLocked(tp TopicPartition) error {
	if m := r.member; m != nil && m.overslept && !m.told {
		return &PartitionError{tp, fmt.Errorf("%w: %w", ErrMaxPollInterval, ErrNotOwned)}
	}
	return &PartitionError{tp, ErrNotOwned}
}

// CommitRecords commits, for each partition of the records, the offset behind the last of them. It fails with
// ErrNotOwned, and commits nothing, where a record comes from a partition that the consumer has lost since, even if it
// has got it back.
func (r *Consumer) CommitRecords(ctx context.Context, records ...Record) error {
	owned := make(map[*partition]Committed)
	r.mu.Lock()
	for i := range records {
		rec := &records[i]
		tp := TopicPartition{rec.Topic, rec.Partition}
		p := r.partitions[tp]
		if p == nil || p.ownership != rec.ownership {
			err := r.notOwnedLocked(tp)
			r.mu.Unlock()
			return err
		}
		owned[p] = Committed{Offset: max(owned[p].Offset, rec.Offset+1)}
	}
	r.mu.Unlock()
	return r.commitOffsets(ctx, func() map[*partition]Committed { return owned })
}

// CommitOffsets commits these offsets, of partitions that the consumer reads; else it fails with ErrNotOwned, and with
// ErrOffsetOutOfRange above the high watermark. All offsets of one topic are committed, or none, up to 10,000. As with
// Commit, an attempt whose answer was lost may have committed what the error is about.
func (r *Consumer) CommitOffsets(ctx context.Context, offsets map[TopicPartition]Committed) error {
	owned := make(map[*partition]Committed, len(offsets))
	r.mu.Lock()
	for tp, c := range offsets {
		p := r.partitions[tp]
		if p == nil {
			err := r.notOwnedLocked(tp)
			r.mu.Unlock()
			return err
		}
		owned[p] = c
	}
	r.mu.Unlock()
	return r.commitOffsets(ctx, func() map[*partition]Committed { return owned })
}

// Committed returns what the group has committed of these partitions of one topic or more. Partitions without a
// committed offset are left out.
func (r *Consumer) Committed(ctx context.Context, tps ...TopicPartition) (map[TopicPartition]Committed, error) {
	byTopic := make(map[string][]int32)
	for _, tp := range tps {
		byTopic[tp.Topic] = append(byTopic[tp.Topic], tp.Partition)
	}
	out := make(map[TopicPartition]Committed, len(tps))
	for _, topic := range slices.Sorted(maps.Keys(byTopic)) {
		committed, err := r.c.committed(ctx, r.cfg.Group, topic, byTopic[topic]...)
		if err != nil {
			return nil, err
		}
		for number, c := range committed {
			out[TopicPartition{topic, number}] = c
		}
	}
	return out, nil
}

// committed asks for offsets of a group; no partitions are all.
func (c *Client) committed(ctx context.Context, group, topic string, partitions ...int32) (map[int32]Committed, error) {
	offsets, err := c.getOffsets(ctx, group, topic, partitions...)
	if err != nil {
		return nil, err
	}
	out := make(map[int32]Committed, len(offsets))
	for _, o := range offsets {
		out[o.GetPartition()] = Committed{o.GetOffset(), o.GetMetadata()}
	}
	return out, nil
}

func (c *Client) getOffsets(ctx context.Context, group, topic string, partitions ...int32) ([]*streamhousev1.CommittedOffset, error) {
	res, err := call(ctx, c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.GetOffsetResponse, error) {
		return n.api().GetOffset(ctx, &streamhousev1.GetOffsetRequest{Group: group, Topic: topic, Partitions: partitions})
	})
	return res.GetOffsets(), err
}

// autoCommit commits, now and then, what Poll has returned and the program is done with.
func (r *Consumer) autoCommit() {
	tick := time.NewTicker(r.cfg.AutoCommitInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-r.ctx.Done():
			return
		}
		if err := r.commitProcessed(r.ctx); err != nil && r.ctx.Err() == nil && !errors.Is(err, ErrNotOwned) {
			r.c.cfg.Logger.Warn("offsets are not committed", "group", r.cfg.Group, "err", err)
		}
	}
}

// commitProcessed commits what is processed and not committed.
func (r *Consumer) commitProcessed(ctx context.Context) error {
	if r.cfg.Group == "" {
		return nil
	}
	return r.commitOffsets(ctx, func() map[*partition]Committed {
		r.mu.Lock()
		defer r.mu.Unlock()
		owned := make(map[*partition]Committed)
		for _, p := range r.partitions {
			if p.processed != unknown && p.processed != p.committed {
				owned[p] = Committed{Offset: p.processed}
			}
		}
		return owned
	})
}

// commitOffsets commits topic by topic, one commit at a time. What to commit is asked when it is its turn: an older offset
// must not come behind a newer one.
func (r *Consumer) commitOffsets(ctx context.Context, what func() map[*partition]Committed) error {
	if r.cfg.Group == "" {
		return errors.New("commit: the consumer has no group")
	}
	select {
	case r.commit <- struct{}{}:
		defer func() { <-r.commit }()
	case <-ctx.Done():
		return ctx.Err()
	}
	owned := what()
	byTopic := make(map[string][]*partition)
	for p := range owned {
		byTopic[p.Topic] = append(byTopic[p.Topic], p)
	}
	var errs []error
	for _, topic := range slices.Sorted(maps.Keys(byTopic)) {
		for parts := range slices.Chunk(byTopic[topic], maxCommit) {
			err := r.commitTopic(ctx, topic, parts, owned)
			r.c.metrics.commits.WithLabelValues(resultLabel(err)).Inc()
			if err != nil {
				errs = append(errs, fmt.Errorf("commit offsets of %s for group %s: %w", topic, r.cfg.Group, err))
			}
		}
	}
	return errors.Join(errs...)
}

// maxCommit is how many offsets nodes take at once.
const maxCommit = 10_000

func resultLabel(err error) string {
	if err != nil {
		return "failed"
	}
	return "ok"
}

// commitTopic commits offsets of one topic. Its epoch may be stale only because a heartbeat is just about to tell the
// new one: so long as the partitions are still the consumer's it waits for that. All tries have one sequence, so that one
// which the network holds back changes nothing when it comes.
func (r *Consumer) commitTopic(ctx context.Context, topic string, parts []*partition, owned map[*partition]Committed) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.c.cfg.RequestTimeout)
		defer cancel()
	}
	sequence := r.nextCommit()
	for {
		req, err := r.commitRequest(topic, parts, owned, sequence)
		if err != nil {
			return err
		}
		_, err = call(ctx, r.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.CommitOffsetResponse, error) {
			return n.api().CommitOffset(ctx, req)
		})
		switch {
		case err == nil:
			r.mu.Lock()
			defer r.mu.Unlock()
			for _, p := range parts {
				p.committed = owned[p].Offset
			}
			return nil
		case !errors.Is(err, ErrFencedMember) && !errors.Is(err, ErrUnknownMember):
			return err
		}
		r.member.notify()
		if serr := pause.For(ctx, firstBackoff); serr != nil {
			return err
		}
	}
}

// nextCommit returns the sequence of a member's next commit, 0 where the consumer is no member. The caller holds the token of
// commits, so that none is sent before an older one has ended.
func (r *Consumer) nextCommit() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.member == nil {
		return 0
	}
	r.member.commits++
	return r.member.commits
}

// commitRequest fails where a partition is not the consumer's any more.
func (r *Consumer) commitRequest(
	topic string, parts []*partition, owned map[*partition]Committed, sequence int64,
) (*streamhousev1.CommitOffsetRequest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	req := &streamhousev1.CommitOffsetRequest{Group: r.cfg.Group, Topic: topic, CommitSequence: sequence}
	if m := r.member; m != nil {
		r.expiredLocked()
		req.MemberId, req.MemberEpoch = m.id, m.epoch
	}
	for _, p := range parts {
		if r.partitions[p.TopicPartition] != p {
			return nil, r.notOwnedLocked(p.TopicPartition)
		}
		req.Offsets = append(req.Offsets, &streamhousev1.CommittedOffset{
			Partition: p.Partition, PartitionId: p.id, Offset: owned[p].Offset, Metadata: owned[p].Metadata,
		})
	}
	return req, nil
}

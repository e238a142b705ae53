package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/streamhouse/streamhouse/client"
)

const (
	// pollRecords bounds what is written between two looks at everything else.
	pollRecords = 2000
	// commitEvery is the time between two commits while records come.
	commitEvery = time.Second
	// leaveTimeout bounds the last commit and the end of the consumer, also after an interrupt.
	leaveTimeout = 5 * time.Second
	// probeTimeout bounds a question to the leaders.
	probeTimeout = 10 * time.Second
	// lookEvery is how often a reader looks whether it is at its end, where no record tells it.
	lookEvery = 100 * time.Millisecond
)

// reading is one run of consume.
type reading struct {
	job    *consumeJob
	say    func(format string, args ...any)
	client *client.Client
	admin  *client.Admin
	sink   *sink

	consumer *client.Consumer
	// pending has the last record of each partition that was written and is not committed, without its content.
	pending   map[client.TopicPartition]client.Record
	committed time.Time // when offsets were committed last
	heard     time.Time // when a node last gave what was asked for
}

func isCanceled(err error) bool { return errors.Is(err, context.Canceled) }

// with runs loop with a consumer. Whatever ended it, what was written is committed, and the group is left.
func (r *reading) with(ctx context.Context, cfg client.ConsumerConfig, loop func(context.Context) error) error {
	cfg.Group, cfg.Reset, cfg.ManualCommit, cfg.MaxPollRecords = r.job.group, client.ResetNone, true, pollRecords
	c, err := client.NewConsumer(r.client, cfg)
	if err != nil {
		return err
	}
	r.consumer = c
	err = r.sink.begin()
	if err == nil {
		err = loop(ctx)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	committed := r.commit(last)
	if r.job.follow && isCanceled(err) && ctx.Err() != nil {
		err = nil // it ends as it should, if the commit and the leave do
	}
	return errors.Join(err, committed, c.Close(last))
}

// poll returns records, none where there are none for a while or a partition had to be moved.
func (r *reading) poll(ctx context.Context, wait time.Duration) ([]client.Record, error) {
	if len(r.pending) > 0 || r.job.follow {
		wait = min(wait, commitEvery)
	}
	limited, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	records, err := r.consumer.Poll(limited)
	switch {
	case err == nil:
		r.heard = time.Now()
		return records, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case errors.Is(err, context.DeadlineExceeded) && limited.Err() != nil:
		return nil, r.sink.to.Check() // who follows may have nothing to write for long
	default:
		return nil, r.mend(ctx, err)
	}
}

// mend goes on after an error of one partition where that makes sense, and else returns it.
func (r *reading) mend(ctx context.Context, err error) error {
	if errors.Is(err, client.ErrMaxPollInterval) {
		r.say("stdout took nothing for so long that the group gave the partitions to others: records may come twice")
		return nil
	}
	p, ok := errors.AsType[*client.PartitionError](err)
	if !ok {
		return err
	}
	switch {
	case errors.Is(err, client.ErrNoOffset):
		err = r.consumer.SeekTo(ctx, client.LogStart, p.TopicPartition)
	case errors.Is(err, client.ErrOffsetOutOfRange) && r.job.from.offset == nil:
		err = r.skipGone(p)
	case r.job.fixed != nil || r.job.from.offset != nil:
		return p.Err
	}
	if errors.Is(err, client.ErrNotOwned) {
		return nil // it was lost meanwhile
	}
	return err
}

// skipGone goes on at the log start where a partition's position is below it.
func (r *reading) skipGone(p *client.PartitionError) error {
	at, err := r.consumer.Position(p.TopicPartition)
	if err != nil {
		return err
	}
	e, ok := errors.AsType[*client.Error](p.Err)
	if !ok {
		return p
	}
	start, err := strconv.ParseInt(e.Metadata["log_start_offset"], 10, 64)
	if err != nil || start <= at {
		return p
	}
	r.say("partition %d: records %d to %d are gone, reading on at %d", p.Partition, at, start-1, start)
	return r.consumer.Seek(p.TopicPartition, start)
}

// deliver writes records, and commits now and then what is written.
func (r *reading) deliver(ctx context.Context, records []client.Record) error {
	written, err := r.sink.write(records)
	if err != nil {
		return err
	}
	if r.job.group != "" {
		for _, rec := range written {
			rec.Key, rec.Value, rec.Headers = nil, nil, nil
			r.pending[client.TopicPartition{Topic: rec.Topic, Partition: rec.Partition}] = rec
		}
	}
	if time.Since(r.committed) < commitEvery {
		return nil
	}
	return r.commit(ctx)
}

// commit commits what is written. What was lost to another member is that one's: it reads on behind what it finds
// committed.
func (r *reading) commit(ctx context.Context) error {
	for len(r.pending) > 0 {
		err := r.consumer.CommitRecords(ctx, slices.Collect(maps.Values(r.pending))...)
		if err == nil {
			clear(r.pending)
			break
		}
		p, ok := errors.AsType[*client.PartitionError](err)
		if !ok || !errors.Is(err, client.ErrNotOwned) {
			return err
		}
		delete(r.pending, p.TopicPartition)
		r.say("partition %d went to another member before its offset was committed: records may come twice", p.Partition)
	}
	r.committed = time.Now()
	return nil
}

// checkHeard gives up where nobody has answered for the time-out.
func (r *reading) checkHeard(ctx context.Context, parts []int32) error {
	timeout := r.job.conn.timeout
	if time.Since(r.heard) < timeout {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, min(probeTimeout, timeout))
	defer cancel()
	_, err := listOffsets(limited, r.admin, r.job.topic, client.LogEnd, parts...)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil:
		return fmt.Errorf("no answer for %s: %w", timeout, err)
	case !r.job.follow:
		return fmt.Errorf("there are more records, but none came for %s", timeout)
	default:
		r.heard = time.Now()
		return nil
	}
}

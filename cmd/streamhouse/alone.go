package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/streamhouse/streamhouse/client"
)

const (
	// forever is an end that is never reached.
	forever = int64(-1)
	// whereItEnds is an end that is not known: reading ends where a node has nothing more.
	whereItEnds = int64(-2)
	// leastPatience is how long a partition may keep its reader waiting, whatever the number of partitions.
	leastPatience = 3 * time.Second
)

// span is what is read of one partition.
type span struct {
	client.TopicPartition

	offset, end int64
}

// alone reads partitions, one after the other so that the output is the same each time; or all at once to follow them.
func (r *reading) alone(ctx context.Context, parts []int32) error {
	first, cancel := context.WithTimeout(ctx, r.job.conn.timeout)
	defer cancel()
	spans, err := r.spans(first, parts)
	if err != nil {
		return err
	}
	if err := r.sink.begin(); err != nil {
		return err
	}
	if r.job.follow {
		return r.read(ctx, spans...)
	}
	var unread []int32
	for _, sp := range spans {
		if r.sink.full() || (sp.end >= 0 && sp.offset >= sp.end) {
			continue
		}
		whole := true
		if sp.end != whereItEnds {
			err = r.read(ctx, sp)
		} else {
			whole, err = r.readWhatThereIs(ctx, sp, max(r.job.conn.timeout/time.Duration(len(spans)), leastPatience))
		}
		if err != nil {
			return err
		}
		if !whole {
			unread = append(unread, sp.Partition) // the others may be here all the same
		}
	}
	if len(unread) > 0 {
		return r.whyNot(ctx, unread)
	}
	return nil
}

// spans asks where to begin and end in each partition.
func (r *reading) spans(ctx context.Context, parts []int32) ([]span, error) {
	begins, err := r.begins(ctx, parts)
	if err != nil {
		return nil, err
	}
	ends, err := r.ends(ctx, parts)
	if err != nil {
		return nil, err
	}
	out := make([]span, 0, len(parts))
	for _, p := range parts {
		end := ends[p]
		if r.job.from.offset != nil && end >= 0 && begins[p] > end {
			return nil, fmt.Errorf("--from %d: partition %d ends at %d", begins[p], p, end)
		}
		out = append(out, span{client.TopicPartition{Topic: r.job.topic, Partition: p}, begins[p], end})
	}
	return out, nil
}

// begins returns the first offset to read of each partition.
func (r *reading) begins(ctx context.Context, parts []int32) (map[int32]int64, error) {
	j := r.job
	if j.from.offset != nil {
		return map[int32]int64{parts[0]: *j.from.offset}, nil
	}
	begins, err := listOffsets(ctx, r.admin, j.topic, j.from.at, parts...)
	if err != nil || !j.from.committed || j.group == "" {
		return begins, err
	}
	committed, err := r.admin.CommittedOffsets(ctx, j.group, j.topic, parts...)
	if err != nil {
		return nil, err
	}
	for p, c := range committed {
		begins[p] = c.Offset
	}
	return begins, nil
}

// ends returns where to stop in each partition. Leaders know the ends; what others have can be read without them.
func (r *reading) ends(ctx context.Context, parts []int32) (map[int32]int64, error) {
	same := func(end int64) map[int32]int64 {
		m := make(map[int32]int64)
		for _, p := range parts {
			m[p] = end
		}
		return m
	}
	if r.job.follow {
		return same(forever), nil
	}
	limited, cancel := context.WithTimeout(ctx, min(probeTimeout, r.job.conn.timeout/2))
	defer cancel()
	ends, err := listOffsets(limited, r.admin, r.job.topic, client.LogEnd, parts...)
	if err != nil && ctx.Err() == nil && unavailable(err) {
		r.say("the end is not known, reading what there is: %v", err)
		return same(whereItEnds), nil
	}
	return ends, err
}

// read reads partitions from where they are to begin to their ends.
func (r *reading) read(ctx context.Context, spans ...span) error {
	r.heard = time.Now()
	var parts []int32
	for _, sp := range spans {
		parts = append(parts, sp.Partition)
	}
	return r.readWith(ctx, spans, func(ctx context.Context) error {
		for !r.sink.full() && !r.atEnd(spans) {
			records, err := r.poll(ctx, r.job.conn.timeout)
			if err == nil {
				err = r.deliver(ctx, until(records, spans[0].end))
			}
			if err == nil {
				err = r.checkHeard(ctx, parts)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// readWith runs loop with a consumer that begins where the spans do.
func (r *reading) readWith(ctx context.Context, spans []span, loop func(context.Context) error) error {
	var tps []client.TopicPartition
	for _, sp := range spans {
		tps = append(tps, sp.TopicPartition)
	}
	return r.with(ctx, client.ConsumerConfig{Partitions: tps}, func(ctx context.Context) error {
		for _, sp := range spans {
			if err := r.consumer.Seek(sp.TopicPartition, sp.offset); err != nil {
				return err
			}
		}
		return loop(ctx)
	})
}

// atEnd reports whether all partitions are read to ends that are known.
func (r *reading) atEnd(spans []span) bool {
	for _, sp := range spans {
		at, err := r.consumer.Position(sp.TopicPartition)
		if err != nil || sp.end < 0 || at < sp.end {
			return false
		}
	}
	return true
}

// until cuts off what is at the end of a partition or behind it.
func until(records []client.Record, end int64) []client.Record {
	for end >= 0 && len(records) > 0 && records[len(records)-1].Offset >= end {
		records = records[:len(records)-1]
	}
	return records
}

// readWhatThereIs reads a partition until a node that answered had nothing more; whole is false where none answered as long
// as patience lasted.
func (r *reading) readWhatThereIs(ctx context.Context, sp span, patience time.Duration) (whole bool, err error) {
	err = r.readWith(ctx, []span{sp}, func(ctx context.Context) error {
		for last := time.Now(); !r.sink.full(); {
			lag, err := r.consumer.Lag(sp.TopicPartition)
			if err != nil || lag == 0 {
				whole = true
				return err
			}
			records, err := r.poll(ctx, lookEvery)
			if err == nil {
				err = r.deliver(ctx, records)
			}
			if err != nil {
				return err
			}
			now := time.Now()
			if len(records) == 0 {
				patience -= now.Sub(last)
			}
			if patience < 0 {
				return nil
			}
			last = now
		}
		whole = true
		return nil
	})
	return whole, err
}

// whyNot returns why partitions can't be read.
func (r *reading) whyNot(ctx context.Context, parts []int32) error {
	limited, cancel := context.WithTimeout(ctx, min(leastPatience, r.job.conn.timeout))
	defer cancel()
	_, err := listOffsets(limited, r.admin, r.job.topic, client.LogEnd, parts...)
	if err == nil {
		err = errors.New("no node gave records")
	}
	if len(parts) == 1 {
		return fmt.Errorf("partition %d: %w", parts[0], err)
	}
	return fmt.Errorf("%d partitions, %d the first: %w", len(parts), parts[0], err)
}

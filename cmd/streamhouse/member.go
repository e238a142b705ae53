package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/streamhouse/streamhouse/client"
)

// shareTimeout is how long a member that is to read to the end waits while the others have all partitions.
const shareTimeout = 10 * time.Second

// member is a reading of a consumer group's share of a topic.
type member struct {
	*reading

	parts []int32
	// ends are where the topic ended when the member began; nil to follow it.
	ends map[int32]int64
	// sought are the partitions that --from was applied to.
	sought map[client.TopicPartition]bool
	// failure is an error of a callback.
	failure error
	// idle is since when no partitions are assigned, asked when the group was last asked why.
	idle, asked time.Time
}

// asMember reads what the group assigns, until that is read to the ends the topic has now.
func (r *reading) asMember(ctx context.Context, parts []int32) error {
	m := &member{reading: r, parts: parts, sought: make(map[client.TopicPartition]bool), idle: time.Now()}
	if !r.job.follow {
		first, cancel := context.WithTimeout(ctx, r.job.conn.timeout)
		defer cancel()
		ends, err := listOffsets(first, r.admin, r.job.topic, client.LogEnd, parts...)
		if err != nil {
			return err
		}
		m.ends = ends
		if from := r.job.from.offset; from != nil && *from > ends[parts[0]] {
			return fmt.Errorf("--from %d: partition %d ends at %d", *from, parts[0], ends[parts[0]])
		}
	}
	cfg := client.ConsumerConfig{
		Topics: []string{r.job.topic},
		// Their own context does not end with an interrupt, as begin wants it to.
		OnAssigned: func(_ context.Context, tps []client.TopicPartition) { m.fail(m.begin(ctx, tps)) },
		OnRevoked:  func(_ context.Context, _ []client.TopicPartition) { m.fail(m.giveUp(ctx)) },
	}
	return r.with(ctx, cfg, m.loop)
}

func (m *member) fail(err error) {
	if m.failure == nil && !errors.Is(err, client.ErrNotOwned) {
		m.failure = err
	}
}

// begin puts partitions where --from says, each once: the group's offsets count when they come back.
func (m *member) begin(ctx context.Context, tps []client.TopicPartition) error {
	if m.job.from.committed {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.job.conn.timeout)
	defer cancel()
	for _, tp := range tps {
		if m.sought[tp] {
			continue
		}
		var err error
		if m.job.from.offset != nil {
			err = m.consumer.Seek(tp, *m.job.from.offset)
		} else {
			err = m.consumer.SeekTo(ctx, m.job.from.at, tp)
		}
		if err != nil {
			return err
		}
		m.sought[tp] = true
	}
	return nil
}

// giveUp commits before partitions go to another member, also when the command is interrupted.
func (m *member) giveUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	return m.commit(ctx)
}

func (m *member) loop(ctx context.Context) error {
	wait := commitEvery
	if m.ends != nil {
		wait = lookEvery
	}
	for !m.sink.full() && !m.atEnds() {
		records, err := m.poll(ctx, wait)
		if err == nil {
			err = m.failure
		}
		if err == nil {
			err = m.deliver(ctx, m.beforeEnds(records))
		}
		if err == nil {
			err = m.checkShare(ctx)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// atEnds reports whether all that is assigned was read to the end.
func (m *member) atEnds() bool {
	assigned := m.consumer.Assignment()
	if m.ends == nil || len(assigned) == 0 {
		return false
	}
	for _, tp := range assigned {
		if at, err := m.consumer.Position(tp); err != nil || at < m.ends[tp.Partition] {
			return false
		}
	}
	return true
}

// beforeEnds leaves out what came after the member began.
func (m *member) beforeEnds(records []client.Record) []client.Record {
	if m.ends == nil {
		return records
	}
	kept := records[:0]
	for _, rec := range records {
		if rec.Offset < m.ends[rec.Partition] {
			kept = append(kept, rec)
		}
	}
	return kept
}

// checkShare gives up where nobody answers, and where there is no share for a member that is to read to the end.
func (m *member) checkShare(ctx context.Context) error {
	now := time.Now()
	if len(m.consumer.Assignment()) > 0 {
		m.idle = now
		return m.checkHeard(ctx, m.parts)
	}
	if m.ends == nil {
		return m.checkHeard(ctx, m.parts) // it stands by
	}
	m.heard = now
	if now.Sub(m.idle) < min(shareTimeout, m.job.conn.timeout) || now.Sub(m.asked) < time.Second {
		return nil
	}
	m.asked = now
	return m.whyIdle(ctx)
}

// whyIdle returns an error where waiting on makes no sense.
func (m *member) whyIdle(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, min(probeTimeout, m.job.conn.timeout))
	defer cancel()
	g, err := m.admin.DescribeGroup(limited, m.job.group)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	owned := 0
	for _, p := range g.Partitions {
		if p.Topic == m.job.topic && p.MemberID != "" {
			owned++
		}
	}
	waited := time.Since(m.idle).Round(time.Second)
	switch {
	case err == nil && owned >= len(m.parts):
		return fmt.Errorf("group %s has given this member nothing for %s: its other members own all %d partitions of %s; stop some, or stand by with --follow",
			m.job.group, waited, len(m.parts), m.job.topic)
	case time.Since(m.idle) < m.job.conn.timeout:
		return nil
	case err != nil:
		return fmt.Errorf("group %s has given this member nothing for %s: %w", m.job.group, waited, err)
	default:
		return fmt.Errorf("group %s has given this member nothing for %s", m.job.group, waited)
	}
}

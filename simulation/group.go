package simulation

import (
	"context"
	"errors"
	"log/slog"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/history"
)

const (
	group          = "readers"
	sessionTimeout = 4 * time.Second
)

// lossHandler is called when a consumer logs that it has lost its membership.
type lossHandler func()

var _ slog.Handler = lossHandler(nil)

// Enabled implements slog.Handler.
func (lossHandler) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelWarn }

// Handle implements slog.Handler.
func (h lossHandler) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "membership is lost" {
		h()
	}
	return nil
}

// WithAttrs implements slog.Handler.
func (h lossHandler) WithAttrs([]slog.Attr) slog.Handler { return h }

// WithGroup implements slog.Handler.
func (h lossHandler) WithGroup(string) slog.Handler { return h }

// consume is a member of the group until stop is closed: it polls, and commits what it got.
func (s *sim) consume(ctx context.Context, member string, host int) error {
	// The callback comes with the next Poll, and a commit may last until then; what is lost is so from now on.
	lost := lossHandler(func() {
		for p := range int32(partitions) {
			s.h.Release(group, member, part(p))
		}
	})
	c, err := s.c.Client(host, slog.New(lost))
	if err != nil {
		return err
	}
	own := func(tell func(group, member string, p history.Partition), what string) func(context.Context, []client.TopicPartition) {
		return func(_ context.Context, tps []client.TopicPartition) {
			s.trace.Event(member, "%s %v", what, tps)
			for _, tp := range tps {
				tell(group, member, part(tp.Partition))
			}
		}
	}
	consumer, err := client.NewConsumer(c, client.ConsumerConfig{
		Group: group, Topics: []string{topic}, ManualCommit: true, SessionTimeout: sessionTimeout, FetchMaxWait: 500 * time.Millisecond,
		OnAssigned: own(s.h.Grant, "gets"), OnRevoked: own(s.h.Release, "gives up"), OnLost: own(s.h.Release, "has lost"),
	})
	if err != nil {
		return errors.Join(err, c.Close())
	}
	for !s.stopping() && ctx.Err() == nil {
		s.poll(ctx, consumer, member)
	}
	end, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	if err := consumer.Close(end); err != nil {
		s.trace.Event(member, "close: %v", err)
	}
	return c.Close()
}

func (s *sim) poll(ctx context.Context, consumer *client.Consumer, member string) {
	pctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	list, err := consumer.Poll(pctx)
	if err != nil && !errors.Is(err, context.DeadlineExceeded) {
		s.trace.Event(member, "poll: %v", err)
	}
	if len(list) == 0 {
		return
	}
	next := make(map[client.TopicPartition]client.Committed)
	byPartition := make(map[int32][]history.Record)
	for _, r := range list {
		byPartition[r.Partition] = append(byPartition[r.Partition], history.Record{Offset: r.Offset, Value: string(r.Value)})
		next[client.TopicPartition{Topic: topic, Partition: r.Partition}] = client.Committed{Offset: r.Offset + 1}
	}
	for p, recs := range byPartition {
		s.h.Read(member, part(p), recs[0].Offset).OK(-1, recs)
		s.h.Processed(group, part(p), recs)
	}
	var ops []*history.Commit
	for tp, o := range next {
		ops = append(ops, s.h.Commit(group, member, part(tp.Partition), o.Offset))
	}
	cctx, cancel := context.WithTimeout(ctx, 2*callTimeout)
	defer cancel()
	err = consumer.CommitOffsets(cctx, next)
	for _, op := range ops {
		if err == nil {
			op.OK()
		} else {
			op.Unknown(err) // also where the partition is lost: an attempt before may have been taken
		}
	}
	if err != nil {
		s.trace.Event(member, "commit: %v", err)
	}
}

// committed asks a node for the group's offsets.
func (s *sim) committed(ctx context.Context, a *api) error {
	var ops []*history.Fetch
	for p := range int32(partitions) {
		ops = append(ops, s.h.Committed(group, a.node, part(p)))
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := a.GetOffset(call, &streamhousev1.GetOffsetRequest{Group: group, Topic: topic})
	if reason(err) == "GROUP_NOT_FOUND" {
		err = nil // nothing is committed
	}
	if err != nil {
		for _, op := range ops {
			op.Fail(err)
		}
		return err
	}
	offsets := map[int32]int64{}
	for _, o := range resp.GetOffsets() {
		offsets[o.GetPartition()] = o.GetOffset()
	}
	for p, op := range ops {
		if o, ok := offsets[int32(p)]; ok {
			op.OK(o)
		} else {
			op.OK(-1)
		}
	}
	return nil
}

// watchOffsets asks nodes in turn, for committed offsets and for the ends of logs, until stop is closed.
func (s *sim) watchOffsets(ctx context.Context, apis []*api) {
	for round := 0; !s.stopping(); round++ {
		a := apis[round%len(apis)]
		s.ends(ctx, a)
		_ = s.committed(ctx, a) // it is in the history
		if pause.For(ctx, 700*time.Millisecond) != nil {
			break
		}
	}
}

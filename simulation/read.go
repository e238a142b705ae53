package simulation

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/history"
)

func records(list []*streamhousev1.ConsumedRecord) []history.Record {
	out := make([]history.Record, 0, len(list))
	for _, r := range list {
		out = append(out, history.Record{Offset: r.GetOffset(), Value: string(r.GetValue())})
	}
	return out
}

// read follows all partitions through one node, and now and then reads from somewhere before.
func (s *sim) read(ctx context.Context, a *api, host int) {
	r := s.rand(uint64(host))
	var next [partitions]int64
	for round := 0; !s.stopping(); round++ {
		p := int32(round % partitions)
		from := next[p]
		if r.IntN(5) == 0 {
			from = r.Int64N(next[p] + 1)
		}
		resp, err := s.readOnce(ctx, a, p, from, time.Duration(r.IntN(200))*time.Millisecond)
		if err != nil {
			if pause.For(ctx, 100*time.Millisecond) != nil {
				break
			}
			continue
		}
		next[p] = max(next[p], resp.GetNextOffset())
		if pause.For(ctx, time.Duration(50+r.IntN(300))*time.Millisecond) != nil {
			break
		}
	}
}

// latest asks for high watermarks.
var latest = &streamhousev1.ListOffsetsRequest{Topic: topic, Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}}

// ends asks a node for the ends of all logs.
func (s *sim) ends(ctx context.Context, a *api) {
	var ops []*history.HighWatermark
	for p := range int32(partitions) {
		ops = append(ops, s.h.HighWatermark(a.node, part(p)))
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := a.ListOffsets(call, latest)
	if err != nil {
		for _, op := range ops {
			op.Fail(err)
		}
		return
	}
	for _, o := range resp.GetOffsets() {
		ops[o.GetPartition()].OK(o.GetOffset())
	}
}

// readOnce reads a partition from an offset on, with one call, and waits for a first record.
func (s *sim) readOnce(ctx context.Context, a *api, p int32, from int64, wait time.Duration) (*streamhousev1.ConsumeResponse, error) {
	op := s.h.Read(a.node, part(p), from)
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := a.Consume(call, &streamhousev1.ConsumeRequest{
		Topic: topic, Partition: p, Offset: from, MaxBytes: 64 << 10, MaxWait: durationpb.New(wait),
	})
	if err != nil {
		op.Fail(err)
		return nil, err
	}
	op.OK(resp.GetHighWatermark(), records(resp.GetRecords()))
	return resp, nil
}

// readBack reads all that a node has, when the faults are over.
func (s *sim) readBack(ctx context.Context, a *api) error {
	ends, err := s.offsets(ctx, a, latest)
	if err != nil {
		return fmt.Errorf("high watermarks through %s: %w", a.node, err)
	}
	starts, err := s.offsets(ctx, a, &streamhousev1.ListOffsetsRequest{Topic: topic, Position: &streamhousev1.ListOffsetsRequest_Earliest{Earliest: true}})
	if err != nil {
		return fmt.Errorf("log starts through %s: %w", a.node, err)
	}
	for p := range int32(partitions) {
		if starts[p] != 0 {
			return fmt.Errorf("%s through %s begins at offset %d, and nobody has removed a record", part(p), a.node, starts[p])
		}
		list, err := s.readAll(ctx, a, p, 0, ends[p])
		s.h.ReadBack(a.node, part(p), 0, ends[p], list) // what can't be read in the end is lost
		if err != nil {
			return fmt.Errorf("%s through %s: %w", part(p), a.node, err)
		}
		s.trace.Event(a.node, "%s is read back up to %d", part(p), ends[p])
		if err := s.readAmid(ctx, a, p, list); err != nil {
			return fmt.Errorf("%s through %s, from the middle: %w", part(p), a.node, err)
		}
	}
	return nil
}

// readAmid reads once more from one of the records on: a read from the start never looks inside of an object.
func (s *sim) readAmid(ctx context.Context, a *api, p int32, list []history.Record) error {
	if len(list) == 0 {
		return nil
	}
	from := list[s.rand(uint64(90+p)).IntN(len(list))].Offset
	return until(ctx, func(ctx context.Context) error {
		_, err := s.readOnce(ctx, a, p, from, 0)
		return err
	})
}

func (s *sim) offsets(ctx context.Context, a *api, req *streamhousev1.ListOffsetsRequest) (map[int32]int64, error) {
	list := make(map[int32]int64)
	err := until(ctx, func(ctx context.Context) error {
		resp, err := a.ListOffsets(ctx, req)
		for _, o := range resp.GetOffsets() {
			list[o.GetPartition()] = o.GetOffset()
		}
		return err
	})
	return list, err
}

// readAll reads up to the high watermark, or up to where the node has nothing more: that is for the checker to see.
func (s *sim) readAll(ctx context.Context, a *api, p int32, from, to int64) ([]history.Record, error) {
	var list []history.Record
	for from < to {
		var resp *streamhousev1.ConsumeResponse
		err := until(ctx, func(ctx context.Context) (err error) {
			resp, err = a.Consume(ctx, &streamhousev1.ConsumeRequest{
				Topic: topic, Partition: p, Offset: from, MaxBytes: 256 << 10, MaxWait: durationpb.New(time.Second),
			})
			return err
		})
		if err != nil {
			return list, fmt.Errorf("read from %d: %w", from, err)
		}
		if resp.GetNextOffset() <= from {
			return list, nil
		}
		list = append(list, records(resp.GetRecords())...)
		from = resp.GetNextOffset()
	}
	return list, nil
}

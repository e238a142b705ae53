package bench

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/streamhouse/streamhouse/client"
)

// Consume reads a topic from its beginning until the load is done, or all is read that there was. A latency is how long
// the consumer waited for records.
func Consume(ctx context.Context, dial Dial, load Load, m *Meter) (time.Duration, error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	starts, ends, err := bounds(ctx, client.NewAdmin(c), load.Topic)
	if err = errors.Join(err, c.Close()); err != nil {
		return 0, err
	}
	var parts []int32
	for _, p := range slices.Sorted(maps.Keys(ends)) {
		if starts[p] < ends[p] {
			parts = append(parts, p)
		}
	}
	began := time.Now()
	var taken atomic.Int64
	err = each(ctx, dial, min(load.Clients, max(len(parts), 1)), func(ctx context.Context, n int, c *client.Client) error {
		r := &reader{load: load, meter: m, taken: &taken, ends: make(map[int32]int64)}
		for i := n; i < len(parts); i += load.Clients {
			r.ends[parts[i]] = ends[parts[i]]
		}
		if len(r.ends) == 0 {
			return nil
		}
		return r.run(ctx, c, starts)
	})
	return time.Since(began), err
}

func bounds(ctx context.Context, admin *client.Admin, topic string) (starts, ends map[int32]int64, err error) {
	if starts, err = admin.ListOffsets(ctx, topic, client.LogStart); err != nil {
		return nil, nil, err
	}
	ends, err = admin.ListOffsets(ctx, topic, client.LogEnd)
	return starts, ends, err
}

// reader is one consumer.
type reader struct {
	load  Load
	meter *Meter
	taken *atomic.Int64   // by all readers
	ends  map[int32]int64 // of partitions that are not read to their ends
}

// pollRecords bounds what one Poll returns.
const pollRecords = 5000

// consumer returns one that begins at offsets.
func consumer(c *client.Client, load Load, offsets map[int32]int64) (*client.Consumer, error) {
	var tps []client.TopicPartition
	for _, p := range slices.Sorted(maps.Keys(offsets)) {
		tps = append(tps, client.TopicPartition{Topic: load.Topic, Partition: p})
	}
	consumer, err := client.NewConsumer(c, client.ConsumerConfig{Partitions: tps, MaxPollRecords: pollRecords, FetchBytes: load.FetchBytes})
	if err != nil {
		return nil, err
	}
	for _, tp := range tps {
		if err := consumer.Seek(tp, offsets[tp.Partition]); err != nil {
			return nil, err
		}
	}
	return consumer, nil
}

func (r *reader) run(ctx context.Context, c *client.Client, starts map[int32]int64) error {
	from := make(map[int32]int64, len(r.ends))
	for p := range r.ends {
		from[p] = starts[p]
	}
	reads, err := consumer(c, r.load, from)
	if err != nil {
		return err
	}
	work, stop := r.load.bounded(ctx)
	defer stop()
	for err == nil && len(r.ends) > 0 && !r.done() {
		asked := time.Now()
		var records []client.Record
		if records, err = reads.Poll(work); err == nil {
			r.meter.Took(time.Since(asked))
			r.count(records)
		}
	}
	if work.Err() != nil && ctx.Err() == nil {
		err = nil // its time was over
	}
	return errors.Join(err, reads.Close(context.WithoutCancel(ctx)))
}

func (r *reader) done() bool { return r.load.Records > 0 && r.taken.Load() >= r.load.Records }

// count counts records that were there when the test began.
func (r *reader) count(records []client.Record) {
	n, bytes := int64(0), int64(0)
	for i := range records {
		rec := &records[i]
		end, open := r.ends[rec.Partition]
		if !open {
			continue
		}
		n++
		bytes += int64(len(rec.Key) + len(rec.Value))
		if rec.Offset+1 >= end {
			delete(r.ends, rec.Partition)
		}
	}
	r.taken.Add(n)
	r.meter.Count(n, bytes)
}

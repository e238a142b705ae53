package bench

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/streamhouse/streamhouse/client"
)

// StampBytes is what EndToEnd needs of a value: the run, and when the record was due.
const StampBytes = 16

// lateAfter is how long the last records may be on their way.
const lateAfter = 10 * time.Second

// EndToEnd writes records and reads them at the same time. A latency of read is the time from when a record was due to
// when Poll returned it; those of written are as with Produce.
func EndToEnd(ctx context.Context, dial Dial, load Load, written, read *Meter) (time.Duration, error) {
	c, err := dial()
	if err != nil {
		return 0, err
	}
	elapsed, err := endToEnd(ctx, c, dial, load, written, read)
	return elapsed, errors.Join(err, c.Close())
}

func endToEnd(ctx context.Context, c *client.Client, dial Dial, load Load, written, read *Meter) (time.Duration, error) {
	ends, err := client.NewAdmin(c).ListOffsets(ctx, load.Topic, client.LogEnd)
	if err != nil {
		return 0, err
	}
	reads, err := consumer(c, load, ends)
	if err != nil {
		return 0, err
	}
	t := &trip{run: rand.Uint64(), zero: time.Now(), meter: read} //nolint:gosec // it only tells runs apart
	reading, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- t.read(reading, reads) }() // joined below
	elapsed, err := produce(ctx, dial, load, written, t.stamp)
	sent, _ := written.Totals()
	t.wait(reading, sent, ended)
	stop()
	readErr := <-ended
	if errors.Is(readErr, context.Canceled) {
		readErr = nil // it was told to end
	}
	if back := t.back.Load(); err == nil && readErr == nil && back < sent && ctx.Err() == nil {
		err = fmt.Errorf("%d of %d records did not come back within %s", sent-back, sent, lateAfter)
	}
	return elapsed, errors.Join(err, readErr, reads.Close(context.WithoutCancel(ctx)))
}

// trip is one run of records there and back.
type trip struct {
	run   uint64
	zero  time.Time // stamps count from it
	meter *Meter
	back  atomic.Int64
}

// stamp writes the run and a time into a value.
func (t *trip) stamp(value []byte, due time.Time) []byte {
	binary.BigEndian.PutUint64(value, t.run)
	binary.BigEndian.PutUint64(value[8:], uint64(due.Sub(t.zero)))
	return value
}

// read takes the run's records until ctx ends.
func (t *trip) read(ctx context.Context, reads *client.Consumer) error {
	for {
		records, err := reads.Poll(ctx)
		if err != nil {
			return err
		}
		now := time.Now()
		for i := range records {
			v := records[i].Value
			if len(v) < StampBytes || binary.BigEndian.Uint64(v) != t.run {
				continue // somebody else's
			}
			t.meter.Took(now.Sub(t.zero.Add(time.Duration(binary.BigEndian.Uint64(v[8:])))))
			t.meter.Count(1, int64(len(v)))
			t.back.Add(1)
		}
	}
}

// wait waits until so many records are back, or for a while.
func (t *trip) wait(ctx context.Context, sent int64, ended chan error) {
	deadline := time.NewTimer(lateAfter)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for t.back.Load() < sent {
		select {
		case err := <-ended:
			ended <- err // there is room for it
			return
		case <-tick.C:
		case <-deadline.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

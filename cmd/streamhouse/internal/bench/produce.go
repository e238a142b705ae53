package bench

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/client"
)

// Produce writes records until the load is done, and waits until all are acknowledged. A latency is the time from when a
// record was due, or was handed over where there is no rate, to its acknowledgement.
func Produce(ctx context.Context, dial Dial, load Load, m *Meter) (time.Duration, error) {
	return produce(ctx, dial, load, m, func(value []byte, _ time.Time) []byte { return value })
}

// produce writes values that stamp may change.
func produce(ctx context.Context, dial Dial, load Load, m *Meter, stamp func(value []byte, due time.Time) []byte) (time.Duration, error) {
	source := text()
	s := &schedule{load: load, began: time.Now()}
	err := each(ctx, dial, load.Clients, func(ctx context.Context, _ int, c *client.Client) error {
		p, err := client.NewProducer(c, load.Producer)
		if err != nil {
			return err
		}
		w := &writer{load: load, producer: p, schedule: s, meter: m, stamp: stamp, text: source, value: make([]byte, load.RecordBytes)}
		return w.run(ctx)
	})
	return time.Since(s.began), err
}

// writer is one producer.
type writer struct {
	load     Load
	producer *client.Producer
	schedule *schedule
	meter    *Meter
	stamp    func([]byte, time.Time) []byte
	text     []byte
	value    []byte

	mu      sync.Mutex
	failure error // of the first record that failed
}

// run writes until the load is done or a record fails.
func (w *writer) run(ctx context.Context) error {
	work, stop := w.load.bounded(ctx)
	defer stop()
	err := w.write(work, stop)
	if work.Err() != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled)) {
		err = nil // its time was over
	}
	flushed := w.producer.Flush(ctx)
	ended, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	_ = w.producer.Close(ended) // Flush has told what failed
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.failure != nil:
		return w.failure
	case err != nil:
		return err
	default:
		return flushed
	}
}

func (w *writer) write(ctx context.Context, stop context.CancelFunc) error {
	for {
		number, due, ok := w.schedule.take(ctx)
		if !ok {
			return nil
		}
		for at, n := 0, int(number*7919%int64(len(w.text))); at < len(w.value); n = 0 {
			at += copy(w.value[at:], w.text[n:])
		}
		r := &client.Record{Topic: w.load.Topic, Value: w.stamp(w.value, due)}
		err := w.producer.Produce(ctx, r, func(r *client.Record, err error) {
			if err != nil {
				w.fail(err)
				stop()
				return
			}
			w.meter.Took(time.Since(due))
			w.meter.Count(1, int64(len(r.Value)))
		})
		if err != nil {
			return err
		}
	}
}

func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failure == nil && !errors.Is(err, client.ErrClosed) {
		w.failure = err
	}
}

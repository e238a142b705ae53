package bench

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// Dial returns a new client of the cluster. Who calls it closes the client.
type Dial func() (*client.Client, error)

// Load says how much is written or read.
type Load struct {
	Topic string
	// Records ends the test after so many; 0 is any number.
	Records int64
	// Duration ends the test after so long; 0 is never.
	Duration time.Duration
	// RecordBytes is the size of values.
	RecordBytes int
	// Rate bounds how many records are written a second; 0 is as many as go.
	Rate float64
	// Clients write or read at the same time, each over connections of its own.
	Clients int
	// Producer says how it is written, FetchBytes how it is read; 0 is the client's default.
	Producer   client.ProducerConfig
	FetchBytes int
}

// bounded returns a context that ends with the load's duration.
func (l Load) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if l.Duration <= 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, l.Duration)
}

// textBytes is how much text there is to cut values from.
const textBytes = 1 << 20

// text returns lines like those of a log, the same each time, which compress about as well as such.
func text() []byte {
	words := []string{"INFO", "WARN", "request", "response", "user=", "order=", "status=200", "status=503", "took", "ms", "payment", "shipping", "GET", "POST", "/api/v1/"}
	random := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // it is to be the same each time
	out := make([]byte, 0, textBytes+64)
	for len(out) < textBytes {
		out = append(out, words[random.IntN(len(words))]...)
		for range random.IntN(6) {
			out = append(out, byte('0'+random.IntN(10)))
		}
		out = append(out, ' ')
	}
	return out
}

// schedule hands out records to those who write them.
type schedule struct {
	load  Load
	began time.Time
	next  atomic.Int64
}

// take returns the number of the next record and when it is due, after it has waited for that. It returns false when
// there is no more.
func (s *schedule) take(ctx context.Context) (number int64, due time.Time, ok bool) {
	number = s.next.Add(1) - 1
	if ctx.Err() != nil || (s.load.Records > 0 && number >= s.load.Records) {
		return 0, due, false
	}
	if s.load.Rate <= 0 {
		return number, time.Now(), true
	}
	// A record that is late counts from when it was due: a stall shows in all that it has held up.
	due = s.began.Add(time.Duration(float64(number) / s.load.Rate * float64(time.Second)))
	if wait := time.Until(due); wait > 0 && pause.For(ctx, wait) != nil {
		return 0, due, false
	}
	return number, due, true
}

// each runs fn with a client of its own, so many times at once.
func each(ctx context.Context, dial Dial, clients int, fn func(context.Context, int, *client.Client) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range clients {
		g.Go(func() error {
			c, err := dial()
			if err != nil {
				return err
			}
			return errors.Join(fn(ctx, i, c), c.Close())
		})
	}
	return g.Wait()
}

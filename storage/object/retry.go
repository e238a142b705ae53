package object

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
)

// RetryConfig bounds the tries of one call; the zero value has the defaults.
type RetryConfig struct {
	// Tries is how often a call is tried. Default 6.
	Tries int
	// MinBackoff and MaxBackoff bound the wait before the next try: full jitter below a doubling bound. Defaults 100 ms, 5 s.
	MinBackoff, MaxBackoff time.Duration
	// AttemptTimeout bounds one attempt. Default 30 s.
	AttemptTimeout time.Duration
	// Metrics counts failed attempts; may be nil.
	Metrics *Metrics
}

func (c RetryConfig) withDefaults() RetryConfig {
	if c.Tries <= 0 {
		c.Tries = 6
	}
	if c.MinBackoff <= 0 {
		c.MinBackoff = 100 * time.Millisecond
	}
	if c.MaxBackoff <= 0 {
		c.MaxBackoff = 5 * time.Second
	}
	if c.AttemptTimeout <= 0 {
		c.AttemptTimeout = 30 * time.Second
	}
	return c
}

// WithRetry tries calls again that failed in a way that may pass: time-outs, broken connections, 5xx, "slow down".
func WithRetry(b Bucket, c RetryConfig) Bucket { return &retried{b, c.withDefaults()} }

type retried struct {
	Bucket
	cfg RetryConfig
}

// mayRetry answers whether another attempt can help: the store did not answer, or asked to slow down.
func mayRetry(err error) bool {
	return errors.Is(err, ErrUnavailable) || errors.Is(err, context.DeadlineExceeded)
}

// try calls fn until it succeeds, fails for good, or the tries or ctx end.
func (r *retried) try(ctx context.Context, op string, fn func(ctx context.Context, attempt int) error) error {
	backoff := r.cfg.MinBackoff
	for attempt := 1; ; attempt++ {
		actx, cancel := context.WithTimeout(withAttempt(ctx, attempt), r.cfg.AttemptTimeout)
		err := fn(actx, attempt)
		cancel()
		if answered(err) {
			return err
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			// The caller went away, as a leader does that hands over: the store is not to blame, and nothing was given up.
			return fmt.Errorf("%s, try %d: %w", op, attempt, err)
		}
		if attempt == r.cfg.Tries || !mayRetry(err) || ctx.Err() != nil {
			r.count(op, errorFailed)
			return fmt.Errorf("%s, try %d: %w", op, attempt, err)
		}
		if ended := pause.For(ctx, rand.N(backoff)+backoff/4); ended != nil {
			if errors.Is(ended, context.DeadlineExceeded) {
				r.count(op, errorFailed)
			}
			return fmt.Errorf("%s: %w: %w", op, ended, err)
		}
		r.count(op, errorRetry)
		backoff = min(2*backoff, r.cfg.MaxBackoff)
	}
}

func (r *retried) count(op, kind string) {
	if r.cfg.Metrics != nil {
		r.cfg.Metrics.failed(op, kind)
	}
}

// Put implements Bucket. An earlier attempt of this call may have made the object although its answer was lost: then
// one of the same size is taken for ours, since names of segments are unique. A caller whose names are not reads back.
func (r *retried) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	return r.try(ctx, opPut, func(ctx context.Context, attempt int) error {
		err := r.Bucket.Put(ctx, name, body, sizeBytes)
		if attempt == 1 || !errors.Is(err, ErrExists) {
			return err
		}
		a, headErr := r.Bucket.Head(ctx, name)
		if headErr != nil {
			return headErr
		}
		if a.SizeBytes == sizeBytes {
			return nil
		}
		return err
	})
}

// Get implements Bucket. A read of a known length is made whole, so that a broken connection in its middle is tried
// again too; a read to the end is tried until its first byte.
func (r *retried) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	if length < 0 {
		// The reader outlives the call, so the attempt has the caller's context.
		var out io.ReadCloser
		err := r.try(ctx, opGet, func(context.Context, int) (err error) {
			out, err = r.Bucket.Get(ctx, name, offset, length)
			return err
		})
		return out, err
	}
	var buf bytes.Buffer
	err := r.try(ctx, opGet, func(ctx context.Context, _ int) error {
		rc, err := r.Bucket.Get(ctx, name, offset, length)
		if err != nil {
			return err
		}
		buf.Reset()
		buf.Grow(int(min(length, maxReadAhead)) + bytes.MinRead)
		_, err = buf.ReadFrom(rc)
		if err = errors.Join(err, rc.Close()); err != nil && !mayRetry(err) {
			err = fmt.Errorf("object %s: %w: %w", name, ErrUnavailable, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return io.NopCloser(&buf), nil
}

// maxReadAhead bounds what is allocated before the bytes are there.
const maxReadAhead = 16 << 20

// Head implements Bucket.
func (r *retried) Head(ctx context.Context, name string) (a Attributes, err error) {
	err = r.try(ctx, opHead, func(ctx context.Context, _ int) (err error) {
		a, err = r.Bucket.Head(ctx, name)
		return err
	})
	return a, err
}

// List implements Bucket.
func (r *retried) List(ctx context.Context, prefix, after string) (page []Attributes, more bool, err error) {
	err = r.try(ctx, opList, func(ctx context.Context, _ int) (err error) {
		page, more, err = r.Bucket.List(ctx, prefix, after)
		return err
	})
	return page, more, err
}

// Delete implements Bucket.
func (r *retried) Delete(ctx context.Context, name string) error {
	return r.try(ctx, opDelete, func(ctx context.Context, _ int) error { return r.Bucket.Delete(ctx, name) })
}

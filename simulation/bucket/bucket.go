// Package bucket is an object store in memory that answers 503, takes long, ends after the caller has given up, and fails
// to answer what it has done.
package bucket

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/object"
)

// Mood is how the store behaves. Shares are from 0 to 1, of calls.
type Mood struct {
	// Latency of every call, and up to as much again.
	Latency time.Duration
	// Refuse is the share that is answered 503 and does nothing.
	Refuse float64
	// Forget is the share that is done, and then answered 503.
	Forget float64
	// Hang is the share that is answered nothing until the caller gives up; what it writes or removes is done Late after
	// that.
	Hang float64
	Late time.Duration
}

// Bucket is an object.Bucket. Safe for concurrent use.
type Bucket struct {
	inner *object.Memory

	mu   sync.Mutex
	rand *rand.Rand // guarded by mu
	mood Mood       // guarded by mu
	late sync.WaitGroup
}

var _ object.Bucket = (*Bucket)(nil)

// New returns an empty store.
func New(seed uint64, mood Mood) *Bucket {
	return &Bucket{inner: object.NewMemory(), rand: rand.New(rand.NewPCG(seed, 3)), mood: mood}
}

// Set changes how the store behaves from the next call on.
func (b *Bucket) Set(m Mood) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mood = m
}

// Names returns the names of the objects that end in suffix, in order, whatever the mood.
func (b *Bucket) Names(ctx context.Context, suffix string) (names []string, err error) {
	err = object.All(ctx, b.inner, "", func(a object.Attributes) error {
		if strings.HasSuffix(a.Name, suffix) {
			names = append(names, a.Name)
		}
		return nil
	})
	return names, err
}

// Remove removes an object behind everybody's back.
func (b *Bucket) Remove(ctx context.Context, name string) error { return b.inner.Delete(ctx, name) }

// FlipBit flips a bit of an object behind everybody's back, by draw.
func (b *Bucket) FlipBit(ctx context.Context, name string, draw uint64) error {
	r, err := b.inner.Get(ctx, name, 0, -1)
	if err != nil {
		return err
	}
	data, err := io.ReadAll(r)
	if err = errors.Join(err, r.Close(), b.inner.Delete(ctx, name)); err != nil {
		return err
	}
	data[draw%uint64(len(data))] ^= 1 << (draw >> 32 % 8)
	return b.inner.Put(ctx, name, bytes.NewReader(data), int64(len(data)))
}

// Close waits for what is done late.
func (b *Bucket) Close() { b.late.Wait() }

type fate int

const (
	fine fate = iota
	refuse
	forget
	hang
)

var errSlowDown = fmt.Errorf("503 slow down: %w", object.ErrUnavailable)

// draw decides what becomes of a call.
func (b *Bucket) draw() (fate, time.Duration, time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.mood
	wait := m.Latency
	if wait > 0 {
		wait += time.Duration(b.rand.Int64N(int64(wait)))
	}
	switch x := b.rand.Float64(); {
	case x < m.Refuse:
		return refuse, wait, 0
	case x < m.Refuse+m.Forget:
		return forget, wait, 0
	case x < m.Refuse+m.Forget+m.Hang:
		return hang, wait, m.Late
	}
	return fine, wait, 0
}

// do runs a call. change says that it changes something, so that it can be late.
func (b *Bucket) do(ctx context.Context, change bool, call func(context.Context) error) error {
	f, wait, late := b.draw()
	if f == hang {
		<-ctx.Done()
		if change {
			b.late.Go(func() {
				<-time.After(late)
				_ = call(context.WithoutCancel(ctx))
			})
		}
		return errors.Join(ctx.Err(), object.ErrUnavailable)
	}
	if err := pause.For(ctx, wait); err != nil {
		return errors.Join(err, object.ErrUnavailable)
	}
	if f == refuse {
		return errSlowDown
	}
	err := call(ctx)
	if f == forget {
		return errSlowDown
	}
	return err
}

// Put implements object.Bucket.
func (b *Bucket) Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error {
	if _, err := body.Seek(0, io.SeekStart); err != nil {
		return err
	}
	data, err := io.ReadAll(body)
	if err != nil {
		return err
	}
	return b.do(ctx, true, func(ctx context.Context) error { return b.inner.Put(ctx, name, bytes.NewReader(data), sizeBytes) })
}

// Get implements object.Bucket.
func (b *Bucket) Get(ctx context.Context, name string, offset, length int64) (rc io.ReadCloser, err error) {
	err = b.do(ctx, false, func(ctx context.Context) error {
		rc, err = b.inner.Get(ctx, name, offset, length)
		return err
	})
	if err != nil {
		return nil, err
	}
	return rc, nil
}

// Head implements object.Bucket.
func (b *Bucket) Head(ctx context.Context, name string) (a object.Attributes, err error) {
	err = b.do(ctx, false, func(ctx context.Context) error {
		a, err = b.inner.Head(ctx, name)
		return err
	})
	return a, err
}

// List implements object.Bucket.
func (b *Bucket) List(ctx context.Context, prefix, after string) (page []object.Attributes, more bool, err error) {
	err = b.do(ctx, false, func(ctx context.Context) error {
		page, more, err = b.inner.List(ctx, prefix, after)
		return err
	})
	return page, more, err
}

// Delete implements object.Bucket.
func (b *Bucket) Delete(ctx context.Context, name string) error {
	return b.do(ctx, true, func(ctx context.Context) error { return b.inner.Delete(ctx, name) })
}

package bucket

import (
	"context"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/object"
)

func put(ctx context.Context, b *Bucket) error {
	return b.Put(ctx, "o", strings.NewReader("x"), 1)
}

func TestMoods(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(1, Mood{Refuse: 1})
		require.ErrorIs(t, put(t.Context(), b), object.ErrUnavailable)
		b.Set(Mood{Latency: time.Second})
		_, err := b.Head(t.Context(), "o")
		require.ErrorIs(t, err, object.ErrNotFound, "a refused call did nothing")

		b.Set(Mood{Forget: 1})
		require.ErrorIs(t, put(t.Context(), b), object.ErrUnavailable)
		b.Set(Mood{})
		require.ErrorIs(t, put(t.Context(), b), object.ErrExists, "a forgotten one did")

		b.Set(Mood{Hang: 1, Late: 5 * time.Second})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = b.Delete(ctx, "o")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		b.Set(Mood{})
		_, err = b.Head(t.Context(), "o")
		require.NoError(t, err)
		b.Close()
		_, err = b.Head(t.Context(), "o")
		require.ErrorIs(t, err, object.ErrNotFound, "it was done late")
	})
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(1, Mood{Latency: time.Second})
		begin := time.Now()
		require.NoError(t, put(t.Context(), b))
		require.InDelta(t, 1.5, time.Since(begin).Seconds(), 0.5)
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		require.ErrorIs(t, put(ctx, b), context.DeadlineExceeded)
	})
}

func TestBehindEverybodysBack(t *testing.T) {
	b := New(1, Mood{})
	require.NoError(t, put(t.Context(), b))
	b.Set(Mood{Refuse: 1})
	for suffix, want := range map[string][]string{"": {"o"}, "o": {"o"}, "p": nil} {
		names, err := b.Names(t.Context(), suffix)
		require.NoError(t, err)
		require.Equal(t, want, names)
	}
	read := func() string {
		b.Set(Mood{})
		r, err := b.Get(t.Context(), "o", 0, -1)
		require.NoError(t, err)
		data, err := io.ReadAll(r)
		require.NoError(t, err)
		return string(data)
	}
	was := read()
	require.NoError(t, b.FlipBit(t.Context(), "o", 7))
	flipped := read()
	require.Len(t, flipped, len(was))
	require.NotEqual(t, was, flipped)
	require.NoError(t, b.FlipBit(t.Context(), "o", 7))
	require.Equal(t, was, read())
	require.NoError(t, b.Remove(t.Context(), "o"))
	require.ErrorIs(t, b.FlipBit(t.Context(), "o", 7), object.ErrNotFound)
}

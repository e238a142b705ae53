// Package objecttest holds what every object.Bucket promises, as tests.
package objecttest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/object"
)

// Run tests empty buckets that open returns.
func Run(t *testing.T, open func(t *testing.T) object.Bucket) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, object.Bucket){
		"ranges":               ranges,
		"sizes":                sizes,
		"create once":          createOnce,
		"one of many creates":  oneOfManyCreates,
		"missing objects":      missing,
		"head":                 head,
		"list":                 list,
		"list in pages":        listInPages,
		"delete":               remove,
		"names":                names,
		"a context that ended": endedContext,
		"probe":                probe,
	} {
		t.Run(name, func(t *testing.T) { test(t, open(t)) })
	}
}

func put(t *testing.T, b object.Bucket, name, body string) {
	t.Helper()
	require.NoError(t, b.Put(t.Context(), name, bytes.NewReader([]byte(body)), int64(len(body))))
}

func read(t *testing.T, b object.Bucket, name string, offset, length int64) string {
	t.Helper()
	r, err := b.Get(t.Context(), name, offset, length)
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.NoError(t, r.Close())
	return string(got)
}

func listed(t *testing.T, b object.Bucket, prefix string) []string {
	t.Helper()
	var names []string
	require.NoError(t, object.All(t.Context(), b, prefix, func(a object.Attributes) error {
		names = append(names, a.Name)
		return nil
	}))
	return names
}

func ranges(t *testing.T, b object.Bucket) {
	t.Helper()
	put(t, b, "o", "0123456789")
	for _, tt := range []struct {
		offset, length int64
		want           string
	}{
		{0, -1, "0123456789"},
		{0, 10, "0123456789"},
		{3, 4, "3456"},
		{3, -1, "3456789"},
		{8, 100, "89"},
		{9, 1, "9"},
		{10, 5, ""},
		{100, 5, ""},
		{100, -1, ""},
		{5, 0, ""},
	} {
		require.Equal(t, tt.want, read(t, b, "o", tt.offset, tt.length), "%d bytes at %d", tt.length, tt.offset)
	}
}

func sizes(t *testing.T, b object.Bucket) {
	t.Helper()
	for _, n := range []int{0, 1, 5<<20 + 3} {
		name, body := fmt.Sprintf("size-%d", n), bytes.Repeat([]byte("x"), n)
		require.NoError(t, b.Put(t.Context(), name, bytes.NewReader(body), int64(n)))
		require.Len(t, read(t, b, name, 0, -1), n)
	}
}

func createOnce(t *testing.T, b object.Bucket) {
	t.Helper()
	put(t, b, "o", "first")
	err := b.Put(t.Context(), "o", bytes.NewReader([]byte("other")), 5)
	require.ErrorIs(t, err, object.ErrExists)
	require.Equal(t, "first", read(t, b, "o", 0, -1))
	require.NoError(t, b.Delete(t.Context(), "o"))
	put(t, b, "o", "again")
	require.Equal(t, "again", read(t, b, "o", 0, -1))
}

func oneOfManyCreates(t *testing.T, b object.Bucket) {
	t.Helper()
	var made atomic.Int32
	var winner atomic.Value
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			body := fmt.Sprintf("body %d", i)
			err := b.Put(t.Context(), "o", bytes.NewReader([]byte(body)), int64(len(body)))
			if err == nil {
				made.Add(1)
				winner.Store(body)
			} else if !errors.Is(err, object.ErrExists) && !errors.Is(err, object.ErrUnavailable) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, made.Load())
	require.Equal(t, winner.Load(), read(t, b, "o", 0, -1))
}

func missing(t *testing.T, b object.Bucket) {
	t.Helper()
	_, err := b.Get(t.Context(), "no/such", 0, -1)
	require.ErrorIs(t, err, object.ErrNotFound)
	_, err = b.Get(t.Context(), "no/such", 0, 10)
	require.ErrorIs(t, err, object.ErrNotFound)
	_, err = b.Head(t.Context(), "no/such")
	require.ErrorIs(t, err, object.ErrNotFound)
	require.NoError(t, b.Delete(t.Context(), "no/such"))
	require.Empty(t, listed(t, b, "no"))
}

func head(t *testing.T, b object.Bucket) {
	t.Helper()
	put(t, b, "a/b", "12345")
	a, err := b.Head(t.Context(), "a/b")
	require.NoError(t, err)
	require.Equal(t, "a/b", a.Name)
	require.EqualValues(t, 5, a.SizeBytes)
	require.False(t, a.ModTime.IsZero())
}

func list(t *testing.T, b object.Bucket) {
	t.Helper()
	for _, name := range []string{"b/2", "a/1", "b/10", "b/2x", "c", "ba/1"} {
		put(t, b, name, name)
	}
	require.Equal(t, []string{"a/1", "b/10", "b/2", "b/2x", "ba/1", "c"}, listed(t, b, ""))
	require.Equal(t, []string{"b/10", "b/2", "b/2x"}, listed(t, b, "b/"))
	require.Equal(t, []string{"b/2", "b/2x"}, listed(t, b, "b/2"))
	require.Empty(t, listed(t, b, "d/"))
	page, _, err := b.List(t.Context(), "b/", "b/10")
	require.NoError(t, err)
	require.Equal(t, "b/2", page[0].Name)
	require.EqualValues(t, 3, page[0].SizeBytes)
	errStop := errors.New("stop")
	require.ErrorIs(t, object.All(t.Context(), b, "", func(object.Attributes) error { return errStop }), errStop)
}

// listInPages has more objects than a page of S3.
func listInPages(t *testing.T, b object.Bucket) {
	t.Helper()
	const n = 1050
	work := make(chan int)
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for i := range work {
				if err := b.Put(t.Context(), fmt.Sprintf("p/%05d", i), bytes.NewReader(nil), 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		work <- i
	}
	close(work)
	wg.Wait()
	names := listed(t, b, "p/")
	require.Len(t, names, n)
	require.IsIncreasing(t, names)
}

func remove(t *testing.T, b object.Bucket) {
	t.Helper()
	put(t, b, "a/1", "x")
	put(t, b, "a/2", "x")
	require.NoError(t, b.Delete(t.Context(), "a/1"))
	require.NoError(t, b.Delete(t.Context(), "a/1"))
	require.Equal(t, []string{"a/2"}, listed(t, b, ""))
}

func names(t *testing.T, b object.Bucket) {
	t.Helper()
	for _, name := range []string{"", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", "a b", "ä", "a\\b", "a\x00"} {
		require.ErrorIs(t, b.Put(t.Context(), name, bytes.NewReader(nil), 0), object.ErrInvalidName, "%q", name)
		_, err := b.Get(t.Context(), name, 0, 1)
		require.ErrorIs(t, err, object.ErrInvalidName, "%q", name)
	}
}

func endedContext(t *testing.T, b object.Bucket) {
	t.Helper()
	put(t, b, "o", "x")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, b.Put(ctx, "p", bytes.NewReader(nil), 0), context.Canceled)
	_, err := b.Get(ctx, "o", 0, 1)
	require.ErrorIs(t, err, context.Canceled)
	_, _, err = b.List(ctx, "", "")
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorIs(t, b.Delete(ctx, "o"), context.Canceled)
	require.Equal(t, []string{"o"}, listed(t, b, ""))
}

func probe(t *testing.T, b object.Bucket) {
	t.Helper()
	require.NoError(t, object.Probe(t.Context(), b))
	require.Empty(t, listed(t, b, ""))
}

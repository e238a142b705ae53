package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// source has objects, and notes what is read of them.
type source struct {
	mu      sync.Mutex
	objects map[string]string
	reads   []string
	wait    chan struct{} // reads wait for it to be closed, when set
	fail    error
	breaks  bool // reads break off after a byte
}

func (s *source) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	s.mu.Lock()
	s.reads = append(s.reads, fmt.Sprintf("%s %d+%d", name, offset, length))
	wait, fail, breaks, data := s.wait, s.fail, s.breaks, s.objects[name]
	s.mu.Unlock()
	if wait != nil {
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if fail != nil {
		return nil, fail
	}
	data = data[min(offset, int64(len(data))):]
	data = data[:min(length, int64(len(data)))]
	if breaks {
		return io.NopCloser(io.MultiReader(strings.NewReader(data[:1]), errReader{})), nil
	}
	return io.NopCloser(bytes.NewReader([]byte(data))), nil
}

var errBroken = errors.New("broken")

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errBroken }

func (s *source) asked() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.reads...)
}

func (s *source) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

const text = "0123456789abcdefghijklmnopqrstuvwxyz" // nine blocks of four bytes

func newCache(t *testing.T, s *source, capacity int64, ahead int) (*Cache, *prometheus.Registry) {
	t.Helper()
	if s.objects == nil {
		s.objects = map[string]string{"o": text}
	}
	reg := prometheus.NewPedanticRegistry()
	c := New(s, Config{CapacityBytes: capacity, BlockBytes: 4, ReadAheadBlocks: ahead, Registerer: reg})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c, reg
}

func requireRead(t *testing.T, c *Cache, offset, length int64, want string) {
	t.Helper()
	got, err := c.ReadRange(t.Context(), "o", offset, length)
	require.NoError(t, err)
	require.Equal(t, want, string(got))
}

func requireCounts(t *testing.T, reg *prometheus.Registry, hits, misses int) {
	t.Helper()
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(`
		# HELP streamhouse_cache_hits_total Block look-ups of consumers answered from memory.
		# TYPE streamhouse_cache_hits_total counter
		streamhouse_cache_hits_total %d
		# HELP streamhouse_cache_misses_total Block look-ups of consumers that had to wait for the object store.
		# TYPE streamhouse_cache_misses_total counter
		streamhouse_cache_misses_total %d
	`, hits, misses)), "streamhouse_cache_hits_total", "streamhouse_cache_misses_total"))
}

func TestReadRange(t *testing.T) {
	for _, capacity := range []int64{4, 8, 1000} {
		c, _ := newCache(t, &source{}, capacity, -1)
		for offset := range int64(len(text) + 2) {
			for length := range int64(len(text) + 6) {
				from := min(offset, int64(len(text)))
				requireRead(t, c, offset, length, text[from:min(from+length, int64(len(text)))])
			}
		}
	}
	c, _ := newCache(t, &source{}, 100, -1)
	_, err := c.ReadRange(t.Context(), "o", -1, 4)
	require.Error(t, err)
	_, err = c.ReadRange(t.Context(), "o", 0, -4)
	require.Error(t, err)
}

func TestHitsAndMisses(t *testing.T) {
	s := &source{}
	c, reg := newCache(t, s, 100, -1)
	requireRead(t, c, 2, 4, "2345")
	requireCounts(t, reg, 0, 2)
	requireRead(t, c, 0, 12, text[:12])
	requireCounts(t, reg, 2, 3)
	require.Equal(t, []string{"o 0+8", "o 8+4"}, s.asked(), "adjacent blocks come with one request")
	require.EqualValues(t, 12, c.SizeBytes())
}

func TestMemoryIsBounded(t *testing.T) {
	s := &source{}
	c, _ := newCache(t, s, 12, -1)
	requireRead(t, c, 0, 4, text[:4])
	requireRead(t, c, 4, 4, text[4:8])
	requireRead(t, c, 0, 4, text[:4]) // newer than the second
	requireRead(t, c, 8, 8, text[8:16])
	require.LessOrEqual(t, c.SizeBytes(), int64(12))
	before := len(s.asked())
	requireRead(t, c, 0, 4, text[:4])
	require.Len(t, s.asked(), before, "what was read last stays")
	requireRead(t, c, 4, 4, text[4:8])
	require.Len(t, s.asked(), before+1, "what was not read for longest went")
}

func TestManyReadersOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{wait: make(chan struct{})}
		c, reg := newCache(t, s, 100, -1)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				got, err := c.ReadRange(t.Context(), "o", 0, 4)
				if err != nil || string(got) != text[:4] {
					t.Errorf("%q, %v", got, err)
				}
			})
		}
		synctest.Wait()
		close(s.wait)
		wg.Wait()
		require.Equal(t, []string{"o 0+4"}, s.asked())
		requireCounts(t, reg, 0, 10)
	})
}

func TestReaderGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{wait: make(chan struct{})}
		c, _ := newCache(t, s, 100, -1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := c.ReadRange(ctx, "o", 0, 4)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		close(s.wait)
		synctest.Wait()
		requireRead(t, c, 0, 4, text[:4])
		require.Len(t, s.asked(), 1, "the request went on, and was of use")
	})
}

func TestErrorsAreNotKept(t *testing.T) {
	s := &source{fail: errBroken}
	c, _ := newCache(t, s, 100, -1)
	_, err := c.ReadRange(t.Context(), "o", 0, 8)
	require.ErrorIs(t, err, errBroken)
	s.set(func() { s.fail, s.breaks = nil, true })
	_, err = c.ReadRange(t.Context(), "o", 0, 8)
	require.ErrorIs(t, err, errBroken, "nor what came before a connection broke")
	require.Zero(t, c.SizeBytes())
	s.set(func() { s.breaks = false })
	requireRead(t, c, 0, 8, text[:8])
}

func TestReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{}
		c, reg := newCache(t, s, 100, 2)
		requireRead(t, c, 0, 4, text[:4])
		requireRead(t, c, 4, 4, text[4:8]) // in order: the next two are fetched too
		synctest.Wait()
		requireCounts(t, reg, 0, 2)
		requireRead(t, c, 8, 8, text[8:16])
		requireCounts(t, reg, 2, 2)
		synctest.Wait()
		for _, read := range s.asked() {
			require.NotContains(t, read, "o 36", "nothing is read behind the end")
		}
		// Reads that jump fetch nothing ahead.
		before := len(s.asked())
		requireRead(t, c, 32, 4, text[32:])
		synctest.Wait()
		require.LessOrEqual(t, len(s.asked()), before+1)
	})
}

// TestReadAheadOfManyReaders: where the store is slow, what readers get ahead of them stays within the memory.
func TestReadAheadOfManyReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{objects: make(map[string]string)}
		for i := range 8 {
			s.objects[fmt.Sprint(i)] = text
		}
		const capacity = 128
		c, _ := newCache(t, s, capacity, 8)
		for name := range s.objects {
			_, err := c.ReadRange(t.Context(), name, 0, 4)
			require.NoError(t, err)
		}
		wait := make(chan struct{})
		s.set(func() { s.wait = wait })
		var wg sync.WaitGroup
		for name := range s.objects {
			wg.Go(func() {
				got, err := c.ReadRange(t.Context(), name, 4, 4)
				assert.Equal(t, text[4:8], string(got), "%v", err)
			})
		}
		synctest.Wait()
		require.LessOrEqual(t, c.SizeBytes(), int64(capacity))
		close(wait)
		wg.Wait()
		require.LessOrEqual(t, c.SizeBytes(), int64(capacity))
		require.NoError(t, c.Close())
	})
}

func TestClosed(t *testing.T) {
	s := &source{wait: make(chan struct{})}
	c, _ := newCache(t, s, 100, -1)
	failed := make(chan error, 1)
	go func() {
		_, err := c.ReadRange(context.WithoutCancel(t.Context()), "o", 0, 4)
		failed <- err
	}()
	require.Eventually(t, func() bool { return len(s.asked()) == 1 }, 5*time.Second, time.Millisecond)
	require.NoError(t, c.Close())
	require.ErrorIs(t, <-failed, context.Canceled)
	_, err := c.ReadRange(t.Context(), "o", 0, 4)
	require.ErrorIs(t, err, ErrClosed)
	require.NoError(t, c.Close())
}

// A small memory holds several blocks, so that one on its way does not push out all others.
func TestBlocksFitTheMemory(t *testing.T) {
	for capacity, block := range map[int64]int64{0: 1 << 20, 256 << 20: 1 << 20, 16 << 20: 1 << 20, 1 << 20: 64 << 10, 4: 1} {
		require.Equal(t, block, Config{CapacityBytes: capacity}.withDefaults().BlockBytes, "of %d bytes", capacity)
	}
	s := &source{objects: map[string]string{"a": text, "b": text}}
	c := New(s, Config{CapacityBytes: 1 << 20, ReadAheadBlocks: -1})
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	for range 2 {
		for _, name := range []string{"a", "b"} {
			got, err := c.ReadRange(t.Context(), name, 0, 4)
			require.NoError(t, err)
			require.Equal(t, text[:4], string(got))
		}
	}
	require.Equal(t, int64(2), int64(testutil.ToFloat64(c.hits)))
}

package observability

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/internal/pause"
)

// lockedBuffer may be read while a server writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// sampled returns a logger of text with a clock that stands still.
func sampled(t *testing.T) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	var b bytes.Buffer
	h := newHandler(slog.NewTextHandler(&b, nil), "n1")
	now := time.Now()
	h.sample.now = func() time.Time { return now }
	return slog.New(h), &b
}

func TestSampling(t *testing.T) {
	var b bytes.Buffer
	h := newHandler(slog.NewTextHandler(&b, &slog.HandlerOptions{Level: slog.LevelDebug}), "n1")
	now := time.Now()
	h.sample.now = func() time.Time { return now }
	l := slog.New(h)
	lines := func() int { n := strings.Count(b.String(), "\n"); b.Reset(); return n }
	for range 100 {
		l.Warn("failed", "error", errors.New("x"))
	}
	require.Equal(t, 1, lines())
	l.Warn("failed", "shard", 1)
	l.Warn("failed", "shard", 2)
	l.With("logger", "raft").Warn("failed")
	l.Error("failed")
	l.Warn("another")
	require.Equal(t, 5, lines(), "other subject, logger, level, message")
	for range 50 {
		l.Debug("failed")
	}
	require.Equal(t, 50, lines(), "who asks for debug gets all")
	now = now.Add(sampleEvery)
	l.Warn("failed", "error", errors.New("y"))
	require.Contains(t, b.String(), "dropped=99")
	b.Reset()
	now = now.Add(sampleEvery)
	l.Warn("failed")
	require.NotContains(t, b.String(), "dropped")
}

// Messages that are all different neither grow the memory nor the log without bound.
func TestSamplingIsBounded(t *testing.T) {
	var b bytes.Buffer
	h := newHandler(slog.NewTextHandler(&b, nil), "n1")
	now := time.Now()
	h.sample.now = func() time.Time { return now }
	l := slog.New(h)
	for round := range 3 {
		b.Reset()
		for i := range 20 * maxSampled {
			l.Warn(fmt.Sprintf("message %d of %d", i, round))
		}
		require.LessOrEqual(t, len(h.sample.seen), maxSampled+4)
		require.LessOrEqual(t, strings.Count(b.String(), "\n"), maxSampled+4)
		now = now.Add(sampleEvery)
	}
	require.Contains(t, b.String(), "message 0 of 2", "old ones make room")
}

// What makes room for other lines leaves behind how many like it were dropped: each line is written or counted.
func TestForgottenLinesAreCounted(t *testing.T) {
	var b bytes.Buffer
	h := newHandler(slog.NewJSONHandler(&b, nil), "n1")
	now := time.Unix(1_700_000_000, 0)
	h.sample.now = func() time.Time { return now }
	l := slog.New(h).With("logger", "raft")
	said := 0
	for i := range 2 * maxSampled {
		for range 1 + i%3 {
			l.Warn(fmt.Sprint("message ", i))
			said++
		}
	}
	require.NotContains(t, b.String(), "dropped", "all is still known")
	now = now.Add(sampleEvery)
	l.Error("another")
	told, by := strings.Count(b.String(), `"msg":"message `)+1, make(map[string]int)
	for line := range strings.Lines(b.String()) {
		var f struct {
			Level, Msg, Logger, Line string
			Dropped                  int
		}
		require.NoError(t, json.Unmarshal([]byte(line), &f), line)
		if f.Dropped == 0 {
			continue
		}
		require.Equal(t, "WARN: lines that repeat were dropped", f.Level+": "+f.Msg)
		told += f.Dropped
		by[f.Logger+": "+f.Line] = f.Dropped
	}
	require.Equal(t, said+1, told)
	require.Equal(t, 1, by["raft: message 1"])
	require.Equal(t, 2, by["raft: message 2"])
	require.NotContains(t, by, "raft: message 3")
	require.Positive(t, by["node: "], "those that shared a place")
}

// Clients choose names of topics and groups and numbers of partitions: however many there are, few are told apart, and they
// take no room from other lines.
func TestNamesOfClientsAreBounded(t *testing.T) {
	l, b := sampled(t)
	for i := range 2 * maxSampled {
		name := fmt.Sprint("t", i)
		l.Warn("call failed", "reason", "NO_LEADER", "topic", name, "group", name, "member", name, "partition", i)
	}
	require.Equal(t, maxOf[clients]+1, strings.Count(b.String(), "\n"))
	b.Reset()
	l.Warn("call failed", "reason", "LOG_FULL", "topic", "t0")
	l.Warn("call failed", "reason", "LOG_FULL", "topic", "t1")
	l.Warn("another")
	l.Warn("another", "object", "o")
	require.Equal(t, 3, strings.Count(b.String(), "\n"))
}

// A life-cycle rule deletes objects: the log names all of them, and of very many some and the number of the others.
func TestEachObjectHasItsLine(t *testing.T) {
	l, b := sampled(t)
	for i := range maxOf[ours] {
		l.Error("an object is damaged", "object", fmt.Sprint("o", i), "error", errors.New("not found"))
	}
	require.Equal(t, maxOf[ours], strings.Count(b.String(), "\n"))
	b.Reset()
	for i := range 1000 {
		l.Error("an object is damaged", "object", fmt.Sprint("p", i), "error", errors.New("not found"))
	}
	require.Equal(t, errorBurst, strings.Count(b.String(), "\n"))
	b.Reset()
	l.Error("another")
	require.Equal(t, 1, strings.Count(b.String(), "\n"), "there is room")
}

// Errors that may differ in their text alone are written up to a bound, again once they were over.
func TestErrorsHaveABurst(t *testing.T) {
	var b bytes.Buffer
	h := newHandler(slog.NewTextHandler(&b, nil), "n1")
	now := time.Now()
	h.sample.now = func() time.Time { return now }
	l := slog.New(h)
	lines := func(n int) int {
		b.Reset()
		for i := range n {
			l.Error("failed", "error", fmt.Sprint("reason ", i))
		}
		return strings.Count(b.String(), "\n")
	}
	require.Equal(t, errorBurst, lines(100))
	now = now.Add(sampleEvery - 1)
	require.Zero(t, lines(1))
	now = now.Add(1)
	require.Equal(t, 1, lines(2), "they go on")
	require.Contains(t, b.String(), "dropped=81")
	now = now.Add(sampleEvery)
	require.Equal(t, errorBurst, lines(100), "they are back")
}

// What was dropped is told when the lines have ended, and when the node stops.
func TestDroppedLinesAreToldWithoutAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b lockedBuffer
		l, err := NewLogger(&b, "json", "info", "n1")
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { require.NoError(t, l.Run(ctx)) })
		fail := func() {
			for range 3 {
				l.With("logger", "a", "shard", 1).Warn("failed", "error", "x")
			}
		}
		told := func() int {
			synctest.Wait()
			return strings.Count(b.String(), `"msg":"lines that repeat were dropped","logger":"a","node_id":"n1","shard":1,"line":"failed","dropped":2}`)
		}
		synctest.Wait()
		fail()
		require.Zero(t, told())
		require.NoError(t, pause.For(t.Context(), 2*sampleEvery))
		require.Equal(t, 1, told())
		require.NoError(t, pause.For(t.Context(), 2*sampleEvery))
		require.Equal(t, 1, told(), "once")
		fail()
		cancel()
		wg.Wait()
		require.Equal(t, 2, told())
	})
}

// Errors with names of all kinds, all different, are bounded too, in memory and in lines.
func TestErrorsAreBounded(t *testing.T) {
	var b bytes.Buffer
	h := newHandler(slog.NewTextHandler(&b, nil), "n1")
	now := time.Now()
	h.sample.now = func() time.Time { return now }
	l := slog.New(h)
	for range 3 {
		b.Reset()
		for i := range 20 * maxSampled {
			l.Error("failed", [...]string{"object", "topic", "step"}[i%3], i)
		}
		require.LessOrEqual(t, len(h.sample.seen), maxSampled+4)
		require.LessOrEqual(t, strings.Count(b.String(), "\n"), maxSampled+4+4*errorBurst)
		held := 0
		for _, n := range h.sample.held {
			held += n
		}
		require.Len(t, h.sample.seen, held)
		now = now.Add(sampleEvery)
	}
	require.NotEmpty(t, h.sample.due(true))
	require.Empty(t, h.sample.seen)
	require.Equal(t, [kinds]int{}, h.sample.held)
}

package observability

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
)

func jsonLogger(t *testing.T, level string) (*slog.Logger, *bytes.Buffer) {
	t.Helper()
	var b bytes.Buffer
	l, err := NewLogger(&b, "json", level, "n1")
	require.NoError(t, err)
	return l, &b
}

func inTrace(ctx context.Context) context.Context {
	return trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}}))
}

func TestLinesHaveTheSameFields(t *testing.T) {
	l, b := jsonLogger(t, "info")
	l = l.With("logger", "a", "shard", 1).With("logger", "b", "time", "bound").WithGroup("g")
	l.InfoContext(inTrace(t.Context()), "text", "level", "its own", "took", 1500*time.Microsecond, "topic", "orders")
	require.Regexp(t, `^\{"time":"[^"]+","level":"INFO","msg":"text","logger":"b","node_id":"n1","shard":1,"its_time":"bound",`+
		`"its_level":"its own","took":"1.5ms","topic":"orders","trace_id":"01000000000000000000000000000000","span_id":"0200000000000000"\}\n$`, b.String())
	b.Reset()
	l.Info("outside")
	require.NotContains(t, b.String(), "trace_id")
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

// Clients choose names of topics and groups: however many there are, they take no room from other lines.
func TestNamesOfClientsAreNoSubjects(t *testing.T) {
	var b bytes.Buffer
	l := slog.New(newHandler(slog.NewTextHandler(&b, nil), "n1"))
	for i := range 2 * maxSampled {
		name := fmt.Sprint("t", i)
		l.Warn("call failed", "reason", "NO_LEADER", "topic", name, "group", name, "member", name, "partition", i)
	}
	require.Equal(t, 1, strings.Count(b.String(), "\n"))
	l.Warn("call failed", "reason", "LOG_FULL", "topic", "t0")
	l.Warn("another")
	require.Equal(t, 3, strings.Count(b.String(), "\n"))
}

func TestSecretsAreNotWritten(t *testing.T) {
	t.Setenv("AWS_SECRET_ACCESS_KEY", `wJalrXUtnFEMI/K7MDENG+bPxRfiCY"EXAMPLE`)
	t.Setenv("AWS_SESSION_TOKEN", "FwoGZXIvYXdzEJr//////////wEaDNz=")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20abcdef")
	t.Setenv("SHORT_SECRET", "a")
	for _, format := range []string{"json", "text"} {
		var b bytes.Buffer
		l, err := NewLogger(&b, format, "info", "n1")
		require.NoError(t, err)
		for i, secret := range []string{
			`wJalrXUtnFEMI/K7MDENG+bPxRfiCY"EXAMPLE`, "FwoGZXIvYXdzEJr//////////wEaDNz=", "authorization=Bearer%20abcdef",
			"AKIAIOSFODNN7EXAMPLE", "hunter22", "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
		} {
			said := map[int]string{
				4: "s3://key:hunter22@bucket/x", 5: "https://h/o?X-Amz-Signature=" + secret + "&x=1",
			}[i]
			if said == "" {
				said = secret
			}
			l.Error(fmt.Sprintf("%d: %s", i, said), "error", errors.New("get "+said+": no"), "a", said)
		}
		for _, secret := range []string{"wJalr", "FwoGZX", "abcdef", "AKIAIOS", "hunter22", "5d672d79"} {
			require.NotContains(t, b.String(), secret, format)
		}
		require.Equal(t, 6, strings.Count(b.String(), "\n"))
		require.Contains(t, b.String(), "bucket/x", "the rest stays")
		if format == "json" {
			for line := range strings.Lines(b.String()) {
				require.NoError(t, json.Unmarshal([]byte(line), new(map[string]any)), line)
			}
		}
	}
}

func BenchmarkLog(b *testing.B) {
	l, err := NewLogger(io.Discard, "json", "info", "n1")
	require.NoError(b, err)
	l = l.With("logger", "rpc")
	ctx := inTrace(b.Context())
	b.Run("level=debug/off", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if l.Enabled(ctx, slog.LevelDebug) {
				l.DebugContext(ctx, "call")
			}
		}
	})
	b.Run("level=warn/repeated", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			l.LogAttrs(ctx, slog.LevelWarn, "call failed", slog.String("method", "/m"))
		}
	})
}

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
	return l.Logger, &b
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

// A secret that is the beginning of another leaves no rest of that.
func TestSecretsWithOthersInThem(t *testing.T) {
	environ := []string{"A_TOKEN=hunter2hunter2", "B_TOKEN=hunter2hunter2-and-more", "C_SECRET=the-hunter2hunter2-and-more"}
	for range environ {
		environ = append(environ[1:], environ[0])
		var b bytes.Buffer
		_, err := (&redactor{w: &b, secrets: secretsOf(environ)}).Write([]byte("a hunter2hunter2-and-more b the-hunter2hunter2-and-more c hunter2hunter2"))
		require.NoError(t, err)
		require.Equal(t, "a REDACTED b REDACTED c REDACTED", b.String(), environ)
	}
}

func BenchmarkLog(b *testing.B) {
	root, err := NewLogger(io.Discard, "json", "info", "n1")
	require.NoError(b, err)
	l := root.With("logger", "rpc")
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

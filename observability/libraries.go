package observability

import (
	"context"
	"fmt"
	"log"
	"log/slog"
	"strings"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"google.golang.org/grpc/grpclog"
)

// CaptureLibraries lets what has one logger for the whole process write to l: gRPC, OpenTelemetry, and all that uses the
// standard library's log. Call it once, before any of them is used.
func CaptureLibraries(l *slog.Logger) {
	slog.SetDefault(l.With("logger", "go"))
	log.SetFlags(0)
	grpclog.SetLoggerV2(&grpcLogger{l.With("logger", "grpc")})
	traces := l.With("logger", "otel")
	otel.SetLogger(logr.FromSlogHandler(&quieter{traces.Handler()}))
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) {
		traces.Warn("traces are not exported", "error", err)
	}))
}

// quieter lowers OpenTelemetry's information to debug: it tells of each span processor's start.
type quieter struct{ slog.Handler }

// Enabled implements slog.Handler.
func (q *quieter) Enabled(ctx context.Context, level slog.Level) bool {
	return q.Handler.Enabled(ctx, quieterLevel(level))
}

// Handle implements slog.Handler.
func (q *quieter) Handle(ctx context.Context, r slog.Record) error {
	r.Level = quieterLevel(r.Level)
	return q.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (q *quieter) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &quieter{q.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (q *quieter) WithGroup(name string) slog.Handler { return &quieter{q.Handler.WithGroup(name)} }

// quieterLevel keeps errors, as warnings: a trace that is lost is no failure of the node.
func quieterLevel(l slog.Level) slog.Level {
	if l >= slog.LevelWarn {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

// grpcLogger gives grpc-go's own lines a place. What gRPC calls information or a warning, such as a connection that is not
// made at the first try, is told by who makes the call; it is for debugging. Its errors are warnings.
type grpcLogger struct{ log *slog.Logger }

var _ grpclog.DepthLoggerV2 = (*grpcLogger)(nil)

func (g *grpcLogger) write(level slog.Level, args ...any) {
	if ctx := context.Background(); g.log.Enabled(ctx, level) {
		g.log.Log(ctx, level, strings.TrimSpace(fmt.Sprint(args...)))
	}
}

func (g *grpcLogger) writef(level slog.Level, format string, args ...any) {
	if ctx := context.Background(); g.log.Enabled(ctx, level) {
		g.log.Log(ctx, level, strings.TrimSpace(fmt.Sprintf(format, args...)))
	}
}

func (g *grpcLogger) Info(args ...any)                    { g.write(slog.LevelDebug, args...) }
func (g *grpcLogger) Infoln(args ...any)                  { g.write(slog.LevelDebug, args...) }
func (g *grpcLogger) Infof(format string, args ...any)    { g.writef(slog.LevelDebug, format, args...) }
func (g *grpcLogger) InfoDepth(_ int, args ...any)        { g.write(slog.LevelDebug, args...) }
func (g *grpcLogger) Warning(args ...any)                 { g.write(slog.LevelDebug, args...) }
func (g *grpcLogger) Warningln(args ...any)               { g.write(slog.LevelDebug, args...) }
func (g *grpcLogger) Warningf(format string, args ...any) { g.writef(slog.LevelDebug, format, args...) }
func (g *grpcLogger) WarningDepth(_ int, args ...any)     { g.write(slog.LevelDebug, args...) }
func (g *grpcLogger) Error(args ...any)                   { g.write(slog.LevelWarn, args...) }
func (g *grpcLogger) Errorln(args ...any)                 { g.write(slog.LevelWarn, args...) }
func (g *grpcLogger) Errorf(format string, args ...any)   { g.writef(slog.LevelWarn, format, args...) }
func (g *grpcLogger) ErrorDepth(_ int, args ...any)       { g.write(slog.LevelWarn, args...) }

// Fatal and the like are followed by gRPC's own end of the process.
func (g *grpcLogger) Fatal(args ...any)                 { g.write(slog.LevelError, args...) }
func (g *grpcLogger) Fatalln(args ...any)               { g.write(slog.LevelError, args...) }
func (g *grpcLogger) Fatalf(format string, args ...any) { g.writef(slog.LevelError, format, args...) }
func (g *grpcLogger) FatalDepth(_ int, args ...any)     { g.write(slog.LevelError, args...) }

// V implements grpclog.LoggerV2: none of the verbose lines.
func (g *grpcLogger) V(level int) bool { return level <= 0 }

package replica

import (
	"context"
	"errors"
	"io"
	"log"
	"log/slog"
	"net"
	"slices"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/cluster/transport"
)

// slogger gives a *slog.Logger to libraries that want an hclog.Logger. What they log as information is debug here:
// elections and the like are told by our own lines.
type slogger struct {
	hclog.Logger // answers what is not overridden; it writes nothing

	log  *slog.Logger
	args []any
}

var _ hclog.Logger = (*slogger)(nil)

func newHCLog(l *slog.Logger) hclog.Logger {
	return &slogger{Logger: hclog.NewNullLogger(), log: l}
}

func level(l hclog.Level) slog.Level {
	switch l {
	case hclog.Error:
		return slog.LevelWarn // the library calls an unreachable peer an error
	case hclog.Warn:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

// Log implements hclog.Logger.
func (s *slogger) Log(l hclog.Level, msg string, args ...any) {
	ctx := context.Background()
	at := level(l)
	if slices.ContainsFunc(args, isExpected) {
		at = slog.LevelDebug
	}
	if s.log.Enabled(ctx, at) {
		s.log.Log(ctx, at, msg, slices.Concat(s.args, args)...)
	}
}

// isExpected reports whether an error is no trouble: the other node is about to start its replica, or this one stops.
func isExpected(arg any) bool {
	err, ok := arg.(error)
	return ok && (errors.Is(err, transport.ErrNoReplica) || errors.Is(err, net.ErrClosed) || errors.Is(err, raft.ErrTransportShutdown))
}

func (s *slogger) Trace(msg string, args ...any) { s.Log(hclog.Trace, msg, args...) }
func (s *slogger) Debug(msg string, args ...any) { s.Log(hclog.Debug, msg, args...) }
func (s *slogger) Info(msg string, args ...any)  { s.Log(hclog.Info, msg, args...) }
func (s *slogger) Warn(msg string, args ...any)  { s.Log(hclog.Warn, msg, args...) }
func (s *slogger) Error(msg string, args ...any) { s.Log(hclog.Error, msg, args...) }

func (s *slogger) enabled(l hclog.Level) bool {
	return s.log.Enabled(context.Background(), level(l))
}
func (s *slogger) IsTrace() bool { return s.enabled(hclog.Trace) }
func (s *slogger) IsDebug() bool { return s.enabled(hclog.Debug) }
func (s *slogger) IsInfo() bool  { return s.enabled(hclog.Info) }
func (s *slogger) IsWarn() bool  { return s.enabled(hclog.Warn) }
func (s *slogger) IsError() bool { return s.enabled(hclog.Error) }

// With implements hclog.Logger.
func (s *slogger) With(args ...any) hclog.Logger {
	c := *s
	c.args = slices.Concat(s.args, args)
	return &c
}

// Named implements hclog.Logger; the name is this node's logger's.
func (s *slogger) Named(string) hclog.Logger      { return s }
func (s *slogger) ResetNamed(string) hclog.Logger { return s }

// StandardLogger implements hclog.Logger.
func (s *slogger) StandardLogger(*hclog.StandardLoggerOptions) *log.Logger {
	return slog.NewLogLogger(s.log.Handler(), slog.LevelDebug)
}

// StandardWriter implements hclog.Logger.
func (s *slogger) StandardWriter(o *hclog.StandardLoggerOptions) io.Writer {
	return s.StandardLogger(o).Writer()
}

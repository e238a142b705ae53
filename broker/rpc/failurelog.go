package rpc

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// failureLogEvery is how often failures of one method and code get a line, above the level debug.
const failureLogEvery = time.Second

// failureLog logs failed calls: what the node is to blame for as errors, trouble in the cluster as warnings, the
// clients' own mistakes for debugging only. Of failures that come in masses it logs one a second, with their number.
type failureLog struct {
	log *slog.Logger

	mu   sync.Mutex
	last map[failureKey]*failureCount // guarded by mu
}

type failureKey struct {
	method string
	code   codes.Code
}

type failureCount struct {
	at         time.Time
	suppressed int
}

func newFailureLog(log *slog.Logger) *failureLog {
	return &failureLog{log: log, last: make(map[failureKey]*failureCount)}
}

func (f *failureLog) note(ctx context.Context, method string, err error) {
	st, _ := status.FromError(ToStatus(err))
	level := levelOf(st.Code())
	if broker.AsError(err).Reason == streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER {
		level = slog.LevelDebug // another node asks the next one
	}
	if !f.log.Enabled(ctx, level) {
		return
	}
	suppressed, ok := f.turn(failureKey{method, st.Code()}, level)
	if !ok {
		return
	}
	attrs := []any{"method", method, "code", st.Code().String(), "error", st.Message()}
	if e, ok := errors.AsType[*broker.Error](err); ok {
		attrs = append(attrs, "reason", reasonName(e.Reason))
		if e.Cause != nil {
			attrs = append(attrs, "cause", e.Cause.Error())
		}
	}
	if suppressed > 0 {
		attrs = append(attrs, "like_it", suppressed)
	}
	f.log.Log(ctx, level, "call failed", attrs...)
}

// turn reports whether a failure gets a line now, and how many like it got none.
func (f *failureLog) turn(key failureKey, level slog.Level) (suppressed int, ok bool) {
	if level <= slog.LevelDebug {
		return 0, true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.last[key]
	if c == nil {
		c = &failureCount{}
		f.last[key] = c
	}
	now := time.Now()
	if now.Sub(c.at) < failureLogEvery {
		c.suppressed++
		return 0, false
	}
	suppressed = c.suppressed
	*c = failureCount{at: now}
	return suppressed, true
}

func levelOf(code codes.Code) slog.Level {
	switch code {
	case codes.Internal, codes.DataLoss, codes.Unknown:
		return slog.LevelError
	case codes.Unavailable, codes.ResourceExhausted:
		return slog.LevelWarn
	default:
		return slog.LevelDebug
	}
}

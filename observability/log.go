package observability

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"go.opentelemetry.io/otel/trace"
)

// defaultName is the logger of lines that name none.
const defaultName = "node"

// Logger is a logger with what tells of the lines that it dropped.
type Logger struct {
	*slog.Logger

	handler *handler
}

// NewLogger returns a logger in a format, "text" or "json", that writes lines of a level and above, each with the node's id
// and the name of its logger, and inside a request with its trace_id and span_id. Lines that repeat are sampled, and what
// is secret in the environment is never written.
func NewLogger(w io.Writer, format, level, nodeID string) (*Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: must be debug, info, warn or error", level)
	}
	w = &redactor{w: w, secrets: secretsOf(os.Environ())}
	opts := &slog.HandlerOptions{Level: least, ReplaceAttr: readable}
	var h slog.Handler
	switch format {
	case "text":
		h = slog.NewTextHandler(w, opts)
	case "json":
		h = slog.NewJSONHandler(w, opts)
	default:
		return nil, fmt.Errorf("log format %q: must be text or json", format)
	}
	sampling := newHandler(h, nodeID)
	return &Logger{slog.New(sampling), sampling}, nil
}

// Run tells now and then how many lines were dropped where no line like them came that told it, and of all when ctx ends.
// Then it returns nil. Without it the log works, and the last of what was dropped is not told.
func (l *Logger) Run(ctx context.Context) error {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			_ = l.handler.tell(ctx, l.handler.sample.due(true)) // a log that can't be written has nowhere to say so
			return nil
		case <-tick.C:
			_ = l.handler.tell(ctx, l.handler.sample.due(false))
		}
	}
}

// readable writes durations with their unit in JSON too.
func readable(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() == slog.KindDuration {
		a.Value = slog.StringValue(a.Value.Duration().String())
	}
	return a
}

// reserved are the fields that a line has from here. A library's field of the same name gets another one.
var reserved = map[string]bool{
	slog.TimeKey: true, slog.LevelKey: true, slog.MessageKey: true, slog.SourceKey: true,
	"logger": true, "node_id": true, "trace_id": true, "span_id": true, "dropped": true,
}

func renamed(a slog.Attr) slog.Attr {
	if reserved[a.Key] {
		a.Key = "its_" + a.Key
	}
	return a
}

// withoutReserved returns the record with other names for reserved fields.
func withoutReserved(r slog.Record) slog.Record {
	clash := false
	r.Attrs(func(a slog.Attr) bool {
		clash = reserved[a.Key]
		return !clash
	})
	if !clash {
		return r
	}
	out := slog.NewRecord(r.Time, r.Level, r.Message, r.PC)
	r.Attrs(func(a slog.Attr) bool {
		out.AddAttrs(renamed(a))
		return true
	})
	return out
}

// handler writes the same fields first in every line, and the trace context at its end.
type handler struct {
	plain  slog.Handler // without any of the fields
	full   slog.Handler // with all of them
	nodeID string
	name   string
	bound  []slog.Attr // beside name and node
	about  uint64      // hash of name and bound
	sample *sampler
}

var _ slog.Handler = (*handler)(nil)

func newHandler(plain slog.Handler, nodeID string) *handler {
	h := &handler{plain: plain, nodeID: nodeID, name: defaultName, sample: newSampler()}
	h.bind()
	return h
}

// bind makes what follows from the fields.
func (h *handler) bind() {
	h.full = h.plain.WithAttrs(append([]slog.Attr{slog.String("logger", h.name), slog.String("node_id", h.nodeID)}, h.bound...))
	h.about = hashAttrs(hashString(0, h.name), h.bound)
}

// Enabled implements slog.Handler.
func (h *handler) Enabled(ctx context.Context, level slog.Level) bool {
	return h.plain.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	dropped, ok, forgotten := h.sample.take(h, &r)
	failed := h.tell(ctx, forgotten)
	if !ok {
		return failed
	}
	r = withoutReserved(r)
	sc := trace.SpanContextFromContext(ctx)
	if dropped > 0 || sc.IsValid() {
		r = r.Clone()
	}
	if dropped > 0 {
		r.AddAttrs(slog.Uint64("dropped", dropped))
	}
	if sc.IsValid() {
		r.AddAttrs(slog.String("trace_id", sc.TraceID().String()), slog.String("span_id", sc.SpanID().String()))
	}
	return errors.Join(failed, h.full.Handle(ctx, r))
}

// tell writes how many lines were dropped.
func (h *handler) tell(ctx context.Context, dropped []untold) error {
	var failed error
	for _, u := range dropped {
		failed = errors.Join(failed, u.by.full.Handle(ctx, u.line(h.sample.now())))
	}
	return failed
}

// root returns the handler of lines that are of no logger in particular.
func (h *handler) root() *handler {
	c := *h
	c.name, c.bound = defaultName, nil
	c.bind()
	return &c
}

// WithAttrs implements slog.Handler. A logger's name replaces the one before.
func (h *handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	c := *h
	c.bound = slices.Clone(h.bound)
	for _, a := range attrs {
		if a.Key == "logger" {
			c.name = a.Value.String()
			continue
		}
		c.bound = append(c.bound, renamed(a))
	}
	c.bind()
	return &c
}

// WithGroup implements slog.Handler. Lines stay flat, so that trace_id and the like are found where they always are.
func (h *handler) WithGroup(string) slog.Handler { return h }

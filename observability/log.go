package observability

import (
	"fmt"
	"io"
	"log/slog"
)

// NewLogger returns a logger that writes to w in a format (text or json) from a
// level (debug, info, warn or error) on. Every line has time, level, msg and
// node_id; who logs adds "logger" with the name of its package.
func NewLogger(w io.Writer, format, level, nodeID string) (*slog.Logger, error) {
	var least slog.Level
	if err := least.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("log level %q: must be debug, info, warn or error", level)
	}
	opts := &slog.HandlerOptions{Level: least}
	var h slog.Handler
	switch format {
	case "text":
		h = slog.NewTextHandler(w, opts)
	case "json":
		h = slog.NewJSONHandler(w, opts)
	default:
		return nil, fmt.Errorf("log format %q: must be text or json", format)
	}
	return slog.New(h).With("node_id", nodeID), nil
}

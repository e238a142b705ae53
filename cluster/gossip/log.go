package gossip

import (
	"bytes"
	"context"
	"log/slog"
	"net"
)

// closedConn is what memberlist's lines say once its sockets are closed; it has no error to look at.
var closedConn = []byte(net.ErrClosed.Error())

// logWriter turns memberlist's lines ("[WARN] memberlist: text") into slog records.
type logWriter struct{ logger *slog.Logger }

// Write logs one line; it never fails.
func (w logWriter) Write(line []byte) (int, error) {
	n := len(line)
	level := slog.LevelDebug
	line = bytes.TrimSpace(line)
	if len(line) > 0 && line[0] == '[' {
		if end := bytes.IndexByte(line, ']'); end > 0 {
			level = levelOf(string(line[1:end]))
			line = line[end+1:]
		}
	}
	line = bytes.TrimPrefix(bytes.TrimSpace(line), []byte("memberlist: "))
	if bytes.Contains(line, closedConn) {
		level = slog.LevelDebug // this node stops
	}
	w.logger.Log(context.Background(), level, string(line))
	return n, nil
}

// levelOf maps memberlist's levels down: what it calls an error (a peer that
// does not answer) is everyday life of a cluster, and what it warns of (a late
// ping for a node that was made anew) matters to memberlist alone.
func levelOf(s string) slog.Level {
	if s == "ERR" || s == "ERROR" {
		return slog.LevelWarn
	}
	return slog.LevelDebug
}

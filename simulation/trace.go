package simulation

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// Trace writes down what happens, one event a line: virtual time since the start, who, and what. Safe for concurrent use.
type Trace struct {
	mu    sync.Mutex
	w     *bufio.Writer // guarded by mu
	start time.Time     // guarded by mu
	end   time.Duration // guarded by mu; set once the run has ended, and with it the bubble's clock
	// leads is told of every leadership of a shard that a node's log speaks of.
	leads func(group, node string, term uint64)
	// heard are texts that somebody waits for in a node's log.
	heard []*heard // guarded by mu
}

type heard struct {
	node, text string
	done       chan struct{}
}

// NewTrace returns a trace that is written to w. Flush must be called at the end.
func NewTrace(w io.Writer) *Trace { return &Trace{w: bufio.NewWriter(w)} }

// begin sets the time that events are told from, in the bubble.
func (t *Trace) begin(leads func(group, node string, term uint64)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.start, t.leads = time.Now(), leads
}

// finish stops the clock.
func (t *Trace) finish() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = max(time.Since(t.start), 1)
}

// Event writes an event.
func (t *Trace) Event(who, format string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.eventLocked(who, fmt.Sprintf(format, args...))
}

func (t *Trace) eventLocked(who, text string) {
	since := t.end
	if since == 0 && !t.start.IsZero() {
		since = time.Since(t.start)
	}
	// What can't be written is missed by nobody but who reads it.
	_, _ = fmt.Fprintf(t.w, "%10.3fs %-8s %s\n", since.Seconds(), who, text)
}

// Hear returns a channel that is closed when a node, or any where it is "", logs a line with the text in it, from now on.
func (t *Trace) Hear(node, text string) <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := &heard{node: node, text: text, done: make(chan struct{})}
	t.heard = append(t.heard, h)
	return h.done
}

// hearLocked tells those who wait for a line.
func (t *Trace) hearLocked(node, line string) {
	t.heard = slices.DeleteFunc(t.heard, func(h *heard) bool {
		if h.node != "" && h.node != node || !strings.Contains(line, h.text) {
			return false
		}
		close(h.done)
		return true
	})
}

// Flush writes what waits.
func (t *Trace) Flush() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.w.Flush()
}

// logs returns a writer for a node's log.
func (t *Trace) logs(node string) io.Writer { return nodeLog{t, node} }

type nodeLog struct {
	t    *Trace
	node string
}

var leadsLine = regexp.MustCompile(`msg="leads the shard".* shard=(\d+) term=(\d+)`)

// Write implements io.Writer.
func (l nodeLog) Write(b []byte) (int, error) {
	l.t.mu.Lock()
	defer l.t.mu.Unlock()
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSuffix(line, "\n")
		if at := strings.Index(line, " level="); at > 0 {
			line = line[at+len(" level="):]
		}
		l.t.eventLocked(l.node, strings.Replace(line, " node_id="+l.node, "", 1))
		l.t.hearLocked(l.node, line)
		if m := leadsLine.FindStringSubmatch(line); m != nil && l.t.leads != nil {
			var term uint64
			_, _ = fmt.Sscan(m[2], &term)
			l.t.leads("shard-"+m[1], l.node, term)
		}
	}
	return len(b), nil
}

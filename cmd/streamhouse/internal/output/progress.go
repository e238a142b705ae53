package output

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// IsTerminal says whether v is a file that people look at.
func IsTerminal(v any) bool {
	f, ok := v.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	return err == nil
}

const (
	redrawEvery = 100 * time.Millisecond
	barWidth    = 30
)

// Progress draws one line again and again on a terminal. The zero value draws nothing.
type Progress struct {
	w     io.Writer
	total int64
	began time.Time
	drawn time.Time
}

// NewProgress draws on w; total is 0 where it is not known.
func NewProgress(w io.Writer, total int64, now time.Time) *Progress {
	return &Progress{w: w, total: total, began: now}
}

// Draw shows how much is done, at most ten times a second.
func (p *Progress) Draw(now time.Time, doneBytes, records int64) {
	if p == nil || p.w == nil || now.Sub(p.drawn) < redrawEvery {
		return
	}
	p.drawn = now
	rate := Bytes(int64(float64(doneBytes)/max(now.Sub(p.began).Seconds(), 1e-3))) + "/s"
	line := fmt.Sprintf("%d records  %s  %s", records, Bytes(doneBytes), rate)
	if p.total > 0 {
		part := min(float64(doneBytes)/float64(p.total), 1)
		full := int(part * barWidth)
		line = fmt.Sprintf("[%s%s] %3.0f%%  %s", strings.Repeat("=", full), strings.Repeat(" ", barWidth-full), part*100, line)
	}
	_, _ = fmt.Fprintf(p.w, "\r\x1b[K%s", line) // it is decoration
}

// Clear takes the line away.
func (p *Progress) Clear() {
	if p == nil || p.w == nil || p.drawn.IsZero() {
		return
	}
	_, _ = fmt.Fprint(p.w, "\r\x1b[K")
}

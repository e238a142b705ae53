package benchmarks

import (
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"testing"
	"text/tabwriter"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// bound is what a number is held against.
type bound struct {
	atLeast bool
	value   float64
}

func atLeast(v float64) *bound { return &bound{true, v} }
func atMost(v float64) *bound  { return &bound{false, v} }

func (b *bound) String() string {
	switch {
	case b == nil:
		return ""
	case b.atLeast:
		return fmt.Sprintf("at least %g", b.value)
	default:
		return fmt.Sprintf("at most %g", b.value)
	}
}

// What a bound says of a number.
const (
	kept   = "ok"
	missed = "MISSED"
)

// verdict of a number; one that is none misses.
func (b *bound) verdict(v float64) string {
	switch {
	case b == nil:
		return ""
	case b.atLeast && v >= b.value, !b.atLeast && v <= b.value:
		return kept
	default:
		return missed
	}
}

type line struct {
	what  string
	value float64
	unit  string
	bound *bound
}

// report collects the lines of the table that is printed at the end.
var report struct {
	sync.Mutex
	lines []line // guarded by Mutex
}

// note puts a number into the table. One that misses its bound fails the benchmark, unless with -short, whose numbers mean
// nothing.
func note(b *testing.B, what string, value float64, unit string, bd *bound) {
	b.Helper()
	if bd.verdict(value) == missed && !testing.Short() {
		b.Errorf("%s: %.4g %s, must be %s", what, value, unit, bd)
	}
	report.Lock()
	defer report.Unlock()
	report.lines = append(report.lines, line{what, value, unit, bd})
}

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		bound *bound
		value float64
		want  string
	}{
		{nil, 1, ""},
		{atLeast(2), 1.9, missed},
		{atLeast(2), 2, kept},
		{atLeast(2), 3, kept},
		{atLeast(2), math.NaN(), missed},
		{atMost(2), 1.9, kept},
		{atMost(2), 2, kept},
		{atMost(2), 3, missed},
		{atMost(2), math.NaN(), missed},
	} {
		if got := c.bound.verdict(c.value); got != c.want {
			t.Errorf("%g, %s: %q", c.value, c.bound, got)
		}
	}
}

func TestMain(m *testing.M) {
	harness.Main(m)
	report.Lock()
	defer report.Unlock()
	if len(report.lines) == 0 {
		return
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(w, "\nwhat\tmedian\tunit\tbound\t")
	for _, l := range report.lines {
		verdict := l.bound.verdict(l.value)
		if testing.Short() && verdict != "" {
			verdict = "(smoke)"
		}
		_, _ = fmt.Fprintf(w, "%s\t%.4g\t%s\t%s\t%s\n", l.what, l.value, l.unit, l.bound, verdict)
	}
	_ = w.Flush()
}

// median of at least one number.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// percentile p, 0 to 100.
func percentile(v []float64, p float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(len(s)-1, int(float64(len(s))*p/100))]
}

// pick is the first value, or the second with -short.
func pick[T any](full, short T) T {
	if testing.Short() {
		return short
	}
	return full
}

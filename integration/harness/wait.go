package harness

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// pollInterval is the time between two looks at a condition.
const pollInterval = 50 * time.Millisecond

// Poll calls f until it returns nil or ctx ends; then it returns the last error of an f that had time to answer.
func Poll(ctx context.Context, f func(ctx context.Context) error) error {
	ticker := time.NewTicker(pollInterval)
	defer ticker.Stop()
	var last error
	for {
		err := f(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-ticker.C:
		}
	}
}

// Eventually polls f and ends the test with its last error, and those that it had most often, when it does not succeed within
// the time. It returns how long it took.
func Eventually(tb testing.TB, within time.Duration, what string, f func(ctx context.Context) error) time.Duration {
	tb.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	times := make(map[string]int)
	longest := time.Duration(0)
	err := Poll(ctx, func(ctx context.Context) error {
		began := time.Now()
		err := f(ctx)
		longest = max(longest, time.Since(began))
		if err != nil {
			times[err.Error()]++
		}
		return err
	})
	if err != nil {
		tb.Fatalf("%s: not within %v: %v\nthe longest look took %v, most often: %s", what, within, err, longest, mostOften(times))
	}
	return time.Since(start)
}

// mostOften returns the errors that came most often, for people.
func mostOften(times map[string]int) string {
	errs := slices.SortedFunc(maps.Keys(times), func(a, b string) int { return cmp.Compare(times[b], times[a]) })
	var told strings.Builder
	for _, err := range errs[:min(len(errs), 5)] {
		fmt.Fprintf(&told, "\n%6d× %s", times[err], err)
	}
	return told.String()
}

// Always polls f for the time given and ends the test at its first error.
func Always(tb testing.TB, during time.Duration, what string, f func(ctx context.Context) error) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), during)
	defer cancel()
	var broken error
	_ = Poll(ctx, func(ctx context.Context) error {
		// A call is not cut short by the end of the watch.
		broken = f(context.WithoutCancel(ctx))
		if broken == nil {
			return errHolds
		}
		return nil
	})
	if broken != nil {
		tb.Fatalf("%s: did not hold for %v: %v", what, during, broken)
	}
}

var errHolds = errors.New("the condition holds")

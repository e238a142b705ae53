package harness

import (
	"context"
	"errors"
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

// Eventually polls f and ends the test with its last error when it does not
// succeed within the time. It returns how long it took.
func Eventually(tb testing.TB, within time.Duration, what string, f func(ctx context.Context) error) time.Duration {
	tb.Helper()
	start := time.Now()
	ctx, cancel := context.WithTimeout(tb.Context(), within)
	defer cancel()
	if err := Poll(ctx, f); err != nil {
		tb.Fatalf("%s: not within %v: %v", what, within, err)
	}
	return time.Since(start)
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

// Package pause is a pause that ends with its context.
package pause

import (
	"context"
	"time"
)

// For waits for d, and returns ctx's error where that ends first.
func For(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

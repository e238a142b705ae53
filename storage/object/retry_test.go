package object

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
)

// down is a store that does not answer.
type down struct{ Bucket }

func (down) Head(context.Context, string) (Attributes, error) { return Attributes{}, ErrUnavailable }

// A call whose deadline ends between two tries was given up, and is not counted as tried again; one that its caller left was
// not.
func TestCallsThatEndBetweenTries(t *testing.T) {
	for name, c := range map[string]struct {
		start         func(context.Context) (context.Context, context.CancelFunc)
		retry, failed int
	}{
		"deadline": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			return context.WithTimeout(ctx, time.Minute)
		}, 0, 1},
		"cancel": {func(ctx context.Context) (context.Context, context.CancelFunc) {
			ctx, cancel := context.WithCancel(ctx)
			time.AfterFunc(time.Minute, cancel)
			return ctx, cancel
		}, 0, 0},
		"none": {context.WithCancel, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := NewMetrics(nil)
				ctx, cancel := c.start(t.Context())
				defer cancel()
				_, err := WithRetry(down{}, RetryConfig{Tries: 2, MinBackoff: time.Hour, MaxBackoff: time.Hour, Metrics: m}).Head(ctx, "o")
				require.ErrorIs(t, err, ErrUnavailable)
				require.InDelta(t, c.retry, testutil.ToFloat64(m.errors.WithLabelValues(opHead, errorRetry)), 0)
				require.InDelta(t, c.failed, testutil.ToFloat64(m.errors.WithLabelValues(opHead, errorFailed)), 0)
			})
		})
	}
}

// stuck is a store whose answer never comes.
type stuck struct{ Bucket }

func (stuck) Head(ctx context.Context, _ string) (Attributes, error) {
	<-ctx.Done()
	return Attributes{}, ctx.Err()
}

// An attempt that its caller breaks off is an attempt like others, and no error.
func TestAttemptThatIsBrokenOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := NewMetrics(nil)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		_, err := WithRetry(WithMetrics(stuck{}, m), RetryConfig{Metrics: m}).Head(ctx, "o")
		require.ErrorIs(t, err, context.Canceled)
		require.InDelta(t, 1, testutil.ToFloat64(m.requests.WithLabelValues(opHead)), 0)
		latency := &dto.Metric{}
		require.NoError(t, m.latency.WithLabelValues(opHead).(prometheus.Metric).Write(latency))
		require.EqualValues(t, 1, latency.GetHistogram().GetSampleCount())
		require.InDelta(t, 1, latency.GetHistogram().GetSampleSum(), 0.001)
		for _, kind := range []string{errorRetry, errorFailed} {
			require.Zero(t, testutil.ToFloat64(m.errors.WithLabelValues(opHead, kind)), kind)
		}
	})
}

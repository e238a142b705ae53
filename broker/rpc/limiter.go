package rpc

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// limiter bounds the bytes of requests that are under way. It refuses and never waits. Safe for concurrent use.
type limiter struct {
	maxBytes int64
	bytes    atomic.Int64
}

func newLimiter(maxBytes int64) *limiter { return &limiter{maxBytes: maxBytes} }

// export registers how much is under way and the bound; callers says whose requests these are. reg may be nil.
func (l *limiter) export(reg prometheus.Registerer, callers string) {
	f := promauto.With(reg)
	labels := prometheus.Labels{"callers": callers}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streamhouse_inflight_request_bytes", Help: "Bytes of the requests that are under way.", ConstLabels: labels,
	}, func() float64 { return float64(l.bytes.Load()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streamhouse_inflight_request_limit_bytes", Help: "Bound of the bytes of requests under way; beyond it they are refused.", ConstLabels: labels,
	}, func() float64 { return float64(l.maxBytes) })
}

// acquire takes n bytes, which release gives back; it may be called once. A request larger than the bound passes when it
// is alone.
func (l *limiter) acquire(n int) (release func(), err error) {
	used := l.bytes.Add(int64(n))
	if used > l.maxBytes && used != int64(n) {
		l.bytes.Add(-int64(n))
		return nil, &broker.Error{
			Reason:  streamhousev1.ErrorReason_ERROR_REASON_TOO_MANY_INFLIGHT_BYTES,
			Message: "this node has as many bytes of requests under way as --max-inflight-bytes allows; nothing was written",
		}
	}
	return func() { l.bytes.Add(-int64(n)) }, nil
}

package rpc

import (
	"sync/atomic"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// limiter bounds the bytes of requests that are under way. It refuses and never waits. Safe for concurrent use.
type limiter struct {
	maxBytes int64
	bytes    atomic.Int64
}

func newLimiter(maxBytes int64) *limiter { return &limiter{maxBytes: maxBytes} }

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

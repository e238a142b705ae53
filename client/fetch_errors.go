package client

import (
	"context"
	"errors"
	"strconv"
	"time"
)

// beyondGrace is for how long nodes must say, without a break, that an offset is above the high watermark before that is
// believed: a leader that was cut off or asleep may not know of the newest records, and does not stay one for longer than
// its lease, which is 500 ms unless nodes are told otherwise.
const beyondGrace = time.Second

// handled does what the error of a read asks for. It returns false where the same is to be read again after a pause,
// which is right for every error that may pass.
func (r *Consumer) handled(ctx context.Context, p *partition, rd reading, err error) bool {
	if errors.Is(err, ErrOffsetOutOfRange) {
		return r.outOfRange(p, rd, err)
	}
	r.mu.Lock()
	p.beyond = time.Time{}
	r.mu.Unlock()
	switch {
	case errors.Is(err, ErrTopicNotFound), errors.Is(err, ErrPartitionNotFound):
		return r.notFound(ctx, p, rd, err)
	case errors.Is(err, ErrNoOffset), errors.Is(err, ErrInvalidField):
		r.mu.Lock()
		defer r.mu.Unlock()
		if rd.turn == p.turns {
			r.failLocked(p, err)
		}
		return true
	case final(err): // of damaged data another replica may have it whole, and be asked next
		r.mu.Lock()
		defer r.mu.Unlock()
		if rd.turn == p.turns {
			r.tellLocked(p, err)
		}
		return false
	default:
		return false
	}
}

// final reports whether a node refused a call for a reason that does not pass by itself.
func final(err error) bool { return reasonOf(err) != "" && !retryable(err, idempotent) }

// notFound looks whether the topic is another one by now, which is then begun with, and else tells that it is gone. It
// may come back.
func (r *Consumer) notFound(ctx context.Context, p *partition, rd reading, err error) bool {
	t, lookErr := r.c.refresh(ctx, p.Topic)
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case rd.turn != p.turns:
		return true
	case lookErr == nil && int(p.Partition) < len(t.ids):
		// An id that is older is of a node that has not heard of the new one yet.
		return p.id != 0 && p.id < t.ids[p.Partition] && r.restartLocked(p) //nolint:contextcheck // the new fetcher outlives this one
	case lookErr == nil || errors.Is(lookErr, ErrTopicNotFound):
		r.tellLocked(p, err)
		return false
	default:
		return false
	}
}

// outOfRange goes on where Reset says.
func (r *Consumer) outOfRange(p *partition, rd reading, err error) bool {
	e, _ := errors.AsType[*Error](err)
	start, startErr := strconv.ParseInt(e.Metadata["log_start_offset"], 10, 64)
	end, endErr := strconv.ParseInt(e.Metadata["high_watermark"], 10, 64)
	if startErr != nil || endErr != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if rd.turn != p.turns {
		return true
	}
	if p.beyond.IsZero() {
		p.beyond = time.Now()
	}
	if rd.offset > end && time.Since(p.beyond) < beyondGrace {
		return false
	}
	to := start
	switch r.cfg.Reset {
	case ResetNone:
		r.failLocked(p, err)
		return true
	case ResetLatest:
		to = end
	case ResetEarliest:
	}
	r.c.cfg.Logger.Warn("offset is not in the log, reading on elsewhere", "partition", p.String(), "offset", rd.offset,
		"log_start_offset", start, "high_watermark", end, "reset", to)
	r.seekLocked(p, to)
	return true
}

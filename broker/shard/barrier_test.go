package shard

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// barriers are the outcomes of a replica's barriers, the last one for ever, and in the term of their number.
type barriers struct {
	outcomes []error
	asked    int
}

func (b *barriers) CurrentTerm() uint64 { return uint64(b.asked + 1) }

func (b *barriers) Barrier(time.Duration) raft.Future {
	err := b.outcomes[min(b.asked, len(b.outcomes)-1)]
	b.asked++
	return outcome{err}
}

type outcome struct{ err error }

func (o outcome) Error() error { return o.err }

// A leader whose barrier is refused, since its leadership is handed over, serves where that fails: it is the leader still.
func TestHandOverThatFailsLeavesALeader(t *testing.T) {
	busy := raft.ErrLeadershipTransferInProgress
	synctest.Test(t, func(t *testing.T) {
		b := &barriers{outcomes: []error{busy, busy, nil}}
		term, err := passBarrier(t.Context(), b, func() bool { return true })
		require.NoError(t, err)
		require.EqualValues(t, 3, term)

		b = &barriers{outcomes: []error{busy}}
		_, err = passBarrier(t.Context(), b, func() bool { return b.asked < 2 })
		require.ErrorIs(t, err, busy, "it leads no more")
		require.Equal(t, 2, b.asked)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = passBarrier(ctx, b, func() bool { return true })
		require.ErrorIs(t, err, busy)
	})
}

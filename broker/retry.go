package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/peer"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

const (
	minRetryDelay = 10 * time.Millisecond
	maxRetryDelay = 100 * time.Millisecond
	// leaderTick is how often a call that waits looks whether this node's replica knows a new leader.
	leaderTick = 5 * time.Millisecond
)

// verdict is what follows from a failed attempt.
type verdict int

const (
	// verdictFail: another attempt would give the same; nothing was written.
	verdictFail verdict = iota
	// verdictRetry: surely not written, or safe to write twice.
	verdictRetry
	// verdictUnknown: may have been written, and writing twice is not safe.
	verdictUnknown
)

// decide is the one function that says whether a failed attempt may be made again. repeatable says that a second
// attempt does no harm: a read, or a write that carries a producer id.
func decide(reason Reason, repeatable bool) verdict {
	switch reason {
	case reasonNoLeader, reasonNotLeader, reasonReplicaNotReady, reasonShuttingDown, reasonShardNotFound:
		return verdictRetry
	case reasonDeadline, reasonCanceled:
		// The attempt's time ended before anything was handed over. The caller's own end is seen by its context.
		return verdictRetry
	default:
	}
	if definite(reason) {
		return verdictFail
	}
	if repeatable {
		return verdictRetry
	}
	return verdictUnknown
}

// definite reports whether a reason says for certain that nothing was written, by who had to decide it.
func definite(reason Reason) bool {
	switch reason {
	case reasonOutcomeUnknown, reasonInternal, reasonNone:
		return false
	default:
		return true
	}
}

// target is where an attempt goes: this node's replica or another node.
type target struct {
	nodeID string
	local  LocalShard               // set when nodeID is this node
	client nodev1.NodeServiceClient // set otherwise
	// unclear says that an earlier attempt of this call may have written.
	unclear bool
}

// leaderCall is what onLeader needs to know of a call.
type leaderCall struct {
	shard uint32
	// repeatable says that a second attempt does no harm.
	repeatable bool
	// read says that the call writes nothing, so that nothing can be unclear.
	read bool
	// unclear says that an attempt before this call may have written.
	unclear bool
	// attemptTimeout bounds one attempt; 0 leaves it to the caller's deadline.
	attemptTimeout time.Duration
}

// onLeader calls attempt with the shard's leader until it succeeds, fails for good, or ctx ends. The error is an *Error,
// and OUTCOME_UNKNOWN wherever something may have been written that decide did not let happen twice.
func (b *Broker) onLeader(ctx context.Context, call leaderCall, attempt func(context.Context, target) error) error {
	unclear := call.unclear // an earlier attempt may have written
	hint := ""
	delay := minRetryDelay
	var last *Error
	for {
		known := b.localLeader(call.shard)
		err := b.attemptOnLeader(ctx, call, hint, func(ctx context.Context, t target) error {
			t.unclear = unclear
			return attempt(ctx, t)
		})
		if err == nil {
			return nil
		}
		last = AsError(err)
		hint = b.leaders.learn(call.shard, last)
		switch decide(last.Reason, call.repeatable) {
		case verdictUnknown:
			return outcomeUnknown(last)
		case verdictFail:
			if unclear {
				return outcomeUnknown(last)
			}
			return last
		case verdictRetry:
			unclear = unclear || !call.read && !definite(last.Reason)
		}
		if hint != "" && delay == minRetryDelay {
			delay *= 2 // the first hint is followed at once
			continue
		}
		if b.awaitLeader(ctx, call.shard, known, delay/2+rand.N(delay)) != nil {
			return gaveUp(ctx, call.shard, unclear, last)
		}
		delay = min(2*delay, maxRetryDelay)
	}
}

func (b *Broker) attemptOnLeader(ctx context.Context, call leaderCall, hint string, attempt func(context.Context, target) error) error {
	t, err := b.findLeader(ctx, call.shard, hint)
	if err != nil {
		return err
	}
	if call.attemptTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, call.attemptTimeout)
		defer cancel()
	}
	return attempt(ctx, t)
}

// localLeader returns the replica that leads a shard as this node's own replica knows it, "" where there is none.
func (b *Broker) localLeader(shard uint32) string {
	local, ok := b.cfg.Shards.Local(shard)
	if !ok {
		return ""
	}
	id, _ := local.Leader()
	return id
}

// awaitLeader waits for d, or until this node's replica of the shard knows another leader than it did, so that a call goes
// on as soon as leadership was handed over. It returns ctx's error.
func (b *Broker) awaitLeader(ctx context.Context, shard uint32, known string, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	tick := time.NewTicker(leaderTick)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if id := b.localLeader(shard); id != "" && id != known {
				return nil
			}
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gaveUp says what is known when no time is left.
func gaveUp(ctx context.Context, shard uint32, unclear bool, last *Error) error {
	if unclear {
		return outcomeUnknown(last)
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return &Error{Reason: reasonCanceled, Message: "the caller has canceled the call", Cause: last}
	}
	switch last.Reason {
	case reasonNotLeader, reasonReplicaNotReady, reasonDeadline, reasonCanceled, reasonShardNotFound:
		e := noLeader(shard)
		e.Cause = last
		return e
	default:
		return last
	}
}

// ask calls another node and gives its error a reason. A call that never got a connection was surely not sent.
func ask[Req, Res any](ctx context.Context, b *Broker, req Req,
	call func(context.Context, Req, ...grpc.CallOption) (Res, error),
) (Res, error) {
	var p peer.Peer
	res, err := call(ctx, req, grpc.Peer(&p))
	if err != nil {
		return res, b.cfg.PeerError(err, p.Addr != nil)
	}
	return res, nil
}

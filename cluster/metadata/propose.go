package metadata

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// attemptTimeout bounds one try at one leader.
	attemptTimeout = 5 * time.Second
	// enqueueTimeout bounds the wait for Raft to take a command.
	enqueueTimeout = 2 * time.Second
	// maxCommandBytes bounds one command.
	maxCommandBytes = 4 << 20

	minRetryDelay = 20 * time.Millisecond
	maxRetryDelay = 500 * time.Millisecond
)

// Propose writes a command through the leader, wherever it is, and returns its
// result once it is in this node's View. It retries until ctx ends: commands are
// idempotent. A rejected command gives a *fsm.Rejection, but one that came before
// the cluster was begun is tried again too. When ctx ends, the error
// is also ErrNoLeader where surely nothing was written, else ErrOutcomeUnknown.
func (g *Group) Propose(ctx context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	data, err := proto.Marshal(cmd)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadCommand, err)
	}
	var index uint64
	var res metav1.Result
	err = g.retry(ctx, func(ctx context.Context) error {
		at, raw, err := g.proposeOnce(ctx, data)
		if err != nil {
			return err
		}
		index = at
		return decodeResult(raw, &res)
	})
	if err != nil {
		return nil, err
	}
	if rej := res.GetRejection(); rej != nil {
		return nil, &fsm.Rejection{
			Reason:  streamhousev1.ErrorReason(rej.GetReason()),
			Message: rej.GetMessage(),
			Field:   rej.GetField(),
		}
	}
	if err := g.WaitApplied(ctx, index); err != nil {
		return nil, fmt.Errorf("command is written but not applied here: %w", errors.Join(ErrOutcomeUnknown, err))
	}
	return &res, nil
}

// decodeResult decodes the result of a command. One that came before the cluster was begun is for a later try: the error
// is ErrNoLeader.
func decodeResult(raw []byte, res *metav1.Result) error {
	if err := proto.Unmarshal(raw, res); err != nil {
		return fmt.Errorf("%w: %w", errBadResult, err)
	}
	if rej := res.GetRejection(); streamhousev1.ErrorReason(rej.GetReason()) == streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER {
		return fmt.Errorf("%w: %s", ErrNoLeader, rej.GetMessage())
	}
	return nil
}

// retry calls try until it succeeds, fails for good, or ctx ends.
func (g *Group) retry(ctx context.Context, try func(context.Context) error) error {
	sent := false
	delay := minRetryDelay
	for {
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		err := try(attempt)
		cancel()
		if err == nil {
			return nil
		}
		switch classify(err) {
		case permanent:
			return err
		case unknown:
			sent = true
		case notWritten:
		}
		timer := time.NewTimer(delay/2 + rand.N(delay))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return gaveUp(ctx, sent, err)
		case <-g.closed:
			timer.Stop()
			return errors.Join(ErrClosed, gaveUp(ctx, sent, err))
		}
		delay = min(2*delay, maxRetryDelay)
	}
}

// gaveUp says what is known when there is no time left.
func gaveUp(ctx context.Context, sent bool, last error) error {
	kind := ErrNoLeader
	if sent {
		kind = ErrOutcomeUnknown
	}
	return fmt.Errorf("%w: %w (last: %v)", kind, context.Cause(ctx), last) //nolint:errorlint // the last attempt's error is for reading only
}

// proposeOnce tries the leader that is known now.
func (g *Group) proposeOnce(ctx context.Context, data []byte) (uint64, []byte, error) {
	if g.IsLeader() {
		return g.ProposeLocal(ctx, data)
	}
	client, err := g.leaderClient()
	if err != nil {
		return 0, nil, err
	}
	resp, err := client.ProposeMetadata(ctx, &nodev1.ProposeMetadataRequest{Command: data})
	if err != nil {
		return 0, nil, fmt.Errorf("propose on the metadata leader: %w", err)
	}
	return resp.GetIndex(), resp.GetResult(), nil
}

func (g *Group) leaderClient() (nodev1.NodeServiceClient, error) {
	nodeID, ok := g.Leader()
	if !ok {
		return nil, ErrNoLeader
	}
	client, err := g.cfg.Peers.Client(nodeID)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrNoLeader, nodeID, err)
	}
	return client, nil
}

// ProposeLocal writes an encoded command; this replica must lead. It returns the
// command's index and the encoded metav1.Result, rejections included. The error
// is ErrNotLeader or ErrBadCommand when surely nothing was written, else
// ErrOutcomeUnknown or ctx's.
func (g *Group) ProposeLocal(ctx context.Context, cmd []byte) (index uint64, result []byte, err error) {
	if len(cmd) > maxCommandBytes {
		return 0, nil, fmt.Errorf("%w: %d bytes, at most %d", ErrBadCommand, len(cmd), maxCommandBytes)
	}
	var c metav1.Command
	if err := proto.Unmarshal(cmd, &c); err != nil {
		return 0, nil, fmt.Errorf("%w: %w", ErrBadCommand, err)
	}
	if c.GetCommand() == nil {
		return 0, nil, fmt.Errorf("%w: not known to this node", ErrBadCommand)
	}
	if !g.IsLeader() {
		return 0, nil, ErrNotLeader
	}
	var f raft.ApplyFuture
	err = g.await(ctx, func(rf *raft.Raft) raft.Future {
		f = rf.Apply(cmd, enqueueTimeout)
		return f
	})
	if err != nil {
		return 0, nil, err
	}
	switch v := f.Response().(type) {
	case *metav1.Result:
		raw, err := proto.Marshal(v)
		if err != nil {
			return 0, nil, fmt.Errorf("encode result: %w", err)
		}
		return f.Index(), raw, nil
	case error:
		return 0, nil, fmt.Errorf("%w: %w", ErrOutcomeUnknown, v)
	default:
		return 0, nil, fmt.Errorf("%w: applied without a result", ErrOutcomeUnknown)
	}
}

// await waits for a Raft future until ctx ends.
func (g *Group) await(ctx context.Context, begin func(*raft.Raft) raft.Future) error {
	err := g.replica.Await(ctx, begin)
	switch {
	case errors.Is(err, replica.ErrClosed):
		return ErrClosed
	case err != nil && ctx.Err() != nil:
		return errors.Join(ErrOutcomeUnknown, err)
	default:
		return fromRaft(err)
	}
}

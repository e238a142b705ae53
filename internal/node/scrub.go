package node

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/broker/scrub"
)

// newScrubber makes what reads the replicas of this node, also for other nodes that compare theirs. It starts nothing.
func (n *Node) newScrubber() error {
	var err error
	n.scrubber, err = scrub.New(scrub.Config{
		Metadata: n.group, Bucket: n.bucket, Peers: n.peers, Replicas: n.localReplicas, Repair: n.repair, Rewrite: n.rewrite,
		StatePath:      filepath.Join(n.cfg.DataDir, "scrub.json"),
		BytesPerSecond: n.cfg.ScrubBytesPerSecond, Interval: n.cfg.ScrubInterval, Logger: n.log, Registerer: n.reg,
	})
	return err
}

// startScrubber reads what this node stores, before somebody needs it.
func (n *Node) startScrubber(ctx context.Context, st *stack) error {
	st.push("scrubber", serve(ctx, "scrubber", n.fatal, n.scrubber.Run).stop)
	return nil
}

func (n *Node) localReplicas() []scrub.Local {
	all := []scrub.Local{{Replica: n.group.Replica(), IsMetadata: true}}
	for _, sh := range n.shards.All() {
		all = append(all, scrub.Local{Replica: sh.Replica(), Shard: sh.Number()})
	}
	return all
}

// rewrite has a damaged object written anew from the log of this node's replica.
func (n *Node) rewrite(ctx context.Context, number uint32, object string, listed []*metav1.SegmentEntry) (int, error) {
	sh, ok := n.shards.Get(number)
	if !ok {
		return 0, fmt.Errorf("this node has no replica of shard %d any more", number)
	}
	return sh.RewriteObject(ctx, object, listed)
}

// repair has a damaged replica rebuilt. That of the metadata is opened with the process alone, so the node ends with the
// file's name, and does it when it is started again.
func (n *Node) repair(ctx context.Context, r scrub.Local, cause error) error {
	if !r.IsMetadata {
		return n.shards.Reopen(ctx, r.Shard, cause)
	}
	err := broker.GiveUp(ctx, n.peers, r.Group(), n.group.Replica(), cause)
	switch {
	case errors.Is(err, broker.ErrOnlyReplica):
		n.fatal(fmt.Errorf("the only replica of the metadata is damaged: %w", cause))
		return nil
	case err != nil:
		return fmt.Errorf("metadata: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, handOverTimeout)
	defer cancel()
	if err := n.group.Replica().HandOver(ctx); err != nil {
		n.log.Info("the metadata group was not handed over", "error", err)
	}
	n.fatal(fmt.Errorf("the metadata replica is damaged, it is rebuilt from the other nodes at the next start: %w", cause))
	return nil
}

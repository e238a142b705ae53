package node

import (
	"context"
	"fmt"

	"github.com/streamhouse/streamhouse/broker/scrub"
)

// startScrubber reads what this node stores, before somebody needs it.
func (n *Node) startScrubber(ctx context.Context, st *stack) error {
	s, err := scrub.New(scrub.Config{
		Metadata: n.group, Bucket: n.bucket, Replicas: n.localReplicas, Repair: n.repair,
		BytesPerSecond: n.cfg.ScrubBytesPerSecond, Interval: n.cfg.ScrubInterval, Logger: n.log, Registerer: n.reg,
	})
	if err != nil {
		return err
	}
	st.push("scrubber", serve(ctx, "scrubber", n.fatal, s.Run).stop)
	return nil
}

func (n *Node) localReplicas() []scrub.Local {
	all := []scrub.Local{{Replica: n.group.Replica(), IsMetadata: true}}
	for _, sh := range n.shards.All() {
		all = append(all, scrub.Local{Replica: sh.Replica(), Shard: sh.Number()})
	}
	return all
}

// repair has a damaged replica rebuilt. That of the metadata is opened with the process alone, so the node ends with the
// file's name, and does it when it is started again.
func (n *Node) repair(ctx context.Context, r scrub.Local, cause error) error {
	if r.IsMetadata {
		n.fatal(fmt.Errorf("the metadata replica is damaged, it is rebuilt from the other nodes at the next start: %w", cause))
		return nil
	}
	return n.shards.Reopen(ctx, r.Shard, cause)
}

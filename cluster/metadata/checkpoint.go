package metadata

import (
	"context"
	"errors"
	"time"

	"github.com/hashicorp/raft"
)

// runCheckpoints takes a snapshot whenever the log has grown enough since the last one.
func (g *Group) runCheckpoints(ctx context.Context) {
	ticker := time.NewTicker(g.cfg.CheckpointInterval)
	defer ticker.Stop()
	var last uint64 // index of the last snapshot that was taken here
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		index := g.View().Index()
		if !g.checkpointDue(index, last) {
			continue
		}
		err := g.replica.Checkpoint()
		switch {
		case err == nil, errors.Is(err, raft.ErrNothingNewToSnapshot):
			last = index
			g.cfg.Logger.Info("metadata snapshot taken", "index", index)
		case errors.Is(err, raft.ErrRaftShutdown):
			return
		default:
			// A configuration change in flight makes this fail too; the next look tries again.
			g.cfg.Logger.Warn("metadata snapshot failed", "index", index, "error", err)
		}
	}
}

func (g *Group) checkpointDue(index, last uint64) bool {
	if index <= last {
		return false
	}
	grown := g.replica.LogBytes() > g.cfg.CheckpointBytes+g.cfg.Replica.RetainBytes
	return grown || index-max(last, g.replica.FirstIndex()) >= g.cfg.CheckpointEntries
}

package recovery

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// Groups keeps the committed offsets of consumer groups in the object store. Safe for concurrent use.
type Groups struct {
	Bucket Bucket
	// Grace is how long a state stays at least after newer ones have replaced it.
	Grace time.Duration
	// Logger is told of damaged states, and of old ones that can't be removed; nil is silent.
	Logger *slog.Logger
}

// Save puts the state of a shard's groups as of an index of its log there, and removes what it replaces. That something can't
// be removed is no failure: a later Save tries again.
func (g *Groups) Save(ctx context.Context, clusterID string, shard uint32, recoveryID string, index uint64, data []byte) error {
	if err := Superseded(ctx, g.Bucket, clusterID, recoveryID); err != nil {
		return err
	}
	prefix := groupsPrefix(clusterID, shard)
	if err := put(ctx, g.Bucket, newPosition(recoveryID, index).name(prefix), data); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := removeOld(ctx, g.Bucket, prefix, g.Grace, time.Now()); err != nil && g.Logger != nil {
		g.Logger.Warn("old offsets of groups are still in the object store", "shard", shard, "error", err)
	}
	return nil
}

// Load calls parse with the newest state from before a recovery, and with older ones while it fails. It reports whether
// parse took one.
func (g *Groups) Load(ctx context.Context, clusterID string, shard uint32, recoveryID string, parse func([]byte) error) (bool, error) {
	all, err := listStored(ctx, g.Bucket, groupsPrefix(clusterID, shard))
	if err != nil {
		return false, err
	}
	for _, s := range slices.Backward(all) {
		if s.life >= lifeOf(recoveryID) {
			continue
		}
		data, err := get(ctx, g.Bucket, s.Name)
		if err != nil && !isDamaged(err) {
			return false, err
		}
		if err == nil {
			err = parse(data)
		}
		if err == nil {
			return true, nil
		}
		if g.Logger != nil {
			g.Logger.Error("saved offsets of groups are damaged: older ones are taken, so groups may read records again",
				"object", s.Name, "shard", shard, "error", err)
		}
	}
	return false, nil
}

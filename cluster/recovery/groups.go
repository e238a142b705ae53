package recovery

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"github.com/streamhouse/streamhouse/fsm"
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

// Load calls parse with the newest state from before a recovery, and with older ones while it fails. It reports whether parse
// took one, and returns the metadata that each later life of the cluster began with, up to that recovery, the oldest first: what
// was beyond the end of a partition in one of these, that life may have written anew. One is nil where it is damaged or gone.
func (g *Groups) Load(ctx context.Context, clusterID string, shard uint32, recoveryID string, parse func([]byte) error) (began []*fsm.View, found bool, err error) {
	all, err := listStored(ctx, g.Bucket, groupsPrefix(clusterID, shard))
	if err != nil {
		return nil, false, err
	}
	for _, s := range slices.Backward(all) {
		if s.life >= lifeOf(recoveryID) {
			continue
		}
		data, err := get(ctx, g.Bucket, s.Name, maxMetaBytes)
		if err != nil && !isDamaged(err) {
			return nil, false, err
		}
		if err == nil {
			err = parse(data)
		}
		if err == nil {
			began, err := g.begun(ctx, clusterID, s.life, recoveryID)
			return began, err == nil, err
		}
		if g.Logger != nil {
			g.Logger.Error("saved offsets of groups are damaged: older ones are taken, so groups may read records again",
				"object", s.Name, "shard", shard, "error", err)
		}
	}
	return nil, false, nil
}

// begun returns what the lives after one began with, up to a recovery.
func (g *Groups) begun(ctx context.Context, clusterID, after, recoveryID string) ([]*fsm.View, error) {
	l, err := readLives(ctx, g.Bucket, clusterID)
	if err != nil {
		return nil, err
	}
	ids := slices.DeleteFunc(l.begun, func(id string) bool { return id <= after || id >= recoveryID })
	var began []*fsm.View
	for _, id := range append(ids, recoveryID) {
		v, err := readView(ctx, g.Bucket, recoveryName(clusterID, id))
		if err != nil && !isDamaged(err) {
			return nil, err
		}
		if err != nil && g.Logger != nil {
			g.Logger.Error("what a life of the cluster began with is not known any more: groups that had offsets before it read all records again",
				"recovery", id, "error", err)
		}
		began = append(began, v)
	}
	return began, nil
}

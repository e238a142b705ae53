package scrub

import (
	"context"
	"errors"
	"maps"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/replica"
)

// Replica is one that this node holds. *replica.Replica is one. Safe for concurrent use.
type Replica interface {
	// Scrub reads the log and the newest snapshot from the disk, and calls wait for the bytes that it has read. The error
	// is a *logstore.CorruptError that names the file, or wait's.
	Scrub(ctx context.Context, wait func(ctx context.Context, bytes int64) error) error
	// Digest sums up log entries as they are on the disk, see replica.Replica.
	Digest(ctx context.Context, first, last uint64, maxBytes int64) (replica.Digest, error)
	// FirstIndex is the first index of the log, 0 when it is empty. It never blocks.
	FirstIndex() uint64
	// Status tells of the replica and its group.
	Status() replica.Status
	// IsLeader says whether it leads its group. It never blocks.
	IsLeader() bool
}

// Local is a replica with its group, which is Metadata for that of the metadata.
type Local struct {
	Replica
	Shard      uint32
	IsMetadata bool
}

// Group names the replica's group.
func (l Local) Group() *nodev1.Group { return &nodev1.Group{Metadata: l.IsMetadata, Shard: l.Shard} }

// replica reads a replica and compares it with the others of its group, and has it repaired where it is damaged.
func (s *Scrubber) replica(ctx context.Context, r Local) {
	id := r.Status().ReplicaID
	err := r.Scrub(ctx, s.pace("log"))
	compared := uint64(0)
	if err == nil {
		compared, err = s.compare(ctx, r)
	}
	switch {
	case ctx.Err() != nil:
	case err == nil:
		s.noteWhole(id, compared)
	case !isDamaged(err):
		s.log.Info("a replica could not be read whole", "shard", r.Shard, "metadata", r.IsMetadata, "error", err)
	default:
		s.metrics.damaged.WithLabelValues("log").Inc()
		s.log.Error("a replica is damaged", "shard", r.Shard, "metadata", r.IsMetadata, "replica", id, "error", err)
		s.noteReplica(id, err)
		s.repair(ctx, r, id, err)
	}
}

// isDamaged tells what is wrong with a replica from what hinders its reading.
func isDamaged(err error) bool {
	_, diverged := errors.AsType[*DivergedError](err)
	return diverged || errors.Is(err, logstore.ErrCorrupt)
}

// repair has a damaged replica rebuilt, unless nobody knows how the others have it.
func (s *Scrubber) repair(ctx context.Context, r Local, id string, cause error) {
	if d, ok := errors.AsType[*DivergedError](cause); ok && len(d.Majority) == 0 {
		return
	}
	if err := s.cfg.Repair(ctx, r, cause); err != nil && ctx.Err() == nil {
		s.log.Warn("the damaged replica is not rebuilt yet", "shard", r.Shard, "metadata", r.IsMetadata, "replica", id, "error", err)
	}
}

// noteWhole forgets what was wrong with a replica that was read whole; that it differed only if it was compared.
func (s *Scrubber) noteWhole(id string, compared uint64) {
	s.mu.Lock()
	_, diverged := errors.AsType[*DivergedError](s.found[id])
	s.mu.Unlock()
	if compared > 0 || !diverged {
		s.noteReplica(id, nil)
	}
}

// noteReplica remembers a damaged replica, or forgets it where cause is nil.
func (s *Scrubber) noteReplica(id string, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if cause == nil {
		delete(s.found, id)
	} else {
		s.found[id] = cause
	}
	diverged := 0
	for _, cause := range s.found {
		if _, ok := errors.AsType[*DivergedError](cause); ok {
			diverged++
		}
	}
	s.metrics.diverged.Set(float64(diverged))
}

// recheckReplicas looks again at replicas that were found damaged: those that are gone are forgotten, those that differ are
// compared again, and for those that could not be rebuilt it is tried again.
func (s *Scrubber) recheckReplicas(ctx context.Context) {
	s.mu.Lock()
	found := maps.Clone(s.found)
	s.mu.Unlock()
	for _, r := range s.cfg.Replicas() {
		id := r.Status().ReplicaID
		cause := found[id]
		delete(found, id)
		if d, ok := errors.AsType[*DivergedError](cause); ok {
			cause = s.compareAgain(ctx, r, d)
			s.noteReplica(id, cause)
		}
		if ctx.Err() != nil {
			return
		}
		if cause != nil {
			s.repair(ctx, r, id, cause)
		}
	}
	for id := range found {
		s.noteReplica(id, nil) // it was rebuilt, or moved away
	}
}

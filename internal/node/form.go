package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/recovery"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/object"
)

const (
	formTick     = time.Second
	waitLogEvery = 10 * time.Second
	// idInUseWait is how long a node that comes back without its disk waits for
	// the others to see its old life as dead.
	idInUseWait = 30 * time.Second
)

// step is what a fresh node does next.
type step int

const (
	stepWait step = iota
	stepFound
	stepJoin
)

// decide says what a fresh node does, given whom it sees: it joins a cluster
// that is there; else, once so many fresh nodes as expected see each other, the
// one with the lowest id begins one, and so does one that was about to before a
// crash, since it may have won against all others. The text says what it waits for.
func decide(selfID string, founding bool, expect int, members []gossip.Member) (s step, clusterID, waitsFor string) {
	fresh := make(map[string]bool)
	for i := range members {
		m := &members[i]
		if !m.Fresh && m.ClusterID != "" && !m.Leaving {
			return stepJoin, m.ClusterID, ""
		}
		if m.Fresh && (m.BootstrapExpect == expect || m.NodeID == selfID) {
			fresh[m.NodeID] = true
		}
	}
	if expect == 0 {
		return stepWait, "", "a node of the cluster to answer at --join"
	}
	if len(fresh) < expect {
		return stepWait, "", fmt.Sprintf("%d fresh nodes with --bootstrap-expect %d, %d are seen", expect, expect, len(fresh))
	}
	if lowest := slices.Min(slices.Collect(maps.Keys(fresh))); lowest != selfID && !founding {
		return stepWait, "", fmt.Sprintf("node %s to begin the cluster", lowest)
	}
	return stepFound, "", ""
}

// membership is what former needs of gossip.
type membership interface {
	Members() []gossip.Member
	Changed() <-chan struct{}
}

// former makes a fresh node a member of a cluster, one that is there or a new one.
type former struct {
	cfg      *Config
	identity *identityFile
	gossip   membership
	bucket   object.Bucket
	join     func(ctx context.Context, clusterID, replicaID string) error
	self     func() gossip.Member
	files    replicaFiles
	// waits is told what the node waits for.
	waits func(string)
	log   *slog.Logger
}

// replicaFiles makes and removes the files of a metadata replica.
type replicaFiles interface {
	Create(replicaID string) error
	CreateFrom(replicaID, raftAddr string, view *fsm.View) error
	Discard(replicaID string) error
}

// form returns once the node has a cluster and the files of a metadata replica.
func (f *former) form(ctx context.Context) error {
	if id := f.identity.get(); id.ClusterID != "" && id.MetadataReplicaID != "" {
		return nil
	}
	var logged time.Time
	for {
		changed := f.gossip.Changed()
		next, clusterID, waitsFor := decide(f.cfg.NodeID, f.identity.get().Founding, f.cfg.BootstrapExpect, f.gossip.Members())
		var err error
		var done bool
		switch next {
		case stepJoin:
			return f.joinCluster(ctx, clusterID)
		case stepFound:
			done, err = f.found(ctx)
			waitsFor = "the cluster that another node begins"
		case stepWait:
		}
		if err != nil || done {
			return err
		}
		f.waits(waitsFor)
		if time.Since(logged) > waitLogEvery {
			f.log.Info("waits for " + waitsFor)
			logged = time.Now()
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(formTick):
		case <-changed:
		}
	}
}

// found begins a cluster. Only one node can create cluster.json; done is false
// when another fresh node did it first. After a crash it goes on with the same
// cluster id: it is in node.json before it is in the object store.
func (f *former) found(ctx context.Context) (done bool, err error) {
	id := f.identity.get()
	if id.ClusterID == "" {
		err := f.identity.update(func(id *identity) {
			id.ClusterID, id.Founding = ulid.Make().String(), true
		})
		if err != nil {
			return false, err
		}
		id = f.identity.get()
	}
	err = createClusterFile(ctx, f.bucket, &clusterFile{
		Version:            clusterFileVersion,
		ClusterID:          id.ClusterID,
		ClusterName:        id.ClusterName,
		Founder:            id.NodeID,
		FounderIncarnation: id.Incarnation,
		Shards:             f.cfg.Shards,
		CreatedMs:          time.Now().UnixMilli(),
	})
	if errors.Is(err, object.ErrExists) {
		return f.recover(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("--object-store %s: %w", f.cfg.ObjectStore, err)
	}
	replicaID := newReplicaID(id.NodeID)
	if err := f.files.Create(replicaID); err != nil {
		return false, err
	}
	if err := f.identity.update(func(id *identity) { id.MetadataReplicaID = replicaID }); err != nil {
		return false, err
	}
	f.log.Info("begins a new cluster", "cluster_id", id.ClusterID, "shards", f.cfg.Shards)
	return true, nil
}

// recover begins the cluster that the object store belongs to again, where an operator has recovered it and this node
// is the first to claim that.
func (f *former) recover(ctx context.Context) (done bool, err error) {
	there, err := readClusterFile(ctx, f.bucket)
	if err != nil {
		return false, fmt.Errorf("--object-store %s: %w", f.cfg.ObjectStore, err)
	}
	id := f.identity.get()
	if there.ClusterName != id.ClusterName {
		return false, f.lostRace(there, there.FounderIncarnation)
	}
	self := f.self()
	view, by, err := recovery.Take(ctx, f.bucket, there.ClusterID, recovery.Claim{
		NodeID: id.NodeID, Incarnation: id.Incarnation, RaftAddr: self.RaftAddr,
	})
	switch {
	case errors.Is(err, recovery.ErrClaimed):
		return false, f.lostRace(there, by.Incarnation)
	case err != nil:
		return false, fmt.Errorf("--object-store %s: %w", f.cfg.ObjectStore, err)
	case view == nil:
		return false, f.lostRace(there, there.FounderIncarnation)
	}
	replicaID := newReplicaID(id.NodeID)
	if err := f.files.CreateFrom(replicaID, self.RaftAddr, view); err != nil {
		return false, err
	}
	err = f.identity.update(func(id *identity) {
		id.ClusterID, id.MetadataReplicaID, id.RecoveryID, id.Founding = there.ClusterID, replicaID, view.RecoveryID(), false
	})
	if err != nil {
		return false, err
	}
	f.log.Warn("begins the recovered cluster", "cluster_id", there.ClusterID, "recovery", view.RecoveryID(),
		"topics", view.NumTopics(), "partitions", view.NumPartitions())
	return true, nil
}

// lostRace forgets the attempt to begin a cluster. When the one who has begun it
// is not here, the object store belongs to a cluster that this node can't reach.
func (f *former) lostRace(there *clusterFile, founderIncarnation string) error {
	err := f.identity.update(func(id *identity) { id.ClusterID, id.Founding = "", false })
	if err != nil {
		return err
	}
	founderIsHere := slices.ContainsFunc(f.gossip.Members(), func(m gossip.Member) bool {
		return m.Incarnation == founderIncarnation
	})
	if founderIsHere {
		return nil
	}
	return fmt.Errorf("--object-store %s: cluster %s (%s) has it already: join that cluster with --join HOST:PORT, or give a prefix of its own; "+
		"if all of its nodes are gone for good, see streamhouse cluster recover",
		f.cfg.ObjectStore, there.ClusterID, there.ClusterName)
}

// joinCluster asks the cluster to take this node in, then makes the files of its
// replica. A crash in between only costs the replica's id: the next start asks
// with another one.
func (f *former) joinCluster(ctx context.Context, clusterID string) error {
	if err := checkStore(ctx, f.bucket, f.cfg.ObjectStore, clusterID); err != nil {
		return err
	}
	// The cluster lives, so its newest life is the one that is joined.
	recoveryID, err := recovery.Newest(ctx, f.bucket, clusterID)
	if err != nil {
		return fmt.Errorf("--object-store %s: %w", f.cfg.ObjectStore, err)
	}
	replicaID := newReplicaID(f.cfg.NodeID)
	f.log.Info("joins the cluster", "cluster_id", clusterID)
	err = untilRegistered(ctx, clusterID, f.log, func(ctx context.Context) error { return f.join(ctx, clusterID, replicaID) })
	if err != nil {
		return err
	}
	if err := f.files.Create(replicaID); err != nil {
		return err
	}
	return f.identity.update(func(id *identity) {
		id.ClusterID, id.MetadataReplicaID, id.RecoveryID, id.Founding = clusterID, replicaID, recoveryID, false
	})
}

// untilRegistered calls register until the cluster has taken this node in, or refuses it for good.
func untilRegistered(ctx context.Context, clusterID string, log *slog.Logger, register func(context.Context) error) error {
	begin := time.Now()
	var logged time.Time
	for {
		err := register(ctx)
		if err == nil {
			return nil
		}
		if refusedForGood(err, time.Since(begin)) {
			return fmt.Errorf("cluster %s refuses this node: %w", clusterID, err)
		}
		if time.Since(begin) > registerQuiet && time.Since(logged) > waitLogEvery && ctx.Err() == nil {
			log.Info("is not registered yet", "error", err)
			logged = time.Now()
		}
		if err := pause.For(ctx, registerTick); err != nil {
			return err
		}
	}
}

// refusedForGood reports whether asking to join again is of no use.
func refusedForGood(err error, waited time.Duration) bool {
	r, rejected := errors.AsType[*fsm.Rejection](err)
	if !rejected {
		return false
	}
	switch r.Reason {
	case streamhousev1.ErrorReason_ERROR_REASON_NODE_ID_IN_USE:
		return waited > idInUseWait
	case streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER,
		streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE,
		streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD:
		return true
	default:
		return false
	}
}

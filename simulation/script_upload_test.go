package simulation

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/cluster"
	"github.com/streamhouse/streamhouse/simulation/disk"
	"github.com/streamhouse/streamhouse/simulation/wire"
)

// orphan-delete: an object is uploaded, and its leader can't list it for longer than the grace period. It is not deleted,
// and is listed then.
func TestOrphanDeleteInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		before, err := s.objects(ctx)
		if err != nil {
			return err
		}
		s.split(r.leader, r.metadata)
		if _, err := s.write(ctx, r.leader, 5, 500); err != nil {
			return err
		}
		if err := s.uploaded(ctx, before); err != nil {
			return err
		}
		s.trace.Event("script", "an object is there and not listed")
		if err := pause.For(ctx, 30*time.Second); err != nil { // three grace periods
			return err
		}
		if err := s.heal(ctx); err != nil {
			return err
		}
		return s.fill(ctx, r.third)
	})
}

// zombie-upload: a leader has uploaded an object, and its command to list it is under way for seconds. Meanwhile another
// one leads, and has uploaded and listed the same records with others. The manifest does not take the first object.
func TestZombieUploadInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		if err := pause.For(ctx, 3*time.Second); err != nil { // the leader has asked for the manifest
			return err
		}
		before, err := s.objects(ctx)
		if err != nil {
			return err
		}
		const delay = 4 * time.Second
		s.link(r.leader, s.c.Nodes[r.metadata].IP, wire.Link{Latency: delay})
		if _, err := s.write(ctx, r.leader, 5, 500); err != nil {
			return err
		}
		if err := s.uploaded(ctx, before); err != nil {
			return err
		}
		s.trace.Event("script", "an object is there, and is about to be listed")
		if err := pause.For(ctx, 50*time.Millisecond); err != nil {
			return err
		}
		if _, err := s.write(ctx, r.leader, 5, 500); err != nil {
			return err
		}
		if err := s.moveTo(ctx, r.third); err != nil {
			return err
		}
		if err := pause.For(ctx, delay+time.Second); err != nil {
			return err
		}
		if err := s.heal(ctx); err != nil {
			return err
		}
		if err := s.fill(ctx, r.third); err != nil {
			return err
		}
		return s.readBackFrom(ctx, 5) // where the second object has records that the first does not
	})
}

// Objects lose a bit or are gone. They are written anew from the local logs, while the object store fails and forgets, the
// leadership moves, and the leader that found it dies. Then the logs are cut, and all is read from the object store.
func TestDamagedObjectsInACluster(t *testing.T) {
	flags := scrubbing()
	flags["shards"] = "1"
	actWith(t, flags, func(ctx context.Context, s *scene) error {
		bad := cluster.HealthyBucket
		bad.Refuse, bad.Forget = 0.3, 0.3
		for round, harm := range []func(roles) error{
			func(roles) error { return nil },
			func(roles) error { s.c.Bucket.Set(bad); return nil },
			func(r roles) error { return s.moveTo(ctx, r.third) },
			func(r roles) error { return s.crew.takeDown(s.c.Nodes[r.leader], disk.Kept) },
		} {
			r, err := s.roles(ctx)
			if err != nil {
				return err
			}
			if err := s.fill(ctx, r.third); err != nil {
				return err
			}
			found := s.trace.Hear("", "an object is damaged")
			for draw := range uint64(2) {
				if err := s.crew.damageObject(ctx, &Fault{Draw: uint64(round)*7919<<1 + draw}); err != nil {
					return err
				}
			}
			err = errors.Join(within(ctx, recovery, found), harm(r), pause.For(ctx, 10*time.Second), s.heal(ctx))
			if err != nil {
				return err
			}
		}
		return errors.Join(s.readFromObjects(ctx), s.fill(ctx, 0))
	})
}

// wrong-replica-votes: of three replicas one has lost its disk and comes back empty, and one does not have the newest
// records, because its disk was slow and then lost power. Without the third they don't elect a leader: it has them alone.
func TestWrongReplicaVotesInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		slow, wiped := s.c.Nodes[r.metadata], s.c.Nodes[r.third]
		slow.SetDisk(disk.Mood{Sync: cluster.HealthyDisk.Sync, Stall: 40 * time.Second, StallIn: "/shards/"})
		s.trace.Event(slow.ID, "its disk does not end a sync of the shard's log")
		if _, err := s.write(ctx, r.leader, 3, 100); err != nil { // the leader and the third have them
			return err
		}
		if err := s.crew.takeDown(wiped, disk.Kept); err != nil {
			return err
		}
		wiped.Wipe()
		s.split(r.leader, r.third) // so that the empty replica stays empty
		runs := s.trace.Hear(wiped.ID, "replica runs")
		if err := errors.Join(s.start(ctx, wiped), within(ctx, 40*time.Second, runs)); err != nil {
			return err
		}
		err = errors.Join(s.crew.takeDown(s.c.Nodes[r.leader], disk.Kept), s.crew.takeDown(slow, disk.All), s.start(ctx, slow))
		if err != nil {
			return err
		}
		trying, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_ = until(trying, func(ctx context.Context) error {
			_, err := s.write(ctx, r.metadata, 1, 100)
			return err
		}) // it is in the history
		return nil
	})
}

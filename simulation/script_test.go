package simulation

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/bucket"
	"github.com/streamhouse/streamhouse/simulation/cluster"
	"github.com/streamhouse/streamhouse/simulation/disk"
	"github.com/streamhouse/streamhouse/simulation/wire"
)

// ack-before-fsync: what was acknowledged is there after a power cut of all nodes.
func TestAckBeforeFsyncInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		if _, err := s.write(ctx, 0, 3, 100); err != nil {
			return err
		}
		return s.powerCut()
	})
}

// A snapshot that carries what the object store does not have has all of it.
func TestLastBatchOfASnapshot(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		s.c.Bucket.Set(bucket.Mood{Latency: cluster.HealthyBucket.Latency, Refuse: 1})
		for range 20 {
			if _, err := s.write(ctx, 0, 4, 2000); err != nil {
				return err
			}
		}
		if err := pause.For(ctx, 4*time.Second); err != nil { // every replica takes one
			return err
		}
		s.c.Bucket.Set(cluster.HealthyBucket)
		return s.powerCut()
	})
}

// retry-duplicates: the leader stores a batch, its answer is lost and it dies; the next one knows the batch when the
// producer sends it again.
func TestRetryDuplicatesInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		c, err := s.c.Client(scriptHost, nil)
		if err != nil {
			return err
		}
		p, err := client.NewProducer(c, client.ProducerConfig{Partitioner: client.Manual})
		if err != nil {
			return errors.Join(err, c.Close())
		}
		name, values := s.values(8, 100)
		send := func(v string) error {
			op := s.h.Produce(name, part(0), v)
			return p.Produce(ctx, &client.Record{Topic: topic, Value: []byte(v)}, func(rec *client.Record, err error) {
				s.settle(op, name, v, rec.Offset, err)
			})
		}
		if err := errors.Join(send(values[0]), p.Flush(ctx)); err != nil { // it has a producer id, and a connection
			return errors.Join(err, p.Close(ctx), c.Close())
		}
		s.link(r.leader, cluster.ClientIP(scriptHost), wire.Link{Cut: true})
		for _, v := range values[1:] {
			if err := errors.Join(send(v), pause.For(ctx, 30*time.Millisecond)); err != nil {
				return errors.Join(err, p.Close(ctx), c.Close())
			}
		}
		err = errors.Join(pause.For(ctx, 200*time.Millisecond), s.crew.takeDown(s.c.Nodes[r.leader], disk.Kept))
		return errors.Join(err, p.Flush(ctx), p.Close(ctx), c.Close())
	})
}

// vague-error: the leader stores a batch that carries no producer id, and dies before it answers the node that passed the
// batch on. That node does not send it to the next leader.
func TestVagueErrorInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		if _, err := s.write(ctx, r.third, 1, 100); err != nil { // there is a connection to the leader
			return err
		}
		s.link(r.leader, s.c.Nodes[r.third].IP, wire.Link{Cut: true})
		name, values := s.values(3, 100)
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = s.produceOnce(ctx, s.apis[r.third], name, 0, values, 20*time.Second) // it is in the history
		})
		defer wg.Wait()
		if err := pause.For(ctx, 200*time.Millisecond); err != nil {
			return err
		}
		return s.crew.takeDown(s.c.Nodes[r.leader], disk.Kept)
	})
}

// offsets-before-commit: a leader that is cut off from its followers has records that are not committed, and serves none
// of them while it does not know that yet.
func TestOffsetsBeforeCommitInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		if _, err := s.write(ctx, r.leader, 3, 100); err != nil {
			return err
		}
		s.split(r.leader, r.metadata)
		s.split(r.leader, r.third)
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = s.write(ctx, r.leader, 2, 100) }) // it is in the history
		defer wg.Wait()
		for range 6 { // the leader's lease is half a second
			if err := pause.For(ctx, 50*time.Millisecond); err != nil {
				return err
			}
			_, _ = s.readOnce(ctx, s.apis[r.leader], 0, 3, 0) // it is in the history
		}
		ctx, cancel := context.WithTimeout(ctx, recovery)
		defer cancel()
		return until(ctx, func(ctx context.Context) error {
			_, err := s.write(ctx, r.third, 1, 100)
			return err
		})
	})
}

// A group's offsets outlive the node that coordinates it.
func TestGroupOffsetsOfANewCoordinator(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		if _, err := s.write(ctx, r.leader, 5, 100); err != nil {
			return err
		}
		op := s.h.Commit(group, "script", part(0), 4)
		_, err = s.apis[r.third].CommitOffset(ctx, &streamhousev1.CommitOffsetRequest{
			Group: group, Topic: topic, Offsets: []*streamhousev1.CommittedOffset{{Offset: 4}},
		})
		if err != nil {
			op.Unknown(err)
			return err
		}
		op.OK()
		if err := s.crew.takeDown(s.c.Nodes[r.leader], disk.Kept); err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, recovery)
		defer cancel()
		return until(ctx, func(ctx context.Context) error { return s.committed(ctx, s.apis[r.third]) })
	})
}

// A member commits, and the network holds the first try until a retry of it, through another node, and a later commit were
// acknowledged. When the first one comes, the group stays where it is.
func TestLateCommitInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		if _, err := s.write(ctx, r.leader, 10, 100); err != nil {
			return err
		}
		first := s.c.Nodes[r.third] // where a member's calls go first
		c, err := s.c.Client(scriptHost, nil, first, s.c.Nodes[r.leader], s.c.Nodes[r.metadata])
		if err != nil {
			return err
		}
		consumer, err := client.NewConsumer(c, client.ConsumerConfig{
			Group: group, Topics: []string{topic}, ManualCommit: true, SessionTimeout: time.Minute, FetchMaxWait: 500 * time.Millisecond,
		})
		if err != nil {
			return errors.Join(err, c.Close())
		}
		err = s.lateCommit(ctx, consumer, first)
		return errors.Join(err, consumer.Close(ctx), c.Close())
	})
}

// lateCommit lets a member make two commits, the first of them with a try that comes to a node behind both.
func (s *scene) lateCommit(ctx context.Context, consumer *client.Consumer, first *cluster.Node) error {
	records, err := consumer.Poll(ctx)
	if err != nil {
		return err
	}
	s.trace.Event("script", "the member has got %d records", len(records))
	const held = 6 * time.Second
	s.trace.Event("script", "what the member sends to %s comes after %s", first.ID, held)
	s.c.Net.Set(cluster.ClientIP(scriptHost), first.IP, wire.Link{Latency: held})
	sent := time.Now()
	for _, offset := range []int64{4, 8} {
		op := s.h.Commit(group, "script", part(0), offset)
		call, cancel := context.WithTimeout(ctx, 4*time.Second) // the first try has half of it
		err := consumer.CommitOffsets(call, map[client.TopicPartition]client.Committed{{Topic: topic, Partition: 0}: {Offset: offset}})
		cancel()
		if err != nil {
			op.Unknown(err)
			return err
		}
		op.OK()
		s.trace.Event("script", "%d is committed", offset)
	}
	if took := time.Since(sent); took < time.Second || took >= held {
		return fmt.Errorf("the commits took %s: the first try was not held until both were made", took)
	}
	// The call is given up, but its end comes as late.
	return errors.Join(pause.For(ctx, held-time.Since(sent)+500*time.Millisecond), s.committed(ctx, s.apis[0]))
}

// bit-flip: a bit of a log changes on the disk of a node that runs and does not have the entry in memory. Nobody reads
// the changed record.
func TestBitFlipInACluster(t *testing.T) {
	act(t, func(ctx context.Context, s *scene) error {
		r, err := s.roles(ctx)
		if err != nil {
			return err
		}
		values, err := s.write(ctx, r.leader, 1, 2000)
		if err != nil {
			return err
		}
		for range 12 { // more than the tail in memory
			if _, err := s.write(ctx, r.leader, 1, 2000); err != nil {
				return err
			}
		}
		victim := s.c.Nodes[r.third]
		if err := errors.Join(s.crew.takeDown(victim, disk.Kept), s.start(ctx, victim), s.settleDown(ctx), s.applied(ctx)); err != nil {
			return err
		}
		switch n, err := victim.FlipBitOf(".wal", values[0]); {
		case err != nil:
			return err
		case n == 0:
			return errors.New("the record is not in the log")
		}
		s.trace.Event(victim.ID, "a bit of the first record is flipped in its log")
		_, _ = s.readOnce(ctx, s.apis[r.third], 0, 0, 0) // it is in the history
		return pause.For(ctx, 3*time.Second)
	})
}

package controller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

const hour = time.Hour

// stored is a cluster of one node with a topic of two partitions, and its objects.
type stored struct {
	*fakeCluster
	t      *testing.T
	bucket *object.Memory
	// broken makes the object store fail.
	broken atomic.Bool
}

func newStored(t *testing.T, config map[string]string) *stored {
	t.Helper()
	s := &stored{fakeCluster: newFakeCluster(boot(t, 1, "n1")), t: t, bucket: object.NewMemory()}
	s.bucket.Before = func(context.Context, string, string) error {
		if s.broken.Load() {
			return errors.New("503")
		}
		return nil
	}
	s.do(func(sim *sim) {
		sim.apply(&metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
			Name: "t", Uuid: []byte("uuid-of-topic-01"), Partitions: 2, Config: config,
		}}})
	})
	c := New(Config{NodeID: "n1", Metadata: s, Gossip: s, Peers: s, Bucket: s.bucket, ObjectGrace: hour})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { c.every(ctx, c.cfg.RetentionInterval, c.retain) })
	wg.Go(func() { c.every(ctx, c.cfg.JanitorInterval, c.janitor.round) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return s
}

func (s *stored) put(name string) {
	s.t.Helper()
	require.NoError(s.t, s.bucket.Put(s.t.Context(), name, bytes.NewReader([]byte("x")), 1))
}

// upload puts an object and lists it; the segment has the offsets base to base+10, and its newest record is from now.
func (s *stored) upload(name string, partition uint64, base int64) {
	s.t.Helper()
	s.put(name)
	_, err := s.Propose(s.t.Context(), &metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: name, ObjectBytes: 100, Segments: []*metav1.SegmentEntry{{
			PartitionId: partition, BaseOffset: base, EndOffset: base + 10, SizeBytes: 100, MaxTimestampMs: time.Now().UnixMilli(),
		}},
	}}})
	require.NoError(s.t, err)
}

func (s *stored) names() []string {
	s.t.Helper()
	s.broken.Store(false)
	var names []string
	require.NoError(s.t, object.All(s.t.Context(), s.bucket, "", func(a object.Attributes) error {
		names = append(names, a.Name)
		return nil
	}))
	return names
}

func (s *stored) start(partition uint64) int64 {
	p, _ := s.View().Partition(partition)
	return p.LogStart
}

func TestRetentionByTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, map[string]string{"retention.ms": fmt.Sprint((10 * hour).Milliseconds())})
		s.upload("C/00/0/a.seg", 1, 0)
		pass(5 * hour)
		s.upload("C/00/0/b.seg", 1, 10)
		pass(4 * hour)
		require.Zero(t, s.start(1))
		pass(2 * hour)
		require.Equal(t, int64(10), s.start(1))
		require.Equal(t, []string{"C/00/0/a.seg", "C/00/0/b.seg"}, s.names(), "readers have the grace period")
		pass(2 * hour)
		require.Equal(t, []string{"C/00/0/b.seg"}, s.names())
		pass(6 * hour)
		require.Equal(t, int64(20), s.start(1))
		require.Empty(t, s.names())
	})
}

func TestRetentionByBytes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, map[string]string{"retention.ms": "-1", "retention.bytes": "150"})
		for i := range int64(4) {
			s.upload(fmt.Sprintf("C/00/0/%d.seg", i), 1, 10*i)
		}
		s.upload("C/00/0/other.seg", 2, 0)
		pass(time.Minute)
		require.Equal(t, int64(20), s.start(1), "200 bytes are left, 100 would be below the limit")
		require.Zero(t, s.start(2))
	})
}

// putSegment puts an object with ten records of a partition, and does not list it.
func (s *stored) putSegment(name string, partition uint64, base int64) {
	s.putOrphan("", name, partition, base)
}

// putOrphan puts an object of a life of the cluster, as putSegment does.
func (s *stored) putOrphan(recoveryID, name string, partition uint64, base int64) orphan {
	s.t.Helper()
	b := record.NewBuilder(record.BuilderConfig{ProducerID: -1})
	for range 10 {
		b.Append(record.Record{Value: []byte("v")})
	}
	batch, err := b.Build()
	require.NoError(s.t, err)
	w := segment.NewWriter(segment.Source{ClusterID: s.View().ClusterID(), NodeID: "n1", RecoveryID: recoveryID})
	w.Begin(segment.Partition{ID: partition, Topic: "t", TopicUUID: [16]byte([]byte("uuid-of-topic-01"))})
	w.Append(batch, base)
	o, err := w.Finish()
	require.NoError(s.t, err)
	require.NoError(s.t, s.bucket.Put(s.t.Context(), name, o.Body(), o.SizeBytes))
	return orphan{name: name, sizeBytes: o.SizeBytes}
}

// recovered is the metadata with which the cluster would begin anew.
func (s *stored) recovered() *fsm.View {
	s.t.Helper()
	old := s.View()
	v, _, err := fsm.Recover(&fsm.Recovery{
		ID: ulid.Make().String(), Base: old, BaseName: "checkpoint", ClusterID: old.ClusterID(), ClusterName: old.ClusterName(), Shards: old.NumShards(),
	})
	require.NoError(s.t, err)
	return v
}

// trim moves the log start of a partition, so that nobody needs what is before it.
func (s *stored) trim(partition uint64, start int64) {
	s.t.Helper()
	_, err := s.Propose(s.t.Context(), &metav1.Command{Command: &metav1.Command_TrimPartition{
		TrimPartition: &metav1.TrimPartition{PartitionId: partition, LogStartOffset: start},
	}})
	require.NoError(s.t, err)
}

// leaked-objects: what was uploaded and never listed is removed after the grace period, where the metadata proves that nothing
// needs it. What the metadata lacks stays: absence deletes nothing.
func TestLeakedObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, nil)
		s.putSegment("C/00/0/orphan.seg", 1, 0)
		s.put("C/00/0/unreadable.seg")
		s.putSegment("C/00/0/not-listed.seg", 1, 10)
		s.putSegment("C/00/0/unknown.seg", 3, 0)
		s.put("C/snapshot")
		s.put("cluster.json")
		s.put("D/00/0/foreign.seg")
		s.upload("C/00/0/listed.seg", 1, 0)
		pass(30 * time.Minute)
		require.Len(t, s.names(), 8)
		require.Zero(t, s.View().NumDroppedObjects(), "it may be listed any moment")
		pass(hour)
		require.Equal(t, 1, s.View().NumDroppedObjects())
		require.Contains(t, s.names(), "C/00/0/orphan.seg", "condemned, not deleted yet")
		pass(2 * hour)
		kept := []string{"C/00/0/not-listed.seg", "C/00/0/unknown.seg", "C/00/0/unreadable.seg", "C/snapshot", "D/00/0/foreign.seg", "cluster.json"}
		require.Equal(t, append([]string{"C/00/0/listed.seg"}, kept...), s.names(), "what the metadata lacks may be needed")
		require.True(t, s.View().ObjectKnown("C/00/0/orphan.seg"), "the name is refused for long")
		pass(8 * 24 * hour)
		require.False(t, s.View().ObjectKnown("C/00/0/orphan.seg"))
		require.Equal(t, kept, s.names(), "seven days of retention are over")
	})
}

// What a life of the cluster before has uploaded too late for its recovery stays: that this one has the same offsets proves
// nothing, since its records are others. By the clock of who wrote it, it may be newer than the recovery.
func TestObjectsOfAnEarlierLifeStay(t *testing.T) {
	s := newStored(t, nil)
	s.trim(1, 10)
	ahead := segment.Name("C", 0, ulid.MustNew(ulid.Timestamp(time.Now().Add(hour)), ulid.DefaultEntropy()))
	behind := segment.Name("C", 0, ulid.MustNew(1, ulid.DefaultEntropy()))
	recovered := s.recovered()
	older, newer := s.putOrphan("", ahead, 1, 0), s.putOrphan(recovered.RecoveryID(), behind, 1, 0)
	j := newJanitor(&Config{Bucket: s.bucket}, nil)
	for _, tc := range []struct {
		view *fsm.View
		of   orphan
		want bool
	}{{s.View(), older, true}, {recovered, older, false}, {recovered, newer, true}} {
		drop, err := j.provenSuperfluous(t.Context(), tc.view, tc.of)
		require.NoError(t, err)
		require.Equal(t, tc.want, drop, "%s in the life %q", tc.of.name, tc.view.RecoveryID())
	}
}

func TestDeletedTopicsObjectsGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, nil)
		s.upload("C/00/0/a.seg", 1, 0)
		_, err := s.Propose(t.Context(), &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{
			Name: "t", Uuid: []byte("uuid-of-topic-01"),
		}}})
		require.NoError(t, err)
		pass(2 * time.Minute)
		require.Equal(t, 1, s.View().NumDroppedObjects())
		require.Len(t, s.names(), 1)
		pass(hour)
		require.Empty(t, s.names())
	})
}

// TestObjectStoreAway: what could not be deleted is deleted later, and a name is not forgotten before.
func TestObjectStoreAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, nil)
		s.trim(1, 10)
		s.putSegment("C/00/0/orphan.seg", 1, 0)
		pass(90 * time.Minute)
		require.Equal(t, 1, s.View().NumDroppedObjects())
		require.Len(t, s.names(), 1)
		s.broken.Store(true)
		pass(9 * 24 * hour)
		require.Equal(t, 1, s.View().NumDroppedObjects())
		require.Len(t, s.names(), 1)
		pass(2 * time.Minute)
		require.Empty(t, s.names())
		require.Zero(t, s.View().NumDroppedObjects())
	})
}

// TestRefusedObjects: objects that the store refuses keep no other one from being condemned and deleted.
func TestRefusedObjects(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, nil)
		s.bucket.Before = func(_ context.Context, op, name string) error {
			if op == "GET" && name == "C/00/0/archived.seg" || op == "DELETE" && name == "C/00/0/held.seg" {
				return fmt.Errorf("%w: InvalidObjectState", object.ErrDenied)
			}
			return nil
		}
		s.trim(1, 10)
		for _, name := range []string{"archived", "held", "old", "orphan"} {
			s.putSegment("C/00/0/"+name+".seg", 1, 0)
		}
		pass(4 * hour)
		require.Equal(t, []string{"C/00/0/archived.seg", "C/00/0/held.seg"}, s.names())
	})
}

// janitor-races-commit: an upload that was
// paused for long can't list its object once it is condemned.
func TestJanitorRacesCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, nil)
		s.trim(1, 10)
		s.putSegment("C/00/0/late.seg", 1, 0)
		pass(90 * time.Minute)
		require.Len(t, s.names(), 1)
		_, err := s.Propose(t.Context(), &metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
			Object: "C/00/0/late.seg", ObjectBytes: 10, Segments: []*metav1.SegmentEntry{{PartitionId: 1, EndOffset: 10, SizeBytes: 10}},
		}}})
		require.ErrorContains(t, err, "condemned")
		pass(2 * hour)
		require.Empty(t, s.names())
		p, _ := s.View().Partition(1)
		require.Empty(t, p.Segments)
	})
}

func TestPlanRetentionIsBounded(t *testing.T) {
	s := newSim(t, 1)
	s.apply(&metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "t", Uuid: []byte("uuid-of-topic-01"), Partitions: 5,
	}}})
	for id := range uint64(5) {
		s.apply(&metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
			Object: "o", ObjectBytes: 100, Segments: []*metav1.SegmentEntry{{PartitionId: id + 1, EndOffset: 10, SizeBytes: 10, MaxTimestampMs: 1}},
		}}})
	}
	week := int64(7 * 24 * hour / time.Millisecond)
	ids := func(nowMs int64, after uint64, limit int) (ids []uint64) {
		for _, trim := range planRetention(s.view(), nowMs, after, limit) {
			ids = append(ids, trim.GetPartitionId())
		}
		return ids
	}
	require.Empty(t, ids(week, 0, 10))
	require.Empty(t, ids(-1<<63, 0, 10))
	require.Equal(t, []uint64{1, 2, 3, 4, 5}, ids(week+2, 0, 10))
	require.Equal(t, []uint64{1, 2, 3}, ids(week+2, 0, 3))
	require.Equal(t, []uint64{4, 5, 1}, ids(week+2, 3, 3), "each has its turn")
	require.Equal(t, []uint64{1, 2}, ids(week+2, 5, 2))
}

package scrub

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeReplica reads so many bytes and then says err. Its log has entries from first on.
type fakeReplica struct {
	bytes   int64
	err     error
	leads   bool
	id      string
	servers []replica.Server
	first   uint64
	entries []string
}

func (r *fakeReplica) IsLeader() bool { return r.leads }
func (r *fakeReplica) Scrub(ctx context.Context, wait func(context.Context, int64) error) error {
	return errors.Join(wait(ctx, r.bytes), r.err)
}

func (r *fakeReplica) FirstIndex() uint64 { return r.first }
func (r *fakeReplica) Status() replica.Status {
	return replica.Status{ReplicaID: r.id, Servers: r.servers, AppliedIndex: r.first + uint64(len(r.entries)) - 1}
}

func (r *fakeReplica) Digest(_ context.Context, first, last uint64, maxBytes int64) (replica.Digest, error) {
	d := replica.Digest{First: first}
	sum := sha256.New()
	for d.Last = first; ; d.Last++ {
		if d.Last < r.first || d.Last-r.first >= uint64(len(r.entries)) {
			return replica.Digest{}, raft.ErrLogNotFound
		}
		n, _ := sum.Write([]byte(r.entries[d.Last-r.first]))
		if d.Bytes += int64(n); d.Bytes >= maxBytes || d.Last == last {
			sum.Sum(d.Sum[:0])
			return d, nil
		}
	}
}

type fakeMetadata struct{ state *fsm.State }

func (m fakeMetadata) View() *fsm.View             { return m.state.View() }
func (fakeMetadata) Barrier(context.Context) error { return nil }

const objectName = "C/00/0/a.seg"

// stored is a topic with one partition, whose ten records are in an object.
func stored(t *testing.T) (fakeMetadata, *object.Memory, []byte) {
	t.Helper()
	m := fakeMetadata{fsm.New()}
	index := uint64(0)
	apply := func(cmd *metav1.Command) {
		index++
		res, err := m.state.Apply(index, cmd)
		require.NoError(t, err)
		require.Nil(t, res.GetRejection())
	}
	apply(&metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{ClusterId: "C", ClusterName: "c", Shards: 1}}})
	apply(&metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "t", Uuid: []byte("uuid-of-topic-01"), Partitions: 1,
	}}})
	b := record.NewBuilder(record.BuilderConfig{ProducerID: -1})
	for range 10 {
		b.Append(record.Record{Value: []byte("value")})
	}
	batch, err := b.Build()
	require.NoError(t, err)
	w := segment.NewWriter(segment.Source{ClusterID: "C", NodeID: "n1"})
	w.Begin(segment.Partition{ID: 1, Topic: "t", TopicUUID: [16]byte([]byte("uuid-of-topic-01"))})
	w.Append(batch, 0)
	o, err := w.Finish()
	require.NoError(t, err)
	var data bytes.Buffer
	_, err = data.ReadFrom(o.Body())
	require.NoError(t, err)
	bucket := object.NewMemory()
	require.NoError(t, bucket.Put(t.Context(), objectName, bytes.NewReader(data.Bytes()), o.SizeBytes))
	apply(&metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: objectName, ObjectBytes: uint64(o.SizeBytes), Segments: o.Segments,
	}}})
	return m, bucket, data.Bytes()
}

func newScrubber(t *testing.T, m fakeMetadata, b Bucket, repair func(Local) error, replicas ...Local) *Scrubber {
	t.Helper()
	s, err := New(Config{
		Metadata: m, Bucket: b, Peers: fakePeers{}, Replicas: func() []Local { return replicas }, BytesPerSecond: 1 << 20, Interval: time.Hour,
		Repair:  func(_ context.Context, r Local, _ error) error { return repair(r) },
		Rewrite: func(context.Context, uint32, string, []*metav1.SegmentEntry) (int, error) { return 0, errLogIsCut },
	})
	require.NoError(t, err)
	return s
}

// errLogIsCut is why no log has an object.
var errLogIsCut = errors.New("the log begins later")

// TestDamagedObjects: whatever happens to an object of a led shard is found, and a store that is away is no damage.
func TestDamagedObjects(t *testing.T) {
	leader := Local{Replica: &fakeReplica{leads: true}}
	for name, tc := range map[string]struct {
		damage func(data []byte) []byte
		down   bool
		led    bool
		want   float64
	}{
		"whole":              {func(b []byte) []byte { return b }, false, true, 0},
		"flipped bit":        {func(b []byte) []byte { b[len(b)/3] ^= 4; return b }, false, true, 1},
		"cut":                {func(b []byte) []byte { return b[:len(b)-1] }, false, true, 1},
		"gone":               {func([]byte) []byte { return nil }, false, true, 1},
		"store away":         {func([]byte) []byte { return nil }, true, true, 0},
		"of another's shard": {func([]byte) []byte { return nil }, false, false, 0},
	} {
		t.Run(name, func(t *testing.T) {
			m, b, data := stored(t)
			require.NoError(t, b.Delete(t.Context(), objectName))
			if data := tc.damage(bytes.Clone(data)); data != nil {
				require.NoError(t, b.Put(t.Context(), objectName, bytes.NewReader(data), int64(len(data))))
			}
			b.Before = func(context.Context, string, string) error {
				if tc.down {
					return object.ErrUnavailable
				}
				return nil
			}
			s := newScrubber(t, m, b, nil, leader)
			s.objects(t.Context(), map[uint32]bool{0: tc.led})
			require.InDelta(t, tc.want, testutil.ToFloat64(s.metrics.objects), 0)
		})
	}
}

// TestDamagedObjectsAreLookedAtAgain: what was found damaged is told until it is mended or needed no more, also by a node that
// does not lead the shard any more.
func TestDamagedObjectsAreLookedAtAgain(t *testing.T) {
	for name, mend := range map[string]func(t *testing.T, m fakeMetadata, b *object.Memory, data []byte){
		"brought back": func(t *testing.T, _ fakeMetadata, b *object.Memory, data []byte) {
			t.Helper()
			require.NoError(t, b.Put(t.Context(), objectName, bytes.NewReader(data), int64(len(data))))
		},
		"needed no more": func(t *testing.T, m fakeMetadata, _ *object.Memory, _ []byte) {
			t.Helper()
			res, err := m.state.Apply(m.View().Index()+1, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: []byte("uuid-of-topic-01")}}})
			require.NoError(t, err)
			require.Nil(t, res.GetRejection())
		},
	} {
		t.Run(name, func(t *testing.T) {
			m, b, data := stored(t)
			require.NoError(t, b.Delete(t.Context(), objectName))
			leader := &fakeReplica{leads: true}
			s := newScrubber(t, m, b, nil, Local{Replica: leader})
			after := func(look func(context.Context), want float64) {
				t.Helper()
				look(t.Context())
				require.InDelta(t, want, testutil.ToFloat64(s.metrics.objects), 0)
			}
			after(s.round, 1)
			after(s.recheckObjects, 1)
			leader.leads = false
			after(s.round, 1)
			b.Before = func(context.Context, string, string) error { return object.ErrUnavailable }
			after(s.recheckObjects, 1)
			b.Before = nil
			mend(t, m, b, data)
			after(s.round, 1)
			after(s.recheckObjects, 0)
			require.InDelta(t, 1, testutil.ToFloat64(s.metrics.damaged.WithLabelValues("object")), 0)
		})
	}
}

// TestMendedObjectIsSeenSoon: it is told no more within a minute, and not with the next round.
func TestMendedObjectIsSeenSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b, data := stored(t)
		require.NoError(t, b.Delete(t.Context(), objectName))
		s := newScrubber(t, m, b, nil, Local{Replica: &fakeReplica{leads: true}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		<-time.After(time.Hour + time.Second)
		synctest.Wait()
		require.InDelta(t, 1, testutil.ToFloat64(s.metrics.objects), 0)
		require.NoError(t, b.Put(t.Context(), objectName, bytes.NewReader(data), int64(len(data))))
		<-time.After(time.Minute)
		synctest.Wait()
		require.InDelta(t, 0, testutil.ToFloat64(s.metrics.objects), 0)
		cancel()
		require.NoError(t, <-done)
		require.InDelta(t, 1, testutil.ToFloat64(s.metrics.rounds), 0)
	})
}

// TestDamagedObjectsAreBounded: a bucket that was emptied does not fill the memory.
func TestDamagedObjectsAreBounded(t *testing.T) {
	m, b, _ := stored(t)
	s := newScrubber(t, m, b, nil)
	for i := range maxDamagedObjects + 10 {
		s.noteObject(strconv.Itoa(i), true)
	}
	require.Len(t, s.damaged, maxDamagedObjects)
	for range maxDamagedObjects / recheckedObjects {
		s.recheckObjects(t.Context())
	}
	require.Empty(t, s.damaged, "the manifest lists none of them")
}

// TestOtherObjectThanListed: an object that is whole, and not the one that was listed.
func TestOtherObjectThanListed(t *testing.T) {
	m, b, data := stored(t)
	s := newScrubber(t, m, b, nil)
	p, _ := m.View().Partition(1)
	other := p.Segments[0].Ref(1).GetEntry()
	other.EndOffset++
	require.ErrorIs(t, s.object(t.Context(), m.View(), objectName, []*metav1.SegmentEntry{other}), errManifest)
	require.NotEmpty(t, data)
}

// TestDamagedReplica: it is handed to Repair until that succeeds, in every round and between them; another failure is not.
func TestDamagedReplica(t *testing.T) {
	m, b, _ := stored(t)
	r := &fakeReplica{id: "n1/A", err: &logstore.CorruptError{File: "f", Reason: "r"}}
	var repaired int
	refuse := errors.New("the others lag behind")
	local := []Local{{Replica: r}}
	s := newScrubber(t, m, b, func(Local) error { repaired++; return refuse })
	s.cfg.Replicas = func() []Local { return local }
	s.round(t.Context())
	s.round(t.Context())
	require.Equal(t, 2, repaired)
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.damaged.WithLabelValues("log")), 0)
	s.recheck(t.Context())
	require.Equal(t, 3, repaired)
	require.InDelta(t, 2, testutil.ToFloat64(s.metrics.damaged.WithLabelValues("log")), 0, "found it was twice")
	damage := r.err
	r.err = errors.New("closed")
	s.round(t.Context())
	require.Equal(t, 3, repaired)
	r.err = nil // the damaged part was cut
	s.round(t.Context())
	s.recheck(t.Context())
	require.Equal(t, 3, repaired)
	r.err = damage
	s.round(t.Context())
	require.Equal(t, 4, repaired)
	local = []Local{{Replica: &fakeReplica{id: "n1/B"}}}
	s.recheck(t.Context())
	require.Equal(t, 4, repaired)
	require.Empty(t, s.found, "it was rebuilt")
}

// TestPace: no more is read in a second than may be, and a round ends with its context.
func TestPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, b, _ := stored(t)
		s := newScrubber(t, m, b, nil, Local{Replica: &fakeReplica{bytes: 10 << 20}})
		began := time.Now()
		s.round(t.Context())
		require.GreaterOrEqual(t, time.Since(began), 10*time.Second)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		<-time.After(time.Hour - 5*time.Second) // and ten seconds since it was made
		cancel()
		require.NoError(t, <-done)
		require.InDelta(t, 1, testutil.ToFloat64(s.metrics.rounds), 0, "the second one was cut short")
	})
}

func TestConfigIsChecked(t *testing.T) {
	_, err := New(Config{})
	require.Error(t, err)
	m, b, _ := stored(t)
	cfg := Config{Metadata: m, Bucket: b, Peers: fakePeers{}, Replicas: func() []Local { return nil }, Repair: func(context.Context, Local, error) error { return nil }}
	cfg.Rewrite = func(context.Context, uint32, string, []*metav1.SegmentEntry) (int, error) { return 0, nil }
	_, err = New(cfg)
	require.ErrorContains(t, err, "Interval")
	cfg.Interval, cfg.BytesPerSecond = time.Hour, -1
	_, err = New(cfg)
	require.ErrorContains(t, err, "BytesPerSecond")
}

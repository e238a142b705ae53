package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var theCluster = Cluster{ID: "C", Name: "streamhouse", Shards: 2, CreatedMs: 1, ObjectStore: "s3://b"}

// fakeMetadata is a metadata group of one node.
type fakeMetadata struct {
	t     *testing.T
	state *fsm.State
	index uint64
	leads atomic.Bool
	view  atomic.Pointer[fsm.View]
}

func (m *fakeMetadata) View() *fsm.View { return m.view.Load() }
func (m *fakeMetadata) IsLeader() bool  { return m.leads.Load() }

func (m *fakeMetadata) apply(cmd *metav1.Command) {
	m.t.Helper()
	m.index++
	res, err := m.state.Apply(m.index, cmd)
	require.NoError(m.t, err)
	require.Nil(m.t, res.GetRejection())
	m.view.Store(m.state.View())
}

func (m *fakeMetadata) create(name string) {
	m.t.Helper()
	m.apply(&metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: name, Uuid: fmt.Appendf(nil, "%-16s", name), Partitions: 1, Config: map[string]string{"retention.ms": "-1"},
	}}})
}

func newFakeMetadata(t *testing.T) *fakeMetadata {
	t.Helper()
	m := &fakeMetadata{t: t, state: fsm.New()}
	m.view.Store(m.state.View())
	m.leads.Store(true)
	m.apply(&metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
		ClusterId: "C", ClusterName: "streamhouse", Shards: 2, ObjectStore: "s3://b", TimeMs: 1,
	}}})
	return m
}

// orders returns the topic orders, and its partition.
func (m *fakeMetadata) orders() (*fsm.Topic, *fsm.Partition) {
	m.t.Helper()
	tp, ok := m.View().Topic("orders")
	require.True(m.t, ok)
	p, ok := m.View().Partition(tp.PartitionIDs[0])
	require.True(m.t, ok)
	return tp, p
}

// objects returns the names of the objects with the records of orders.
func (m *fakeMetadata) objects() []string {
	m.t.Helper()
	_, p := m.orders()
	var all []string
	for i := range p.Segments {
		all = append(all, p.Segments[i].Object)
	}
	return all
}

// build makes a real object of records of orders.
func (m *fakeMetadata) build(base int64, records int) (string, *segment.Object) {
	m.t.Helper()
	tp, p := m.orders()
	builder := record.NewBuilder(record.BuilderConfig{ProducerID: -1})
	for i := range records {
		builder.Append(record.Record{TimestampMs: int64(i), Value: []byte("v")})
	}
	batch, err := builder.Build()
	require.NoError(m.t, err)
	w := segment.NewWriter(segment.Source{ClusterID: "C", NodeID: "n1", Shard: p.Shard, CreatedMs: 5, RecoveryID: m.View().RecoveryID()})
	w.Begin(segment.Partition{ID: p.ID, Topic: "orders", TopicUUID: tp.UUID})
	w.Append(batch, base)
	o, err := w.Finish()
	require.NoError(m.t, err)
	return segment.Name("C", p.Shard, ulid.Make()), o
}

// upload puts an object of records of orders, and lists it.
func (m *fakeMetadata) upload(b object.Bucket, base int64, records int) string {
	m.t.Helper()
	_, p := m.orders()
	name, o := m.build(base, records)
	require.NoError(m.t, b.Put(m.t.Context(), name, o.Body(), o.SizeBytes))
	m.apply(&metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: name, ObjectBytes: uint64(o.SizeBytes), Shard: p.Shard, Segments: o.Segments,
	}}})
	return name
}

func (m *fakeMetadata) checkpoint(b Bucket) {
	m.t.Helper()
	c, err := NewCheckpointer(Config{Metadata: m, Bucket: b, Grace: time.Hour})
	require.NoError(m.t, err)
	require.NoError(m.t, c.write(m.t.Context()))
}

func plan(t *testing.T, b Bucket) *Plan {
	t.Helper()
	p, err := NewPlan(t.Context(), b, theCluster)
	require.NoError(t, err)
	return p
}

func names(t *testing.T, b object.Lister, part string) []string {
	t.Helper()
	var all []string
	require.NoError(t, object.All(t.Context(), b, "", func(a object.Attributes) error {
		if strings.Contains(a.Name, part) {
			all = append(all, a.Name)
		}
		return nil
	}))
	return all
}

// TestRecovery goes from a cluster to the node that begins it again.
func TestRecovery(t *testing.T) {
	b := object.NewMemory()
	m := newFakeMetadata(t)
	m.create("orders")
	m.upload(b, 0, 5)
	m.checkpoint(b)
	m.upload(b, 5, 3)
	p := plan(t, b)
	require.Equal(t, int64(8), p.Report.Records())
	require.NotEmpty(t, p.Checkpoint)
	require.Empty(t, names(t, b, "/recovery/"), "a plan writes nothing")
	v, _, err := Take(t.Context(), b, "C", Claim{NodeID: "n1", Incarnation: "i1"})
	require.NoError(t, err)
	require.Nil(t, v, "nothing is prepared")

	require.NoError(t, p.Execute(t.Context(), b))
	require.NoError(t, plan(t, b).Execute(t.Context(), b), "it may be repeated")
	require.NoError(t, Superseded(t.Context(), b, "C", ""), "nobody has begun yet")
	v, _, err = Take(t.Context(), b, "C", Claim{NodeID: "n1", Incarnation: "i1", RaftAddr: "127.0.0.1:1"})
	require.NoError(t, err)
	require.Equal(t, 1, v.NumTopics())
	again, _, err := Take(t.Context(), b, "C", Claim{NodeID: "n1", Incarnation: "i1"})
	require.NoError(t, err, "after a crash")
	require.Equal(t, v.RecoveryID(), again.RecoveryID())
	_, by, err := Take(t.Context(), b, "C", Claim{NodeID: "n2", Incarnation: "i2"})
	require.ErrorIs(t, err, ErrClaimed)
	require.Equal(t, "i1", by.Incarnation)

	require.ErrorIs(t, Superseded(t.Context(), b, "C", ""), ErrSuperseded)
	require.NoError(t, Superseded(t.Context(), b, "C", v.RecoveryID()))
	c, err := NewCheckpointer(Config{Metadata: m, Bucket: b})
	require.NoError(t, err)
	require.ErrorIs(t, c.write(t.Context()), ErrSuperseded, "a leader of the life before writes no more")
	second := plan(t, b)
	require.Equal(t, recoveryName("C", v.RecoveryID()), second.Checkpoint)
	require.Equal(t, int64(8), second.Report.Records())
	require.Equal(t, "127.0.0.1:1", second.others["n1"])
}

// begun is the metadata group of the life that a recovery begins.
func begun(t *testing.T, b Bucket, node string) *fakeMetadata {
	t.Helper()
	v, _, err := Take(t.Context(), b, "C", Claim{NodeID: node, Incarnation: node})
	require.NoError(t, err)
	require.NotNil(t, v)
	var snapshot bytes.Buffer
	require.NoError(t, fsm.WriteSnapshot(v, &snapshot))
	m := &fakeMetadata{t: t, state: fsm.New(), index: v.Index()}
	require.NoError(t, m.state.Restore(&snapshot))
	m.view.Store(m.state.View())
	m.leads.Store(true)
	return m
}

// TestLatePut: the PUT of an uploader that is dead reaches the bucket when the recovery was begun with already. Its offsets
// are given to other records by then, which were acknowledged: nothing of it becomes history, whatever is lost next.
func TestLatePut(t *testing.T) {
	b := object.NewMemory()
	held, arrive := make(chan struct{}), make(chan struct{})
	var holds atomic.Bool
	b.Before = func(_ context.Context, op, _ string) error {
		if op == "PUT" && holds.CompareAndSwap(true, false) {
			close(held)
			<-arrive
		}
		return nil
	}
	dead := newFakeMetadata(t)
	dead.create("orders")
	listed := []string{dead.upload(b, 0, 5)}
	dead.checkpoint(b)
	name, o := dead.build(5, 10)
	late := make(chan error, 1)
	holds.Store(true)
	go func() { late <- b.Put(t.Context(), name, o.Body(), o.SizeBytes) }()
	<-held

	p := plan(t, b)
	require.Equal(t, int64(5), p.Report.Records())
	require.NoError(t, p.Execute(t.Context(), b))
	m := begun(t, b, "n1")
	listed = append(listed, m.upload(b, 5, 3))
	close(arrive)
	require.NoError(t, <-late)
	listed = append(listed, m.upload(b, 8, 2))
	var checkpoint bytes.Buffer // late, too
	require.NoError(t, fsm.WriteSnapshot(dead.View(), &checkpoint))
	require.NoError(t, put(t.Context(), b, newPosition("", 1<<40).name(metadataPrefix("C")), checkpoint.Bytes()))

	// Once more everything is lost, before there is a checkpoint of this life, and once more after one.
	for life := range 2 {
		p = plan(t, b)
		require.Equal(t, int64(10), p.Report.Records())
		require.Zero(t, p.Report.LostRecords())
		require.Len(t, p.Report.Skipped, 1)
		require.Equal(t, name, p.Report.Skipped[0].Name)
		require.NoError(t, p.Execute(t.Context(), b))
		m = begun(t, b, fmt.Sprintf("of life %d", life))
		require.Equal(t, listed, m.objects())
		require.False(t, m.View().ObjectKnown(name), "nobody condemns it")
		m.checkpoint(b)
	}
}

// TestStaleRecovery: the old cluster came back before anybody began with what was prepared.
func TestStaleRecovery(t *testing.T) {
	b := object.NewMemory()
	m := newFakeMetadata(t)
	m.create("orders")
	m.checkpoint(b)
	require.NoError(t, plan(t, b).Execute(t.Context(), b))
	m.create("more")
	m.checkpoint(b)
	_, _, err := Take(t.Context(), b, "C", Claim{NodeID: "n1", Incarnation: "i1"})
	require.ErrorIs(t, err, ErrStale)
	require.NoError(t, plan(t, b).Execute(t.Context(), b))
	v, _, err := Take(t.Context(), b, "C", Claim{NodeID: "n1", Incarnation: "i1"})
	require.NoError(t, err)
	require.Equal(t, 2, v.NumTopics())
}

// TestClaimWithLostAnswer: whoever the object says has it.
func TestClaimWithLostAnswer(t *testing.T) {
	b := object.NewMemory()
	m := newFakeMetadata(t)
	m.checkpoint(b)
	require.NoError(t, plan(t, b).Execute(t.Context(), b))
	b.After = func(_ context.Context, op, name string) error {
		if op == "PUT" && strings.HasSuffix(name, claimSuffix) {
			return errors.New("connection reset")
		}
		return nil
	}
	v, _, err := Take(t.Context(), b, "C", Claim{NodeID: "n1", Incarnation: "i1"})
	require.NoError(t, err)
	require.NotNil(t, v)
}

// TestDamagedCheckpoint: the one before it is taken, and it is said.
func TestDamagedCheckpoint(t *testing.T) {
	b := object.NewMemory()
	m := newFakeMetadata(t)
	m.create("orders")
	m.checkpoint(b)
	whole := names(t, b, "/metadata/")[0]
	data, err := get(t.Context(), b, whole, maxMetaBytes)
	require.NoError(t, err)
	for i, bad := range [][]byte{data[:len(data)/2], append([]byte("SHMETAD\x09"), data[8:]...), nil} {
		require.NoError(t, put(t.Context(), b, newPosition("", uint64(100+i)).name(metadataPrefix("C")), bad))
	}
	p := plan(t, b)
	require.Equal(t, whole, p.Checkpoint)
	require.Len(t, p.Damaged, 3)
	require.Equal(t, 1, p.View.NumTopics())
	require.NoError(t, p.Execute(t.Context(), b))
	_, _, err = Take(t.Context(), b, "C", Claim{NodeID: "n1", Incarnation: "i1"})
	require.NoError(t, err)
}

// TestPlanFailsWithoutAnswer: what can't be read now is not taken for lost.
func TestPlanFailsWithoutAnswer(t *testing.T) {
	b := object.NewMemory()
	m := newFakeMetadata(t)
	m.create("orders")
	m.upload(b, 0, 5)
	m.checkpoint(b)
	newer := m.upload(b, 5, 5)
	for _, broken := range []string{"/metadata/", "/recovery/", newer} {
		b.Before = func(_ context.Context, _, name string) error {
			if strings.Contains(name, broken) {
				return object.ErrUnavailable
			}
			return nil
		}
		_, err := NewPlan(t.Context(), b, theCluster)
		require.ErrorIs(t, err, object.ErrUnavailable, broken)
	}
	b.Before = nil
	cut, err := get(t.Context(), b, newer, maxMetaBytes)
	require.NoError(t, err)
	require.NoError(t, b.Delete(t.Context(), newer))
	require.NoError(t, put(t.Context(), b, newer, cut[:len(cut)-9]))
	p := plan(t, b)
	require.Len(t, p.Report.Skipped, 1)
	require.Equal(t, int64(5), p.Report.Records())
}

// TestQuiet: somebody who writes while a recovery is prepared lives.
func TestQuiet(t *testing.T) {
	b := object.NewMemory()
	m := newFakeMetadata(t)
	m.create("orders")
	m.checkpoint(b)
	p := plan(t, b)
	require.NoError(t, p.CheckGone(t.Context()))
	require.NoError(t, p.CheckQuiet(t.Context(), b))
	m.upload(b, 0, 5)
	require.ErrorIs(t, p.CheckQuiet(t.Context(), b), ErrAlive)
	p = plan(t, b)
	m.checkpoint(b)
	require.ErrorIs(t, p.CheckQuiet(t.Context(), b), ErrAlive)
}

// TestCheckpointer: changes of topics are written at once, uploads now and then, and old checkpoints go.
func TestCheckpointer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := object.NewMemory()
		m := newFakeMetadata(t)
		var down atomic.Bool
		b.Before = func(context.Context, string, string) error {
			if down.Load() {
				return object.ErrUnavailable
			}
			return nil
		}
		c, err := NewCheckpointer(Config{Metadata: m, Bucket: b, Grace: time.Hour})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- c.Run(ctx) }()
		pass := func(d time.Duration) {
			<-time.After(d)
			synctest.Wait()
		}
		count := func() int { return len(names(t, b, "/metadata/")) }
		pass(1500 * time.Millisecond)
		require.Equal(t, 1, count())
		m.create("orders")
		pass(time.Second)
		require.Equal(t, 2, count())
		m.upload(b, 0, 5)
		pass(50 * time.Second)
		require.Equal(t, 2, count(), "objects say it too")
		pass(20 * time.Second)
		require.Equal(t, 3, count())
		pass(time.Hour)
		require.Equal(t, 3, count(), "nothing has changed")
		down.Store(true)
		m.create("more")
		pass(10 * time.Second)
		require.Positive(t, c.pendingSeconds())
		down.Store(false)
		pass(2 * time.Minute)
		require.Zero(t, c.pendingSeconds())
		require.Equal(t, 3, count(), "three stay, older ones than the grace period go")
		m.leads.Store(false)
		m.create("foreign")
		pass(time.Minute)
		require.Equal(t, 3, count())
		cancel()
		require.NoError(t, <-done)
	})
}

func TestNames(t *testing.T) {
	p := newPosition("", 12)
	prefix := metadataPrefix("C")
	got, ok := parsePosition(prefix, p.name(prefix))
	require.True(t, ok)
	require.Equal(t, p, got)
	for _, bad := range []string{
		"", prefix, prefix + "x.meta", strings.ToLower(p.name(prefix)), p.name("D/metadata/"), p.name(prefix) + "x",
		prefix + firstLife + "-12-" + p.id + metaSuffix,
	} {
		_, ok := parsePosition(prefix, bad)
		require.False(t, ok, bad)
	}
	newer := newPosition(ulid.Make().String(), 1)
	require.Negative(t, p.compare(newer), "a later life counts more than a larger index")
}

// TestRecoveryIDIsTheNewest: whatever the clocks of those who wrote say.
func TestRecoveryIDIsTheNewest(t *testing.T) {
	now := time.Now()
	ahead := ulid.MustNew(ulid.Timestamp(now.Add(time.Hour)), ulid.DefaultEntropy()).String()
	require.Greater(t, nextID(now, listing{newestObject: ahead}, nil, lives{}).String(), ahead)
	require.Greater(t, nextID(now, listing{}, []stored{{position: position{id: ahead}}}, lives{}).String(), ahead)
	require.Greater(t, nextID(now, listing{}, nil, lives{pending: ahead}).String(), ahead)
}

func FuzzParsePosition(f *testing.F) {
	f.Add(newPosition("", 12).name("C/metadata/"))
	f.Fuzz(func(t *testing.T, name string) {
		if p, ok := parsePosition("C/metadata/", name); ok {
			require.Equal(t, name, p.name("C/metadata/"))
		}
	})
}

func FuzzParseClaim(f *testing.F) {
	f.Add([]byte(`{"node_id":"n1","incarnation":"i1","raft_addr":"a:1"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := parseClaim(data); err == nil {
			require.NotEmpty(t, c.NodeID)
			require.NotEmpty(t, c.Incarnation)
		}
	})
}

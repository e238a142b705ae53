package fsm

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// recoveredMs is before the first recovery: the beginning of 2026.
const recoveredMs = 1767225600000

// past is a cluster whose objects outlive it.
type past struct {
	t       *testing.T
	state   *State
	index   uint64
	objects []FoundObject
	life    string // in which objects are written

	recoveries int64 // how many there were
}

func newPast(t *testing.T) *past {
	t.Helper()
	p := &past{t: t, state: New()}
	p.apply(&metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
		ClusterId: "C", ClusterName: "streamhouse", Shards: 3, ObjectStore: "s3://b", TimeMs: 1,
	}}})
	return p
}

func (p *past) apply(cmd *metav1.Command) *metav1.Result {
	p.t.Helper()
	p.index++
	res, err := p.state.Apply(p.index, cmd)
	require.NoError(p.t, err)
	require.Nil(p.t, res.GetRejection(), res.GetRejection().GetMessage())
	return res
}

func uuidNamed(name string) []byte { return fmt.Appendf(nil, "%-16.16s", name) }

func (p *past) create(name, uuid string, partitions uint32) {
	p.t.Helper()
	p.apply(&metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: name, Uuid: uuidNamed(uuid), Partitions: partitions, Config: map[string]string{ConfigRetentionMs: "-1"}, TimeMs: 5,
	}}})
}

func (p *past) delete(name, uuid string) {
	p.t.Helper()
	p.apply(&metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: name, Uuid: uuidNamed(uuid)}}})
	for shard := range p.state.View().NumShards() {
		p.apply(&metav1.Command{Command: &metav1.Command_PurgeTopic{PurgeTopic: &metav1.PurgeTopic{Uuid: uuidNamed(uuid), Shard: shard}}})
	}
}

// put writes an object with one segment and does not list it.
func (p *past) put(name, topic string, number int, base, end int64) (*metav1.SegmentEntry, uint32) {
	p.t.Helper()
	t, ok := p.state.View().Topic(topic)
	require.True(p.t, ok)
	part, ok := p.state.View().Partition(t.PartitionIDs[number])
	require.True(p.t, ok)
	e := &metav1.SegmentEntry{
		PartitionId: part.ID, BaseOffset: base, EndOffset: end, Position: 8, SizeBytes: 50, IndexPosition: 58, IndexBytes: 20, MaxTimestampMs: end,
	}
	p.objects = append(p.objects, FoundObject{Name: name, SizeBytes: 100, RecoveryID: p.life, Footer: &metav1.ObjectFooter{
		Version: 1, ClusterId: "C", Shard: part.Shard, CreatedMs: end, Segments: []*metav1.FooterSegment{{
			Entry: e, Topic: topic, TopicUuid: t.UUID[:], Partition: uint32(number), Records: end - base,
		}},
	}})
	return e, part.Shard
}

// upload writes an object and lists it.
func (p *past) upload(name, topic string, number int, base, end int64) {
	p.t.Helper()
	e, shard := p.put(name, topic, number, base, end)
	p.apply(&metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: name, ObjectBytes: 100, Shard: shard, Segments: []*metav1.SegmentEntry{e},
	}}})
}

func (p *past) lose(name string) {
	p.objects = slices.DeleteFunc(p.objects, func(o FoundObject) bool { return o.Name == name })
}

// recovered recovers from a checkpoint, nil for none, and what the store has.
func (p *past) recovered(base *View) (*View, *RecoveryReport) {
	p.t.Helper()
	p.recoveries++
	r := &Recovery{ID: "R1", TimeMs: recoveredMs + p.recoveries, Base: base, ClusterID: "C", ClusterName: "streamhouse", Shards: 3, CreatedMs: 1, ObjectStore: "s3://b", Objects: p.objects}
	if base != nil {
		r.BaseName = "checkpoint"
	}
	v, report, err := Recover(r)
	require.NoError(p.t, err)
	var b bytes.Buffer
	require.NoError(p.t, WriteSnapshot(v, &b))
	again := New()
	require.NoError(p.t, again.Restore(&b), "it can be written and read")
	require.Equal(p.t, dump(v), dump(again.View()))
	require.Equal(p.t, v.RecoveryID(), again.View().RecoveryID())
	require.Equal(p.t, v.RecoveredFrom(), again.View().RecoveredFrom())
	require.Equal(p.t, v.FirstProducerID(), again.View().FirstProducerID())
	return v, report
}

func partitionOf(t *testing.T, v *View, topic string, number int) *Partition {
	t.Helper()
	tp, ok := v.Topic(topic)
	require.True(t, ok, topic)
	p, ok := v.Partition(tp.PartitionIDs[number])
	require.True(t, ok)
	return p
}

// TestRecoverKeepsTheCheckpoint: what the checkpoint has comes back as it was, but for nodes and replicas.
func TestRecoverKeepsTheCheckpoint(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 4)
	p.create("empty", "u2", 2)
	p.upload("C/00/1/a.seg", "orders", 0, 0, 10)
	p.upload("C/00/1/b.seg", "orders", 0, 10, 30)
	p.apply(&metav1.Command{Command: &metav1.Command_AllocateProducerIds{AllocateProducerIds: &metav1.AllocateProducerIDs{Count: 1000}}})
	p.apply(&metav1.Command{Command: &metav1.Command_DropObjects{DropObjects: &metav1.DropObjects{Objects: []string{"C/00/1/x.seg"}, TimeMs: 9}}})
	base := p.state.View()
	v, report := p.recovered(base)
	for before := range base.Topics() {
		after, ok := v.Topic(before.Name)
		require.True(t, ok)
		require.Equal(t, before, after)
		for _, id := range before.PartitionIDs {
			want, _ := base.Partition(id)
			got, _ := v.Partition(id)
			require.Equal(t, want, got)
		}
	}
	require.Equal(t, base.ClusterID(), v.ClusterID())
	require.Empty(t, v.Nodes())
	require.Empty(t, v.Shards())
	require.Equal(t, base.NumShards(), v.NumShards())
	require.Equal(t, uint32(FeatureLevelRecovery), v.FeatureLevel())
	require.Greater(t, v.NextProducerID(), base.NextProducerID(), "none is given out twice")
	require.Zero(t, base.FirstProducerID())
	require.Equal(t, v.NextProducerID(), v.FirstProducerID())
	require.True(t, v.ObjectKnown("C/00/1/x.seg"), "a condemned name stays refused")
	require.Equal(t, int64(30), report.Records())
	require.Zero(t, report.LostRecords())
	require.Equal(t, "checkpoint", v.RecoveredFrom())
}

// TestRecoverNewerThanTheCheckpoint: objects say what the checkpoint is too old for.
func TestRecoverNewerThanTheCheckpoint(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 1)
	p.upload("C/00/1/a.seg", "orders", 0, 0, 10)
	base := p.state.View()
	p.upload("C/00/1/b.seg", "orders", 0, 10, 15)
	p.put("C/00/1/unlisted.seg", "orders", 0, 15, 18) // its node died between the upload and the commit
	p.create("late", "u2", 3)
	p.upload("C/00/1/c.seg", "late", 1, 0, 7)
	p.apply(&metav1.Command{Command: &metav1.Command_AlterTopic{AlterTopic: &metav1.AlterTopic{Name: "orders", Partitions: 2}}})
	p.upload("C/00/1/d.seg", "orders", 1, 0, 3)
	v, report := p.recovered(base)
	require.Equal(t, int64(18), partitionOf(t, v, "orders", 0).UploadedEnd)
	require.Equal(t, int64(3), partitionOf(t, v, "orders", 1).UploadedEnd)
	late, _ := v.Topic("late")
	require.Equal(t, uuidNamed("u2"), late.UUID[:])
	require.Len(t, late.PartitionIDs, 2, "nothing says that there was a third one")
	require.Equal(t, int64(7), partitionOf(t, v, "late", 1).UploadedEnd)
	before := partitionOf(t, p.state.View(), "late", 1)
	require.Equal(t, before.ID, partitionOf(t, v, "late", 1).ID)
	require.Equal(t, before.Shard, partitionOf(t, v, "late", 1).Shard)
	require.Greater(t, partitionOf(t, v, "late", 0).ID, p.state.View().nextPartition, "an id that was never given out")
	require.True(t, report.Topics[0].ConfigUnknown)
	require.False(t, report.Topics[1].ConfigUnknown)
	require.Equal(t, int64(18+3+7), report.Records())
}

// TestRecoverTakesWhatWasWrittenAnew: an object that was written in place of a damaged one counts, also where the checkpoint is
// older than that.
func TestRecoverTakesWhatWasWrittenAnew(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 1)
	p.upload("C/00/1/b.seg", "orders", 0, 0, 10)
	p.upload("C/00/1/c.seg", "orders", 0, 10, 20)
	base := p.state.View()
	p.put("C/00/1/a.seg", "orders", 0, 10, 20) // an older upload, which was not listed
	p.put("C/00/1/d.seg", "orders", 0, 0, 10)
	p.put("C/00/1/e.seg", "orders", 0, 0, 5)
	v, report := p.recovered(base)
	var objects []string
	for _, s := range partitionOf(t, v, "orders", 0).Segments {
		objects = append(objects, s.Object)
	}
	require.Equal(t, []string{"C/00/1/d.seg", "C/00/1/c.seg"}, objects)
	require.Equal(t, int64(20), report.Records())
	require.False(t, v.ObjectKnown("C/00/1/b.seg"))
	require.Equal(t, "C/00/1/b.seg", partitionOf(t, base, "orders", 0).Segments[0].Object, "the checkpoint is as it was")
}

// TestRecoverDeletedTopicStaysDeleted: ids tell a deletion from a checkpoint that is too old.
func TestRecoverDeletedTopicStaysDeleted(t *testing.T) {
	p := newPast(t)
	p.create("gone", "u1", 1)
	p.upload("C/00/1/a.seg", "gone", 0, 0, 10)
	p.put("C/00/1/late.seg", "gone", 0, 10, 20)
	p.create("orders", "u2", 1)
	p.delete("gone", "u1")
	base := p.state.View()
	require.Empty(t, base.DeletedTopics(), "no tombstone is left")
	v, report := p.recovered(base)
	_, risen := v.Topic("gone")
	require.False(t, risen)
	require.Equal(t, 1, report.DeletedSegments)
	require.True(t, v.ObjectKnown("C/00/1/a.seg"), "the janitor removes it")
}

// TestRecoverTopicMadeAnew: a newer topic has the name, so the older one was deleted.
func TestRecoverTopicMadeAnew(t *testing.T) {
	for _, withBase := range []bool{true, false} {
		p := newPast(t)
		p.create("orders", "u1", 1)
		p.upload("C/00/1/a.seg", "orders", 0, 0, 10)
		var base *View
		if withBase {
			base = p.state.View()
		}
		p.delete("orders", "u1")
		p.create("orders", "u2", 1)
		p.upload("C/00/1/b.seg", "orders", 0, 0, 4)
		v, report := p.recovered(base)
		got, _ := v.Topic("orders")
		require.Equal(t, uuidNamed("u2"), got.UUID[:])
		require.Equal(t, int64(4), report.Records())
		require.Equal(t, []string{"orders"}, report.Replaced)
		require.False(t, v.ObjectKnown("C/00/1/a.seg"), "and nobody deletes what it had")
	}
}

// TestRecoverWithoutCheckpoint: the objects alone give topics, offsets and ids.
func TestRecoverWithoutCheckpoint(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 3)
	p.upload("C/00/1/a.seg", "orders", 2, 0, 10)
	p.upload("C/00/1/b.seg", "orders", 0, 0, 5)
	p.upload("C/00/1/c.seg", "orders", 0, 5, 6)
	p.objects = slices.DeleteFunc(p.objects, func(o FoundObject) bool { return o.Name == "C/00/1/b.seg" })
	v, report := p.recovered(nil)
	require.Equal(t, int64(10), partitionOf(t, v, "orders", 2).UploadedEnd)
	first := partitionOf(t, v, "orders", 0)
	require.Equal(t, int64(5), first.LogStart, "what was before it, retention may have removed")
	require.Equal(t, int64(6), first.UploadedEnd)
	require.Equal(t, int64(recoveredMs+1)*idsPerMs, v.NextProducerID())
	require.True(t, report.Topics[0].ConfigUnknown)
}

// TestRecoverGaps: what is missing is said, and the rest comes back where it was.
func TestRecoverGaps(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 1)
	p.upload("C/00/1/a.seg", "orders", 0, 0, 10)
	p.upload("C/00/1/b.seg", "orders", 0, 10, 20)
	base := p.state.View()
	p.upload("C/00/1/c.seg", "orders", 0, 20, 30)
	p.upload("C/00/1/d.seg", "orders", 0, 30, 40)
	p.lose("C/00/1/b.seg")
	p.lose("C/00/1/c.seg")
	p.objects[0].SizeBytes = 99
	p.objects = append(p.objects, FoundObject{Name: "C/00/1/unreadable.seg", Err: errors.New("cut")},
		FoundObject{Name: "C/00/1/foreign.seg", Footer: &metav1.ObjectFooter{ClusterId: "D"}})
	v, report := p.recovered(base)
	part := partitionOf(t, v, "orders", 0)
	require.Equal(t, int64(40), part.UploadedEnd)
	require.Equal(t, []RecoveredGap{
		{From: 0, To: 10, Object: "C/00/1/a.seg", Reason: "the object has another size than when it was written"},
		{From: 10, To: 20, Object: "C/00/1/b.seg", Reason: "the object is missing"},
		{From: 20, To: 30, Reason: "no object has it"},
	}, report.Topics[0].Partitions[0].Gaps)
	require.Equal(t, int64(10), report.Records())
	require.Equal(t, int64(30), report.LostRecords())
	ref, ok := part.FindSegment(25)
	require.True(t, ok)
	require.True(t, IsLost(ref.GetObject()))
	require.Equal(t, int64(20), part.Segments[2].MaxTimestampMs, "as old as what is before it")
	require.Len(t, report.Skipped, 2)
	require.Contains(t, report.Skipped[0].Reason, "cut")
}

func TestRecoverRefusesAForeignCheckpoint(t *testing.T) {
	p := newPast(t)
	for _, r := range []*Recovery{
		{Base: p.state.View(), ClusterID: "D", Shards: 3},
		{Base: p.state.View(), ClusterID: "C", Shards: 4},
		{ClusterID: "C", Shards: 0},
		{ClusterID: "C", Shards: MaxShards + 1},
	} {
		_, _, err := Recover(r)
		require.Error(t, err)
	}
}

// TestRecoverAgain: a recovery is a checkpoint too.
func TestRecoverAgain(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 1)
	p.upload("C/00/1/a.seg", "orders", 0, 0, 10)
	first, _ := p.recovered(nil)
	second, _ := p.recovered(first)
	require.Equal(t, partitionOf(t, first, "orders", 0), partitionOf(t, second, "orders", 0))
	require.Greater(t, second.NextProducerID(), first.NextProducerID())
}

// TestRecoverLeavesOutLateUploads: an upload of a life of the cluster before, which came to an end after the recovery, has
// other records for offsets that were given out anew. None of it becomes history in a later recovery, however well it fits.
func TestRecoverLeavesOutLateUploads(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 1)
	p.upload("C/00/1/old.seg", "orders", 0, 0, 10)
	checkpoint := p.state.View()
	began, _ := p.recovered(checkpoint)
	p.put("C/00/1/late.seg", "orders", 0, 10, 20)
	p.put("C/00/1/late-and-long.seg", "orders", 0, 10, 30)
	p.put("C/00/1/late-and-short.seg", "orders", 0, 10, 15)
	p.put("C/00/1/late-and-behind.seg", "orders", 0, 20, 30)
	p.life = began.RecoveryID()
	p.upload("C/00/1/a.seg", "orders", 0, 10, 15)
	p.upload("C/00/1/b.seg", "orders", 0, 15, 20)
	for name, base := range map[string]*View{
		"from the recovery": began, "from a checkpoint of the life before": checkpoint, "without a checkpoint": nil,
	} {
		t.Run(name, func(t *testing.T) {
			v, report := p.recovered(base)
			var objects []string
			for _, s := range partitionOf(t, v, "orders", 0).Segments {
				objects = append(objects, s.Object)
			}
			require.Equal(t, []string{"C/00/1/old.seg", "C/00/1/a.seg", "C/00/1/b.seg"}, objects)
			require.Equal(t, int64(20), report.Records())
			require.Zero(t, report.LostRecords())
			require.Len(t, report.Skipped, 4)
			if base == began {
				require.Contains(t, report.Skipped[0].Reason, "before recovery R1")
			} else {
				require.Contains(t, report.Skipped[0].Reason, "a later life")
			}
			require.Greater(t, v.FirstProducerID(), began.FirstProducerID(), "ids are given out once")
		})
	}
}

// TestRecoverTakesAllOfOneLife: until somebody has begun with a recovery, what comes late is as good as what was there.
func TestRecoverTakesAllOfOneLife(t *testing.T) {
	p := newPast(t)
	p.create("orders", "u1", 1)
	p.upload("C/00/1/old.seg", "orders", 0, 0, 10)
	checkpoint := p.state.View()
	_, report := p.recovered(checkpoint)
	require.Equal(t, int64(10), report.Records())
	p.put("C/00/1/late.seg", "orders", 0, 10, 20)
	_, report = p.recovered(checkpoint)
	require.Equal(t, int64(20), report.Records())
}

// TestChain: overlaps and lost races cost nothing that some way keeps, and what was written anew is taken and not what was
// damaged, whatever the hashes in their names.
func TestChain(t *testing.T) {
	const older, newer = "C/f0/1/01JZ0000000000000000000000.seg", "C/0a/1/01JZ0000010000000000000000.seg"
	seg := func(object string, base, end int64) Segment {
		return Segment{Object: object, BaseOffset: base, EndOffset: end, SizeBytes: 1}
	}
	for name, tc := range map[string]struct {
		from  int64
		found []Segment
		want  []string
	}{
		"nothing":             {5, nil, nil},
		"a lost race":         {0, []Segment{seg("a", 0, 10), seg("b", 0, 15), seg("c", 15, 20)}, []string{"b", "c"}},
		"the longer one ends": {0, []Segment{seg("a", 0, 15), seg("b", 0, 10), seg("c", 10, 20)}, []string{"b", "c"}},
		"one hole":            {0, []Segment{seg("a", 0, 5), seg("c", 9, 12)}, []string{"a", "C/lost/7-5-9", "c"}},
		"a hole first":        {3, []Segment{seg("c", 9, 12)}, []string{"C/lost/7-3-9", "c"}},
		"below what is known": {10, []Segment{seg("a", 0, 10), seg("b", 5, 15)}, nil},
		"twice the same":      {0, []Segment{seg("b", 0, 10), seg("a", 0, 10)}, []string{"b"}},
		"written anew":        {0, []Segment{seg(newer, 0, 10), seg(older, 0, 10)}, []string{newer}},
		"found the other way": {0, []Segment{seg(older, 0, 10), seg(newer, 0, 10)}, []string{newer}},
		"longer, though old":  {0, []Segment{seg(newer, 0, 10), seg(older, 0, 15)}, []string{older}},
		"empty ones":          {0, []Segment{seg("a", 0, 0)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, s := range chain("C", 7, tc.from, tc.found) {
				got = append(got, s.Object)
			}
			require.Equal(t, tc.want, got)
		})
	}
}

// TestRecoverAnyHistory: whenever the last checkpoint was taken, what was uploaded comes back, and nothing that was
// deleted before it.
func TestRecoverAnyHistory(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		p := newPast(t)
		at := rnd.IntN(60)
		var base *View
		names, made := []string{}, 0
		ends := make(map[string]int64)
		deletedBefore := make(map[string]bool)
		for step := range 60 {
			if step == at {
				base = p.state.View()
			}
			switch k := rnd.IntN(10); {
			case len(names) == 0 || k == 0:
				made++
				name := fmt.Sprintf("t%d", made)
				p.create(name, name, uint32(1+rnd.IntN(3)))
				names = append(names, name)
			case k == 1 && base == nil:
				i := rnd.IntN(len(names))
				p.delete(names[i], names[i])
				deletedBefore[names[i]] = true
				names = slices.Delete(names, i, i+1)
			default:
				name := names[rnd.IntN(len(names))]
				topic, _ := p.state.View().Topic(name)
				number := rnd.IntN(topic.NumPartitions())
				key := fmt.Sprintf("%s/%d", name, number)
				end := ends[key] + 1 + rnd.Int64N(9)
				object := fmt.Sprintf("C/00/0/%d.seg", step)
				if k == 2 { // a lost race, which says the same
					p.put(object+"x", name, number, ends[key], end)
				}
				p.upload(object, name, number, ends[key], end)
				ends[key] = end
			}
		}
		v, report := p.recovered(base)
		require.Zero(t, report.LostRecords(), "seed %d", seed)
		for _, name := range names {
			for number := range 3 {
				end := ends[fmt.Sprintf("%s/%d", name, number)]
				if end == 0 {
					continue
				}
				got := partitionOf(t, v, name, number)
				require.Equal(t, end, got.UploadedEnd, "seed %d, %s", seed, name)
				require.Equal(t, partitionOf(t, p.state.View(), name, number).ID, got.ID)
				require.Zero(t, got.LogStart)
			}
		}
		for name := range deletedBefore {
			_, risen := v.Topic(name)
			require.False(t, risen, "seed %d: %s", seed, name)
		}
	}
}

// TestOrphanDeleteIsProven: only what is proven to be superfluous is.
func TestOrphanDeleteIsProven(t *testing.T) {
	p := newPast(t)
	p.create("gone", "u1", 1)
	p.put("deleted", "gone", 0, 0, 10)
	p.create("orders", "u2", 1)
	p.delete("gone", "u1")
	p.upload("listed", "orders", 0, 0, 10)
	p.put("a lost race", "orders", 0, 0, 8)
	p.put("not listed yet, or forgotten", "orders", 0, 10, 12)
	damaged := p.state.View() // a metadata that has lost what follows
	p.create("late", "u3", 1)
	p.put("of a topic that is not known", "late", 0, 0, 5)
	for _, o := range p.objects {
		want := o.Name == "deleted" || o.Name == "listed" || o.Name == "a lost race"
		require.Equal(t, want, damaged.Superfluous(o.Footer), o.Name)
	}
	foreign := &metav1.ObjectFooter{ClusterId: "D"}
	require.False(t, damaged.Superfluous(foreign))
}

// FuzzRecover: whatever a footer says, there is a view that holds together, or an error.
func FuzzRecover(f *testing.F) {
	seed, err := proto.Marshal(&metav1.ObjectFooter{Version: 1, ClusterId: "C", Segments: []*metav1.FooterSegment{{
		Entry: &metav1.SegmentEntry{PartitionId: 3, EndOffset: 5, SizeBytes: 10}, Topic: "t", TopicUuid: uuidNamed("u"), Partition: 1,
	}}})
	require.NoError(f, err)
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) {
		footer := &metav1.ObjectFooter{}
		if proto.Unmarshal(data, footer) != nil {
			return
		}
		v, report, err := Recover(&Recovery{ID: "R", ClusterID: "C", ClusterName: "c", Shards: 3, Objects: []FoundObject{{Name: "o", SizeBytes: 9, Footer: footer}}})
		if err == nil {
			require.NoError(t, v.Check())
			report.Records()
			report.LostRecords()
		}
	})
}

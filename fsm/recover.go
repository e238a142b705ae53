package fsm

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

const (
	// recoveredIDs is how far the counters of producer and partition ids jump in a recovery, so that an id that was given
	// out after the last checkpoint is not given out again.
	recoveredIDs = 1 << 32
	// idsPerMs is how many ids there are for each millisecond since 1970. Where the counters begin at least at the time of
	// the recovery, no two recoveries give out the same ids, from whatever checkpoint they are made.
	idsPerMs = 1 << 20
)

// FoundObject is an object with segments that the object store has.
type FoundObject struct {
	Name      string
	SizeBytes int64
	// RecoveryID is the life of the cluster in which the object was written: the recovery that it had begun with, empty for
	// none. It counts where there is a footer.
	RecoveryID string
	// Footer is nil where nobody had to read it, or where it can't be read: then Err says why.
	Footer *metav1.ObjectFooter
	Err    error
}

// Recovery is what a cluster's metadata is made from anew once every node is gone.
type Recovery struct {
	// ID is a ULID, newer than those of all recoveries before it, and TimeMs its time.
	ID     string
	TimeMs int64
	// Base is the newest checkpoint of the metadata that can be read, BaseName the name of the newest one that there is.
	// Nil and empty where there is none.
	Base     *View
	BaseName string
	// ClusterID, ClusterName, Shards and CreatedMs are those of the cluster, which Base must have too.
	ClusterID, ClusterName string
	Shards                 uint32
	CreatedMs              int64
	// ObjectStore is the URL under which the nodes reach the store.
	ObjectStore string
	// Objects are all with segments that the store has. Those that Base does not know need their footers.
	Objects []FoundObject
}

// Recover returns the metadata of a cluster without nodes, whose shards begin anew and go on where the manifest ends. It
// takes the topics and the manifest of the checkpoint, and adds what objects have that are newer. It is pure.
//
// Ids tell a partition that was deleted from one that the checkpoint is too old to know: they are given out in order,
// so a partition below the checkpoint's next id that the checkpoint does not have was deleted, and stays so.
//
// An object of an earlier life of the cluster that is not in the manifest was never acknowledged, and this life may have
// given its offsets to other records: its upload came to an end when the recovery had been made already. It is left alone.
func Recover(r *Recovery) (*View, *RecoveryReport, error) {
	rb, err := newRebuild(r)
	if err != nil {
		return nil, nil, err
	}
	for i := range r.Objects {
		rb.sort(&r.Objects[i])
	}
	rb.newTopics()
	if err := rb.extend(); err != nil {
		return nil, nil, err
	}
	v, err := rb.view()
	if err != nil {
		return nil, nil, err
	}
	return v, rb.report(v), nil
}

// rebuild is a recovery under way.
type rebuild struct {
	in   *Recovery
	base *View
	// there are the objects that the store has, by name.
	there      map[string]*FoundObject
	topics     map[[16]byte]*Topic
	partitions map[uint64]*Partition
	// found are the segments of objects that the checkpoint does not know, by partition.
	found map[uint64][]foundSegment
	// fresh are partitions that are newer than the checkpoint, by topic.
	fresh map[[16]byte]*freshTopic
	next  uint64 // partition id that is given out next
	out   *RecoveryReport
}

// foundSegment is a segment, and the life of the cluster in which it was written.
type foundSegment struct {
	Segment

	life string
}

// freshTopic is what footers say of partitions that the checkpoint does not know.
type freshTopic struct {
	name      string
	createdMs int64 // of the oldest object
	lowest    uint64
	ids       map[int32]freshPartition
}

type freshPartition struct {
	id    uint64
	shard uint32
}

func newRebuild(r *Recovery) (*rebuild, error) {
	rb := &rebuild{
		in: r, base: r.Base, there: make(map[string]*FoundObject, len(r.Objects)), topics: make(map[[16]byte]*Topic),
		partitions: make(map[uint64]*Partition), found: make(map[uint64][]foundSegment), fresh: make(map[[16]byte]*freshTopic),
		out: &RecoveryReport{RecoveryID: r.ID},
	}
	if rb.base == nil {
		rb.base = emptyView()
	} else if rb.base.clusterID != r.ClusterID || rb.base.NumShards() != r.Shards {
		return nil, fmt.Errorf("checkpoint %s is of cluster %s with %d shards, not of %s with %d",
			r.BaseName, rb.base.clusterID, rb.base.NumShards(), r.ClusterID, r.Shards)
	}
	if r.TimeMs < 0 || r.TimeMs >= math.MaxInt64/idsPerMs/2 {
		return nil, fmt.Errorf("the time of the recovery is %d ms after 1970", r.TimeMs)
	}
	if r.Shards < 1 || r.Shards > MaxShards {
		return nil, fmt.Errorf("%d shards, must be 1 to %d", r.Shards, MaxShards)
	}
	rb.next = rb.base.nextPartition
	for t := range rb.base.Topics() {
		known := *t
		known.PartitionIDs = slices.Clone(t.PartitionIDs)
		rb.topics[t.UUID] = &known
		for _, id := range t.PartitionIDs {
			p, _ := rb.base.Partition(id)
			c := *p
			c.Segments = slices.Clone(p.Segments)
			rb.partitions[id] = &c
		}
	}
	return rb, nil
}

// sort puts the segments of an object to their partitions.
func (rb *rebuild) sort(o *FoundObject) {
	rb.there[o.Name] = o
	if rb.base.ObjectKnown(o.Name) {
		return // The checkpoint says what of it counts.
	}
	if o.Footer == nil || o.Footer.GetClusterId() != rb.in.ClusterID {
		rb.out.skip(o, "the checkpoint does not know it, and its footer can't be read")
		return
	}
	if o.RecoveryID < rb.base.recoveryID {
		rb.out.skip(o, fmt.Sprintf("it is of before recovery %s, which did not find it", rb.base.recoveryID))
		return
	}
	for _, s := range o.Footer.GetSegments() {
		id := s.GetEntry().GetPartitionId()
		rb.next = max(rb.next, id+1)
		uuid, r := parseUUID(s.GetTopicUuid())
		p, known := rb.partitions[id]
		switch {
		case r != nil || ValidateName(s.GetTopic()) != nil || s.GetPartition() >= MaxPartitions || o.Footer.GetShard() >= rb.in.Shards:
			rb.out.skip(o, "its footer names no topic or partition that can be")
			continue
		case known && p.TopicUUID == uuid:
		case known || id < rb.base.nextPartition:
			rb.out.DeletedSegments++
			continue
		default:
			rb.note(o, uuid, s)
		}
		rb.found[id] = append(rb.found[id], foundSegment{newSegment(o.Name, s.GetEntry()), o.RecoveryID})
	}
}

// note remembers a partition that is newer than the checkpoint.
func (rb *rebuild) note(o *FoundObject, uuid [16]byte, s *metav1.FooterSegment) {
	t := rb.fresh[uuid]
	id := s.GetEntry().GetPartitionId()
	if t == nil {
		t = &freshTopic{name: s.GetTopic(), createdMs: o.Footer.GetCreatedMs(), lowest: id, ids: make(map[int32]freshPartition)}
		rb.fresh[uuid] = t
	}
	t.createdMs = min(t.createdMs, o.Footer.GetCreatedMs())
	t.lowest = min(t.lowest, id)
	number := int32(s.GetPartition())
	if _, ok := t.ids[number]; !ok {
		t.ids[number] = freshPartition{id: id, shard: o.Footer.GetShard()}
	}
}

// newTopics adds topics and partitions that are newer than the checkpoint. Of two topics of one name the one with the
// higher partition ids came later, so the other one was deleted.
func (rb *rebuild) newTopics() {
	rb.next = max(rb.next+recoveredIDs, uint64(rb.in.TimeMs)*idsPerMs)
	byName := make(map[string][16]byte)
	for uuid, t := range rb.topics {
		byName[t.Name] = uuid
	}
	uuids := slices.SortedFunc(maps.Keys(rb.fresh), func(a, b [16]byte) int {
		return compareFresh(rb.fresh[a], rb.fresh[b], a, b)
	})
	for _, uuid := range uuids {
		f := rb.fresh[uuid]
		t, known := rb.topics[uuid]
		if !known {
			if older, taken := byName[f.name]; taken {
				rb.replace(older)
			}
			byName[f.name] = uuid
			t = &Topic{Name: f.name, UUID: uuid, CreatedMs: f.createdMs}
			rb.topics[uuid] = t
			rb.out.unknownConfig = append(rb.out.unknownConfig, uuid)
		}
		rb.addFresh(t, f)
	}
}

func compareFresh(a, b *freshTopic, ua, ub [16]byte) int {
	if a.lowest != b.lowest {
		if a.lowest < b.lowest {
			return -1
		}
		return 1
	}
	return slices.Compare(ua[:], ub[:])
}

// replace takes away a topic that was deleted, since a newer one has its name.
func (rb *rebuild) replace(uuid [16]byte) {
	t := rb.topics[uuid]
	for _, id := range t.PartitionIDs {
		delete(rb.partitions, id)
		delete(rb.found, id)
	}
	delete(rb.topics, uuid)
	rb.out.Replaced = append(rb.out.Replaced, t.Name)
}

// addFresh grows a topic to the highest partition that was found. One that nothing was found of gets an id of its own.
func (rb *rebuild) addFresh(t *Topic, f *freshTopic) {
	for number := range f.ids {
		for int(number) >= len(t.PartitionIDs) {
			t.PartitionIDs = append(t.PartitionIDs, 0)
		}
	}
	for i, id := range t.PartitionIDs {
		if id != 0 {
			continue
		}
		p, found := f.ids[int32(i)]
		if !found {
			p = freshPartition{id: rb.next, shard: uint32(rb.next % uint64(rb.in.Shards))}
			rb.next++
		}
		t.PartitionIDs[i] = p.id
		rb.partitions[p.id] = &Partition{ID: p.id, TopicUUID: t.UUID, Shard: p.shard, Number: int32(i)}
	}
}

// view puts all together, and checks it as every snapshot is checked.
func (rb *rebuild) view() (*View, error) {
	b := newViewBuilder()
	b.v = View{
		index: 1, clusterID: rb.in.ClusterID, clusterName: rb.in.ClusterName, objectStore: rb.in.ObjectStore,
		createdMs: rb.in.CreatedMs, featureLevel: max(rb.base.featureLevel, FeatureLevelRecovery),
		nextProducerID: max(rb.base.nextProducerID+recoveredIDs, rb.in.TimeMs*idsPerMs), nextPartition: rb.next,
		recoveryID: rb.in.ID, recoveredFrom: rb.in.BaseName, shards: make([]*Shard, rb.in.Shards),
	}
	b.v.firstProducerID = b.v.nextProducerID
	live := make(map[string]uint32)
	for uuid, t := range rb.topics {
		b.topics.Set(t.Name, t)
		b.topicsByUUID.Set(string(uuid[:]), t)
		for _, id := range t.PartitionIDs {
			p := rb.partitions[id]
			p.segmentBytes = 0
			for i := range p.Segments {
				p.segmentBytes += int64(p.Segments[i].SizeBytes)
				live[p.Segments[i].Object]++
			}
			b.partitions.Set(id, p)
		}
	}
	for name, n := range live {
		b.objects.Set(name, object{bytes: rb.objectBytes(name), live: n})
	}
	for name := range rb.base.UnusedObjects() {
		if live[name] == 0 {
			b.objects.Set(name, object{bytes: rb.objectBytes(name)})
			b.unused.Set(name, struct{}{})
		}
	}
	for d := range rb.base.DroppedObjects() {
		b.dropped.Set(d.Name, d.DroppedMs)
	}
	v := b.view()
	if err := v.Check(); err != nil {
		return nil, fmt.Errorf("what was rebuilt is wrong: %w", err)
	}
	return v, nil
}

func (rb *rebuild) objectBytes(name string) uint64 {
	if o, ok := rb.base.objects.Get(name); ok {
		return o.bytes
	}
	if o, ok := rb.there[name]; ok {
		return uint64(max(o.SizeBytes, 0))
	}
	return 0
}

// lostMark is in the names of objects that never were: the manifest has them where records are lost, and nobody knows
// of which object.
const lostMark = "/lost/"

// LostObject names what stands in the manifest for records that no object had when the cluster was recovered.
func LostObject(clusterID string, partitionID uint64, from, to int64) string {
	return fmt.Sprintf("%s%s%d-%d-%d", clusterID, lostMark, partitionID, from, to)
}

// IsLost reports whether an object of the manifest stands for records that are lost.
func IsLost(object string) bool { return strings.Contains(object, lostMark) }

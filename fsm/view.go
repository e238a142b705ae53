package fsm

import (
	"hash/fnv"
	"iter"
	"slices"
	"strings"

	"github.com/benbjohnson/immutable"
)

// View is the state behind one command of the log. It is immutable and safe for
// concurrent use; to hold one costs only the memory of what has changed since.
type View struct {
	index           uint64
	clusterID       string
	clusterName     string
	objectStore     string
	createdMs       int64
	featureLevel    uint32
	firstProducerID int64
	nextProducerID  int64
	nextPartition   uint64
	recoveryID      string
	recoveredFrom   string

	nodes  []*Node  // sorted by id
	shards []*Shard // by number; nil where the shard is not created yet

	topics       *immutable.SortedMap[string, *Topic]
	topicsByUUID *immutable.Map[string, *Topic]
	partitions   *immutable.Map[uint64, *Partition]
	deleted      *immutable.SortedMap[string, *DeletedTopic] // by UUID

	objects *immutable.SortedMap[string, object]
	unused  *immutable.SortedMap[string, struct{}] // those of objects without live segments
	dropped *immutable.SortedMap[string, int64]    // times in milliseconds
}

func emptyView() *View {
	return &View{
		nextProducerID: 1,
		nextPartition:  1,
		topics:         immutable.NewSortedMap[string, *Topic](nil),
		topicsByUUID:   immutable.NewMap[string, *Topic](immutable.NewHasher("")),
		partitions:     immutable.NewMap[uint64, *Partition](immutable.NewHasher(uint64(0))),
		deleted:        immutable.NewSortedMap[string, *DeletedTopic](nil),
		objects:        immutable.NewSortedMap[string, object](nil),
		unused:         immutable.NewSortedMap[string, struct{}](nil),
		dropped:        immutable.NewSortedMap[string, int64](nil),
	}
}

// Index is the index of the last command that the view has.
func (v *View) Index() uint64 { return v.index }

// ClusterID is empty until InitCluster.
func (v *View) ClusterID() string { return v.clusterID }

// ClusterName is the name that the cluster was begun with.
func (v *View) ClusterName() string { return v.clusterName }

// ObjectStore is the URL of the cluster's object store.
func (v *View) ObjectStore() string { return v.objectStore }

// CreatedMs is when the cluster was begun.
func (v *View) CreatedMs() int64 { return v.createdMs }

// FeatureLevel is what the cluster has switched to; every node supports it.
func (v *View) FeatureLevel() uint32 { return v.featureLevel }

// NextProducerID returns the first producer id that was not given out.
func (v *View) NextProducerID() int64 { return v.nextProducerID }

// FirstProducerID returns the first producer id that was given out after the recovery that this metadata began with anew; 0
// where there was none. What producers with lower ids have written nobody remembers, but the records may be there.
func (v *View) FirstProducerID() int64 { return v.firstProducerID }

// RecoveryID names the recovery from the object store that this metadata began with anew, a ULID; empty where there was
// none.
func (v *View) RecoveryID() string { return v.recoveryID }

// RecoveredFrom is the name of the newest checkpoint that there was at the recovery; empty where there was none.
func (v *View) RecoveredFrom() string { return v.recoveredFrom }

// NumShards is the number of shards, whether or not they are created yet; 0 until InitCluster.
func (v *View) NumShards() uint32 { return uint32(len(v.shards)) }

// Node returns a node by its id.
func (v *View) Node(id string) (*Node, bool) {
	i, ok := v.nodeIndex(id)
	if !ok {
		return nil, false
	}
	return v.nodes[i], true
}

func (v *View) nodeIndex(id string) (int, bool) {
	return slices.BinarySearchFunc(v.nodes, id, func(n *Node, id string) int { return strings.Compare(n.ID, id) })
}

// Nodes returns all nodes by their id. The caller owns the slice.
func (v *View) Nodes() []*Node { return slices.Clone(v.nodes) }

// Shard returns a shard that is created.
func (v *View) Shard(number uint32) (*Shard, bool) {
	if int64(number) >= int64(len(v.shards)) || v.shards[number] == nil {
		return nil, false
	}
	return v.shards[number], true
}

// Shards returns the shards that are created, by number. The caller owns the slice.
func (v *View) Shards() []*Shard {
	all := make([]*Shard, 0, len(v.shards))
	for _, s := range v.shards {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}

// GroupShard returns the shard that a consumer group belongs to. It is false until InitCluster is applied: a replica that has
// just started and not heard of a leader yet knows no shards.
func (v *View) GroupShard(group string) (number uint32, ok bool) {
	if len(v.shards) == 0 {
		return 0, false
	}
	h := fnv.New32a()
	_, _ = h.Write([]byte(group)) // A hash never fails.
	return h.Sum32() % GroupSlots % uint32(len(v.shards)), true
}

// Topic returns a topic by its name.
func (v *View) Topic(name string) (*Topic, bool) { return v.topics.Get(name) }

// TopicByUUID returns a topic that is not deleted.
func (v *View) TopicByUUID(uuid [16]byte) (*Topic, bool) { return v.topicsByUUID.Get(string(uuid[:])) }

// Topics returns all topics by name.
func (v *View) Topics() iter.Seq[*Topic] {
	return func(yield func(*Topic) bool) {
		it := v.topics.Iterator()
		for !it.Done() {
			if _, t, _ := it.Next(); !yield(t) {
				return
			}
		}
	}
}

// NumTopics returns how many topics there are.
func (v *View) NumTopics() int { return v.topics.Len() }

// NumPartitions returns how many partitions all topics have.
func (v *View) NumPartitions() int { return v.partitions.Len() }

// Partition returns a partition of a topic that is not deleted.
func (v *View) Partition(id uint64) (*Partition, bool) { return v.partitions.Get(id) }

// DeletedTopics returns the tombstones, by UUID. The caller owns the slice.
func (v *View) DeletedTopics() []*DeletedTopic {
	all := make([]*DeletedTopic, 0, v.deleted.Len())
	it := v.deleted.Iterator()
	for !it.Done() {
		_, t, _ := it.Next()
		all = append(all, t)
	}
	return all
}

// DroppedObjects returns the condemned objects, by name.
func (v *View) DroppedObjects() iter.Seq[DroppedObject] {
	return func(yield func(DroppedObject) bool) {
		it := v.dropped.Iterator()
		for !it.Done() {
			if name, ms, _ := it.Next(); !yield(DroppedObject{Name: name, DroppedMs: ms}) {
				return
			}
		}
	}
}

// NumDroppedObjects returns how many objects are condemned.
func (v *View) NumDroppedObjects() int { return v.dropped.Len() }

// UnusedObjects returns the names of objects without live segments that are not condemned.
func (v *View) UnusedObjects() iter.Seq[string] {
	return func(yield func(string) bool) {
		it := v.unused.Iterator()
		for !it.Done() {
			if name, _, _ := it.Next(); !yield(name) {
				return
			}
		}
	}
}

// NumUnusedObjects returns how many objects have no live segments and are not condemned.
func (v *View) NumUnusedObjects() int { return v.unused.Len() }

// ObjectKnown reports whether the metadata has this name: listed in the manifest, unused, or condemned.
func (v *View) ObjectKnown(name string) bool {
	if _, ok := v.objects.Get(name); ok {
		return true
	}
	_, ok := v.dropped.Get(name)
	return ok
}

// ObjectListed reports whether the manifest lists a segment in an object. It takes no longer where there are many segments.
func (v *View) ObjectListed(name string) bool {
	o, ok := v.objects.Get(name)
	return ok && o.live > 0
}

// ObjectBytes returns the size of an object of the manifest when it was written.
func (v *View) ObjectBytes(name string) (uint64, bool) {
	o, ok := v.objects.Get(name)
	return o.bytes, ok
}

// SameTopics reports whether nothing has changed between two views in topics, deletions, nodes and the wish for shards:
// all but what uploads, retention, the janitor and producers do. It costs nothing.
func (v *View) SameTopics(o *View) bool {
	return v.SamePlacement(o) && v.topics == o.topics && v.deleted == o.deleted
}

// SamePlacement reports whether nothing has changed between two views in the
// cluster, its nodes and the wish for its shards. It costs nothing.
func (v *View) SamePlacement(o *View) bool {
	return v.clusterID == o.clusterID && sameSlice(v.nodes, o.nodes) && sameSlice(v.shards, o.shards)
}

// sameSlice compares slices that are copied whenever they change.
func sameSlice[T any](a, b []T) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

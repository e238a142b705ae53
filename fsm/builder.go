package fsm

import (
	"fmt"
	"slices"

	"github.com/benbjohnson/immutable"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// viewBuilder makes a View out of the items of a snapshot. What the items say
// together is checked afterwards, by View.Check.
type viewBuilder struct {
	v            View
	topics       *immutable.SortedMapBuilder[string, *Topic]
	topicsByUUID *immutable.MapBuilder[string, *Topic]
	partitions   *immutable.MapBuilder[uint64, *Partition]
	deleted      *immutable.SortedMapBuilder[string, *DeletedTopic]
	objects      *immutable.SortedMapBuilder[string, object]
	unused       *immutable.SortedMapBuilder[string, struct{}]
	dropped      *immutable.SortedMapBuilder[string, int64]

	last  *Partition        // may get more segments
	names map[string]string // one copy of each object's name
}

func newViewBuilder() *viewBuilder {
	return &viewBuilder{
		topics:       immutable.NewSortedMapBuilder[string, *Topic](nil),
		topicsByUUID: immutable.NewMapBuilder[string, *Topic](immutable.NewHasher("")),
		partitions:   immutable.NewMapBuilder[uint64, *Partition](immutable.NewHasher(uint64(0))),
		deleted:      immutable.NewSortedMapBuilder[string, *DeletedTopic](nil),
		objects:      immutable.NewSortedMapBuilder[string, object](nil),
		unused:       immutable.NewSortedMapBuilder[string, struct{}](nil),
		dropped:      immutable.NewSortedMapBuilder[string, int64](nil),
		names:        make(map[string]string),
	}
}

func (b *viewBuilder) view() *View {
	v := b.v
	v.topics = b.topics.Map()
	v.topicsByUUID = b.topicsByUUID.Map()
	v.partitions = b.partitions.Map()
	v.deleted = b.deleted.Map()
	v.objects = b.objects.Map()
	v.unused = b.unused.Map()
	v.dropped = b.dropped.Map()
	return &v
}

func (b *viewBuilder) header(h *metav1.SnapshotHeader) error {
	switch {
	case h.GetVersion() != snapshotVersion:
		return fmt.Errorf("version %d", h.GetVersion())
	case h.GetShards() > MaxShards:
		return fmt.Errorf("%d shards, at most %d", h.GetShards(), MaxShards)
	}
	b.v = View{
		index:           h.GetIndex(),
		clusterID:       h.GetClusterId(),
		clusterName:     h.GetClusterName(),
		objectStore:     h.GetObjectStore(),
		createdMs:       h.GetCreatedMs(),
		featureLevel:    h.GetFeatureLevel(),
		firstProducerID: h.GetFirstProducerId(),
		nextProducerID:  h.GetNextProducerId(),
		nextPartition:   h.GetNextPartitionId(),
		recoveryID:      h.GetRecoveryId(),
		recoveredFrom:   h.GetRecoveredFrom(),
	}
	if h.GetShards() > 0 {
		b.v.shards = make([]*Shard, h.GetShards())
	}
	return nil
}

func (b *viewBuilder) item(item *metav1.SnapshotItem) error {
	switch it := item.GetItem().(type) {
	case *metav1.SnapshotItem_Node:
		return b.node(it.Node)
	case *metav1.SnapshotItem_Shard:
		return b.shard(it.Shard)
	case *metav1.SnapshotItem_Topic:
		return b.topic(it.Topic)
	case *metav1.SnapshotItem_Partition:
		return b.partition(it.Partition)
	case *metav1.SnapshotItem_DeletedTopic:
		return b.deletedTopic(it.DeletedTopic)
	case *metav1.SnapshotItem_DroppedObject:
		b.dropped.Set(it.DroppedObject.GetObject(), it.DroppedObject.GetDroppedMs())
		return nil
	case *metav1.SnapshotItem_Object:
		name := b.intern(it.Object.GetObject())
		b.objects.Set(name, object{bytes: it.Object.GetObjectBytes(), live: it.Object.GetLiveSegments()})
		if it.Object.GetLiveSegments() == 0 {
			b.unused.Set(name, struct{}{})
		}
		return nil
	default:
		return fmt.Errorf("unknown kind %T", it)
	}
}

func (b *viewBuilder) intern(name string) string {
	if known, ok := b.names[name]; ok {
		return known
	}
	b.names[name] = name
	return name
}

func (b *viewBuilder) node(n *metav1.NodeItem) error {
	b.v.nodes = append(b.v.nodes, &Node{
		ID:                n.GetNodeId(),
		Incarnation:       n.GetIncarnation(),
		MetadataReplicaID: n.GetMetadataReplicaId(),
		Zone:              n.GetZone(),
		RaftAddr:          n.GetRaftAddr(),
		GRPCAddr:          n.GetGrpcAddr(),
		HTTPAddr:          n.GetHttpAddr(),
		GossipAddr:        n.GetGossipAddr(),
		FeatureLevel:      n.GetFeatureLevel(),
		State:             n.GetState(),
		RegisteredMs:      n.GetRegisteredMs(),
	})
	return nil
}

func (b *viewBuilder) shard(s *metav1.ShardItem) error {
	n := s.GetShard()
	if int64(n) >= int64(len(b.v.shards)) || b.v.shards[n] != nil {
		return fmt.Errorf("shard %d of %d, or a second one", n, len(b.v.shards))
	}
	b.v.shards[n] = &Shard{
		Number: n, Replicas: s.GetReplicas(), Version: s.GetVersion(), Initial: s.GetInitialReplicaId(),
	}
	return nil
}

func (b *viewBuilder) topic(t *metav1.TopicItem) error {
	uuid, r := parseUUID(t.GetUuid())
	if r != nil {
		return r
	}
	topic := &Topic{
		Name: t.GetName(), UUID: uuid, Config: t.GetConfig(), CreatedMs: t.GetCreatedMs(), PartitionIDs: t.GetPartitionIds(),
	}
	b.topics.Set(topic.Name, topic)
	b.topicsByUUID.Set(string(uuid[:]), topic)
	return nil
}

func (b *viewBuilder) partition(p *metav1.PartitionItem) error {
	if b.last == nil || b.last.ID != p.GetPartitionId() {
		if err := b.newPartition(p); err != nil {
			return err
		}
	}
	b.last.Segments = slices.Grow(b.last.Segments, len(p.GetSegments()))
	for _, ref := range p.GetSegments() {
		if ref.GetEntry().GetSizeBytes() > maxSegmentBytes {
			return fmt.Errorf("partition %d: a segment of %d bytes", p.GetPartitionId(), ref.GetEntry().GetSizeBytes())
		}
		seg := newSegment(b.intern(ref.GetObject()), ref.GetEntry())
		b.last.Segments = append(b.last.Segments, seg)
		b.last.segmentBytes += int64(seg.SizeBytes)
	}
	return nil
}

func (b *viewBuilder) newPartition(p *metav1.PartitionItem) error {
	if _, ok := b.partitions.Get(p.GetPartitionId()); ok {
		return fmt.Errorf("partition %d is there twice", p.GetPartitionId())
	}
	if b.partitions.Len() >= MaxTotalPartitions {
		return fmt.Errorf("more than %d partitions", MaxTotalPartitions)
	}
	if p.GetNumber() >= MaxPartitions {
		return fmt.Errorf("partition number %d", p.GetNumber())
	}
	uuid, r := parseUUID(p.GetTopicUuid())
	if r != nil {
		return r
	}
	b.last = &Partition{
		ID:          p.GetPartitionId(),
		TopicUUID:   uuid,
		Shard:       p.GetShard(),
		Number:      int32(p.GetNumber()),
		LogStart:    p.GetLogStartOffset(),
		UploadedEnd: p.GetUploadedEndOffset(),
	}
	b.partitions.Set(b.last.ID, b.last)
	return nil
}

func (b *viewBuilder) deletedTopic(t *metav1.DeletedTopicItem) error {
	uuid, r := parseUUID(t.GetUuid())
	if r != nil {
		return r
	}
	b.deleted.Set(string(uuid[:]), &DeletedTopic{
		UUID:          uuid,
		Name:          t.GetName(),
		PartitionIDs:  t.GetPartitionIds(),
		PendingShards: t.GetPendingShards(),
		DeletedMs:     t.GetDeletedMs(),
	})
	return nil
}

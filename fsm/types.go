package fsm

import (
	"sort"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// Node is one node of the cluster. It is never changed once it is in a View.
type Node struct {
	ID                string
	Incarnation       string
	MetadataReplicaID string
	Zone              string
	RaftAddr          string
	GRPCAddr          string
	HTTPAddr          string
	GossipAddr        string
	FeatureLevel      uint32
	State             metav1.NodeState
	RegisteredMs      int64
}

// Shard is the wish for one shard. It is never changed once it is in a View.
type Shard struct {
	Number uint32
	// Replicas are the wished ones, which only this package changes.
	Replicas []*metav1.Replica
	// Version counts the changes of the wish.
	Version uint64
	// Initial is the replica that begins the group alone; empty once a replica was noted as started.
	Initial string
}

// Replica returns a wished replica.
func (s *Shard) Replica(replicaID string) (*metav1.Replica, bool) {
	for _, r := range s.Replicas {
		if r.GetReplicaId() == replicaID {
			return r, true
		}
	}
	return nil, false
}

// Topic is a named set of partitions. It is never changed once it is in a View.
type Topic struct {
	Name string
	UUID [16]byte
	// Config holds what was set explicitly; readers must not change it.
	Config    map[string]string
	CreatedMs int64
	// PartitionIDs by the number of the partition; readers must not change it.
	PartitionIDs []uint64
}

// NumPartitions returns how many partitions the topic has.
func (t *Topic) NumPartitions() int { return len(t.PartitionIDs) }

// Partition is one log: where it is, and the manifest of what is in the object
// store. It is never changed once it is in a View.
type Partition struct {
	ID        uint64
	TopicUUID [16]byte
	Shard     uint32
	Number    int32
	// LogStart is the first offset that is kept.
	LogStart int64
	// UploadedEnd is the offset behind the last segment. It never goes back.
	UploadedEnd int64
	// Segments by their base offset, without holes; all end behind LogStart.
	Segments []Segment

	segmentBytes int64
}

// SegmentBytes returns the bytes of all segments.
func (p *Partition) SegmentBytes() int64 { return p.segmentBytes }

// NextBase is the base offset that the next segment must have.
func (p *Partition) NextBase() int64 { return max(p.UploadedEnd, p.LogStart) }

// FindSegment returns the segment that holds offset.
func (p *Partition) FindSegment(offset int64) (*metav1.SegmentRef, bool) {
	i := sort.Search(len(p.Segments), func(i int) bool { return p.Segments[i].EndOffset > offset })
	if i == len(p.Segments) || p.Segments[i].BaseOffset > offset {
		return nil, false
	}
	return p.Segments[i].Ref(p.ID), true
}

// Segment is a run of a partition's batches inside an object.
type Segment struct {
	Object         string
	BaseOffset     int64
	EndOffset      int64
	Position       uint64
	SizeBytes      uint64
	MaxTimestampMs int64
	IndexPosition  uint64
	IndexBytes     uint64
}

// Ref returns the segment as a message.
func (s *Segment) Ref(partitionID uint64) *metav1.SegmentRef {
	return &metav1.SegmentRef{Object: s.Object, Entry: &metav1.SegmentEntry{
		PartitionId:    partitionID,
		BaseOffset:     s.BaseOffset,
		EndOffset:      s.EndOffset,
		Position:       s.Position,
		SizeBytes:      s.SizeBytes,
		MaxTimestampMs: s.MaxTimestampMs,
		IndexPosition:  s.IndexPosition,
		IndexBytes:     s.IndexBytes,
	}}
}

func newSegment(object string, e *metav1.SegmentEntry) Segment {
	return Segment{
		Object:         object,
		BaseOffset:     e.GetBaseOffset(),
		EndOffset:      e.GetEndOffset(),
		Position:       e.GetPosition(),
		SizeBytes:      e.GetSizeBytes(),
		MaxTimestampMs: e.GetMaxTimestampMs(),
		IndexPosition:  e.GetIndexPosition(),
		IndexBytes:     e.GetIndexBytes(),
	}
}

// DeletedTopic is the tombstone of a topic; it stays until all shards have dropped their partitions.
type DeletedTopic struct {
	UUID         [16]byte
	Name         string
	PartitionIDs []uint64
	// PendingShards have not dropped the partitions yet, sorted.
	PendingShards []uint32
	DeletedMs     int64
}

// DroppedObject is a condemned object: CommitSegments refuses its name.
type DroppedObject struct {
	Name      string
	DroppedMs int64
}

// object is one that CommitSegments has named and that is not condemned.
type object struct {
	bytes uint64
	live  uint32 // segments in the manifest
}

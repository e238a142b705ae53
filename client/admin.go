package client

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// Admin looks after topics, groups and nodes. It is safe for concurrent use, and holds nothing that must be closed.
//
// A call that changes something and whose outcome is not known fails with ErrOutcomeUnknown or a lost connection: look
// what there is before trying again.
type Admin struct{ c *Client }

// NewAdmin returns an admin.
func NewAdmin(c *Client) *Admin { return &Admin{c} }

// Topic is a topic and its partitions.
type Topic struct {
	// Name of the topic.
	Name string
	// ID is the topic's own: a topic deleted and created again under its name has another one.
	ID uuid.UUID
	// Created is when it was created, in milliseconds.
	Created time.Time
	// Config has what was set explicitly; the rest has its default.
	Config map[string]string
	// Partitions in order of their numbers.
	Partitions []Partition
}

// Partition is where a partition is, and how much of it.
type Partition struct {
	// Number of the partition, from 0.
	Number int32
	// ID is the partition's own in the cluster.
	ID uint64
	// Shard is the Raft group that replicates it.
	Shard uint32
	// Leader is the node that leads the shard, empty where it is not known.
	Leader string
	// Replicas are the nodes that hold one.
	Replicas []string
	// LogStartOffset is the first that is kept, UploadedEndOffset behind the last that is in the object store.
	LogStartOffset, UploadedEndOffset int64
	// Segments in the object store, and their bytes.
	Segments, SegmentBytes int64
}

// TopicSummary is a topic without its partitions.
type TopicSummary struct {
	// Name of the topic.
	Name string
	// ID is the topic's own, as in Topic.
	ID uuid.UUID
	// Created is when it was created, in milliseconds.
	Created time.Time
	// Partitions is how many it has.
	Partitions int32
	// Config has what was set explicitly.
	Config map[string]string
}

// TopicChange is what AlterTopic does.
type TopicChange struct {
	// Set are configs to set.
	Set map[string]string
	// Unset are configs to return to their defaults.
	Unset []string
	// Partitions is the new number, which can only grow; 0 leaves it. Keys go to other partitions then.
	Partitions int32
}

func topicFrom(t *streamhousev1.Topic) Topic {
	out := Topic{Name: t.GetName(), ID: uuidFrom(t.GetUuid()), Created: time.UnixMilli(t.GetCreatedMs()), Config: t.GetConfig()}
	for _, p := range t.GetPartitions() {
		out.Partitions = append(out.Partitions, Partition{
			Number: p.GetPartition(), ID: p.GetId(), Shard: p.GetShard(), Leader: p.GetLeader(), Replicas: p.GetReplicas(),
			LogStartOffset: p.GetLogStartOffset(), UploadedEndOffset: p.GetUploadedEndOffset(),
			Segments: p.GetSegments(), SegmentBytes: p.GetSegmentBytes(),
		})
	}
	return out
}

func uuidFrom(b []byte) uuid.UUID {
	id, _ := uuid.FromBytes(b) // a node sends 16 bytes
	return id
}

// CreateTopic creates a topic with 1 to 100,000 partitions. config may have retention.ms (default 7 days), retention.bytes
// (default none) and max.message.bytes. It fails with ErrTopicExists and ErrInvalidField.
func (a *Admin) CreateTopic(ctx context.Context, name string, partitions int32, config map[string]string) (Topic, error) {
	res, err := call(ctx, a.c, once, func(ctx context.Context, n *conn) (*streamhousev1.CreateTopicResponse, error) {
		return n.api().CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: name, Partitions: partitions, Config: config})
	})
	return topicFrom(res.GetTopic()), err
}

// DescribeTopic returns a topic. It fails with ErrTopicNotFound.
func (a *Admin) DescribeTopic(ctx context.Context, name string) (Topic, error) {
	res, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.GetTopicResponse, error) {
		return n.api().GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: name})
	})
	return topicFrom(res.GetTopic()), err
}

// ListTopics returns all topics by name.
func (a *Admin) ListTopics(ctx context.Context) ([]TopicSummary, error) {
	res, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.ListTopicsResponse, error) {
		return n.api().ListTopics(ctx, &streamhousev1.ListTopicsRequest{})
	})
	if err != nil {
		return nil, err
	}
	out := make([]TopicSummary, 0, len(res.GetTopics()))
	for _, t := range res.GetTopics() {
		out = append(out, TopicSummary{
			Name: t.GetName(), ID: uuidFrom(t.GetUuid()), Created: time.UnixMilli(t.GetCreatedMs()), Partitions: t.GetPartitions(), Config: t.GetConfig(),
		})
	}
	return out, nil
}

// AlterTopic changes a topic and returns it as it is then. It fails with ErrTopicNotFound and ErrInvalidField.
func (a *Admin) AlterTopic(ctx context.Context, name string, change TopicChange) (Topic, error) {
	res, err := call(ctx, a.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.AlterTopicResponse, error) {
		return n.api().AlterTopic(ctx, &streamhousev1.AlterTopicRequest{
			Name: name, SetConfig: change.Set, UnsetConfig: change.Unset, Partitions: change.Partitions,
		})
	})
	return topicFrom(res.GetTopic()), err
}

// DeleteTopic deletes a topic with its records, and what groups have committed of it. It fails with ErrTopicNotFound.
func (a *Admin) DeleteTopic(ctx context.Context, name string) error {
	_, err := call(ctx, a.c, once, func(ctx context.Context, n *conn) (*streamhousev1.DeleteTopicResponse, error) {
		return n.api().DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: name})
	})
	return err
}

// LogStart, LogEnd and AtTime are positions to list offsets of.
var (
	LogStart = Position{kind: positionStart}
	LogEnd   = Position{kind: positionEnd}
)

// AtTime is the first record with this timestamp or a later one, in milliseconds; the end where there is none.
func AtTime(t time.Time) Position { return Position{kind: positionTime, ms: t.UnixMilli()} }

// Position is a place in a log: LogStart, LogEnd (the high watermark), or AtTime.
type Position struct {
	kind positionKind
	ms   int64
}

type positionKind int

const (
	positionStart positionKind = iota
	positionEnd
	positionTime
)

// String names the position.
func (p Position) String() string {
	switch p.kind {
	case positionStart:
		return "beginning"
	case positionEnd:
		return "end"
	default:
		return time.UnixMilli(p.ms).UTC().Format(time.RFC3339Nano)
	}
}

func (p Position) set(req *streamhousev1.ListOffsetsRequest) {
	switch p.kind {
	case positionStart:
		req.Position = &streamhousev1.ListOffsetsRequest_Earliest{Earliest: true}
	case positionEnd:
		req.Position = &streamhousev1.ListOffsetsRequest_Latest{Latest: true}
	case positionTime:
		req.Position = &streamhousev1.ListOffsetsRequest_TimestampMs{TimestampMs: p.ms}
	}
}

// ListOffsets returns the offset of a position in partitions of a topic, by partition; no partitions are all. It fails
// with ErrTopicNotFound and ErrPartitionNotFound.
func (a *Admin) ListOffsets(ctx context.Context, topic string, at Position, partitions ...int32) (map[int32]int64, error) {
	return a.c.listOffsets(ctx, topic, at, partitions...)
}

func (c *Client) listOffsets(ctx context.Context, topic string, at Position, partitions ...int32) (map[int32]int64, error) {
	offsets, err := c.findOffsets(ctx, topic, at, partitions...)
	if err != nil {
		return nil, fmt.Errorf("list offsets of %s: %w", topic, err)
	}
	out := make(map[int32]int64, len(offsets))
	for _, o := range offsets {
		out[o.GetPartition()] = o.GetOffset()
	}
	return out, nil
}

func (c *Client) findOffsets(ctx context.Context, topic string, at Position, partitions ...int32) ([]*streamhousev1.ListedOffset, error) {
	req := &streamhousev1.ListOffsetsRequest{Topic: topic, Partitions: partitions}
	at.set(req)
	res, err := call(ctx, c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.ListOffsetsResponse, error) {
		return n.api().ListOffsets(ctx, req)
	})
	return res.GetOffsets(), err
}

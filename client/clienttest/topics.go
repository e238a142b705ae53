package clienttest

import (
	"context"
	"maps"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// CreateTopic makes a topic that was created in 2026.
func (n *Node) CreateTopic(_ context.Context, r *streamhousev1.CreateTopicRequest) (*streamhousev1.CreateTopicResponse, error) {
	unlock, err := n.enter("CreateTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, ok := n.c.topics[r.GetName()]; ok {
		return nil, Error(codes.AlreadyExists, streamhousev1.ErrorReason_ERROR_REASON_TOPIC_EXISTS, "topic "+strconv.Quote(r.GetName())+" exists", nil)
	}
	if r.GetPartitions() < 1 || r.GetPartitions() > 100_000 {
		return nil, Error(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD, "partitions must be 1 to 100000", nil)
	}
	t := &topic{info: &streamhousev1.Topic{Name: r.GetName(), Uuid: slices.Repeat([]byte{0xab}, 16), Config: r.GetConfig(), CreatedMs: 1767225600000}}
	n.c.topics[r.GetName()] = t
	n.c.growLocked(t, int(r.GetPartitions()))
	return &streamhousev1.CreateTopicResponse{Topic: t.info}, nil
}

const (
	defaultMaxRecordBytes = 8 << 20
	maxRequestBytes       = 16 << 20
)

func (t *topic) maxRecordBytes() int64 {
	if n, err := strconv.ParseInt(t.info.GetConfig()["max.message.bytes"], 10, 64); err == nil {
		return n
	}
	return defaultMaxRecordBytes
}

func (c *Cluster) growLocked(t *topic, partitions int) {
	for i := len(t.partitions); i < partitions; i++ {
		c.partitions++
		t.partitions = append(t.partitions, newPartition())
		t.info.Partitions = append(t.info.Partitions, &streamhousev1.Partition{Partition: int32(i), Id: c.partitions, Shard: uint32(i), Leader: "n1", Replicas: []string{"n1", "n2"}})
	}
}

// checkIDLocked refuses what is meant for a partition that had the name and number before. 0 is any.
func (c *Cluster) checkIDLocked(name string, partition int32, id uint64) error {
	t, err := c.topicLocked(name)
	if err != nil {
		return err
	}
	if id != 0 && int(partition) < len(t.partitions) && t.info.GetPartitions()[partition].GetId() != id {
		return Error(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND, "another topic has the name "+strconv.Quote(name), nil)
	}
	return nil
}

// GetTopic returns a topic.
func (n *Node) GetTopic(_ context.Context, r *streamhousev1.GetTopicRequest) (*streamhousev1.GetTopicResponse, error) {
	unlock, err := n.enter("GetTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := n.c.topicLocked(r.GetName())
	if err != nil {
		return nil, err
	}
	return &streamhousev1.GetTopicResponse{
		Topic: t.info, Nodes: n.c.addressesLocked(), MaxRecordBytes: t.maxRecordBytes(), MaxRequestBytes: maxRequestBytes,
	}, nil
}

// ListTopics returns all topics by name.
func (n *Node) ListTopics(context.Context, *streamhousev1.ListTopicsRequest) (*streamhousev1.ListTopicsResponse, error) {
	unlock, err := n.enter("ListTopics")
	if err != nil {
		return nil, err
	}
	defer unlock()
	resp := &streamhousev1.ListTopicsResponse{}
	for _, name := range slices.Sorted(maps.Keys(n.c.topics)) {
		t := n.c.topics[name].info
		resp.Topics = append(resp.Topics, &streamhousev1.TopicSummary{Name: name, Uuid: t.GetUuid(), Partitions: int32(len(t.GetPartitions())), Config: t.GetConfig(), CreatedMs: t.GetCreatedMs()})
	}
	return resp, nil
}

// AlterTopic sets and unsets configs and grows the topic.
func (n *Node) AlterTopic(_ context.Context, r *streamhousev1.AlterTopicRequest) (*streamhousev1.AlterTopicResponse, error) {
	unlock, err := n.enter("AlterTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	t, err := n.c.topicLocked(r.GetName())
	if err != nil {
		return nil, err
	}
	config := maps.Clone(t.info.GetConfig())
	if config == nil {
		config = make(map[string]string)
	}
	maps.Copy(config, r.GetSetConfig())
	for _, k := range r.GetUnsetConfig() {
		delete(config, k)
	}
	t.info.Config = config
	n.c.growLocked(t, int(r.GetPartitions()))
	return &streamhousev1.AlterTopicResponse{Topic: t.info}, nil
}

// DeleteTopic deletes a topic.
func (n *Node) DeleteTopic(_ context.Context, r *streamhousev1.DeleteTopicRequest) (*streamhousev1.DeleteTopicResponse, error) {
	unlock, err := n.enter("DeleteTopic")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if _, err := n.c.topicLocked(r.GetName()); err != nil {
		return nil, err
	}
	delete(n.c.topics, r.GetName())
	return &streamhousev1.DeleteTopicResponse{}, nil
}

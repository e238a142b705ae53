package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// listBarrierTimeout bounds the wait for the newest topics before a list says what is known here.
	listBarrierTimeout = time.Second
)

// CreateTopic creates a topic. Its UUID is minted here and travels with every try, so that a try that had happened counts.
func (b *Broker) CreateTopic(ctx context.Context, req *streamhousev1.CreateTopicRequest) (*streamhousev1.CreateTopicResponse, error) {
	if err := fsm.ValidateName(req.GetName()); err != nil {
		return nil, InvalidField("name", "%s", err)
	}
	if n := req.GetPartitions(); n < 1 || n > fsm.MaxPartitions {
		return nil, InvalidField("partitions", "%d is not from 1 to %d", n, fsm.MaxPartitions)
	}
	if err := fsm.ValidateConfig(req.GetConfig()); err != nil {
		return nil, InvalidField("config", "%s", err)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return nil, err
	}
	if _, err := b.meta.Propose(ctx, &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: req.GetName(), Uuid: id[:], Partitions: uint32(req.GetPartitions()), Config: req.GetConfig(),
		TimeMs: time.Now().UnixMilli(),
	}}}); err != nil {
		return nil, err
	}
	b.known(req.GetName())
	t, err := b.topic(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &streamhousev1.CreateTopicResponse{Topic: b.describeTopic(ctx, t)}, nil
}

// GetTopic describes a topic and its partitions.
func (b *Broker) GetTopic(ctx context.Context, req *streamhousev1.GetTopicRequest) (*streamhousev1.GetTopicResponse, error) {
	t, err := b.topic(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	described := b.describeTopic(ctx, t)
	return &streamhousev1.GetTopicResponse{
		Topic: described, Nodes: b.nodeAddresses(described),
		MaxRecordBytes: int64(b.maxRecordBytes(t)), MaxRequestBytes: int64(b.cfg.MaxRequestBytes),
	}, nil
}

// ListTopics lists all topics by name: the newest where the metadata leader answers, else what this node knows.
func (b *Broker) ListTopics(ctx context.Context, _ *streamhousev1.ListTopicsRequest) (*streamhousev1.ListTopicsResponse, error) {
	barrier, cancel := context.WithTimeout(ctx, listBarrierTimeout)
	defer cancel()
	if err := b.meta.Barrier(barrier); err != nil {
		b.log.Debug("list of topics may miss the newest", "error", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	view := b.meta.View()
	res := &streamhousev1.ListTopicsResponse{Topics: make([]*streamhousev1.TopicSummary, 0, view.NumTopics())}
	for t := range view.Topics() {
		res.Topics = append(res.Topics, &streamhousev1.TopicSummary{
			Name: t.Name, Uuid: t.UUID[:], Partitions: int32(len(t.PartitionIDs)), Config: t.Config, CreatedMs: t.CreatedMs,
		})
	}
	return res, nil
}

// AlterTopic changes configs, and the number of partitions, which only grows.
func (b *Broker) AlterTopic(ctx context.Context, req *streamhousev1.AlterTopicRequest) (*streamhousev1.AlterTopicResponse, error) {
	if _, err := b.topic(ctx, req.GetName()); err != nil {
		return nil, err
	}
	if n := req.GetPartitions(); n < 0 || n > fsm.MaxPartitions {
		return nil, InvalidField("partitions", "%d is not from 0 to %d", n, fsm.MaxPartitions)
	}
	if err := fsm.ValidateConfig(req.GetSetConfig()); err != nil {
		return nil, InvalidField("set_config", "%s", err)
	}
	if _, err := b.meta.Propose(ctx, &metav1.Command{Command: &metav1.Command_AlterTopic{AlterTopic: &metav1.AlterTopic{
		Name: req.GetName(), SetConfig: req.GetSetConfig(), UnsetConfig: req.GetUnsetConfig(),
		Partitions: uint32(req.GetPartitions()),
	}}}); err != nil {
		return nil, err
	}
	t, err := b.topic(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	return &streamhousev1.AlterTopicResponse{Topic: b.describeTopic(ctx, t)}, nil
}

// DeleteTopic deletes the topic that has the name when the call comes; one created anew meanwhile is left alone. A node that is
// behind may know the name's topic before this one, which is gone: so it waits for all that was committed.
func (b *Broker) DeleteTopic(ctx context.Context, req *streamhousev1.DeleteTopicRequest) (*streamhousev1.DeleteTopicResponse, error) {
	if err := fsm.ValidateName(req.GetName()); err != nil {
		return nil, InvalidField("topic", "%s", err)
	}
	if err := b.meta.Barrier(ctx); err != nil {
		return nil, err
	}
	t, err := b.topic(ctx, req.GetName())
	if err != nil {
		return nil, err
	}
	if _, err := b.meta.Propose(ctx, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{
		Name: t.Name, Uuid: t.UUID[:], TimeMs: time.Now().UnixMilli(),
	}}}); err != nil {
		return nil, err
	}
	return &streamhousev1.DeleteTopicResponse{}, nil
}

// describeTopic tells who leads each partition, as well as that can be found out now: "" stands for no leader.
func (b *Broker) describeTopic(ctx context.Context, t *fsm.Topic) *streamhousev1.Topic {
	view := b.meta.View()
	out := &streamhousev1.Topic{
		Name: t.Name, Uuid: t.UUID[:], Config: t.Config, CreatedMs: t.CreatedMs,
		Partitions: make([]*streamhousev1.Partition, 0, len(t.PartitionIDs)),
	}
	partitions := make([]*fsm.Partition, 0, len(t.PartitionIDs))
	shards := make(map[uint32]*shardNodes)
	for _, id := range t.PartitionIDs {
		p, ok := view.Partition(id)
		if !ok {
			continue // deleted meanwhile
		}
		partitions = append(partitions, p)
		shards[p.Shard] = new(shardNodes)
	}
	var wg sync.WaitGroup
	for number, nodes := range shards {
		wg.Go(func() { *nodes = b.shardNodes(ctx, view, number) })
	}
	wg.Wait()
	for _, p := range partitions {
		nodes := shards[p.Shard]
		out.Partitions = append(out.Partitions, &streamhousev1.Partition{
			Partition: p.Number, Id: p.ID, Shard: p.Shard, LogStartOffset: p.LogStart, UploadedEndOffset: p.UploadedEnd,
			Segments: int64(len(p.Segments)), SegmentBytes: p.SegmentBytes(), Leader: nodes.leader, Replicas: nodes.replicas,
		})
	}
	return out
}

// nodeAddresses returns where the holders of a topic's shards take calls, in order of their ids.
func (b *Broker) nodeAddresses(t *streamhousev1.Topic) []*streamhousev1.NodeAddress {
	ids := make(map[string]bool)
	for _, p := range t.GetPartitions() {
		ids[p.GetLeader()] = true
		for _, id := range p.GetReplicas() {
			ids[id] = true
		}
	}
	view := b.meta.View()
	var out []*streamhousev1.NodeAddress
	for _, id := range slices.Sorted(maps.Keys(ids)) {
		if n, ok := view.Node(id); ok {
			out = append(out, &streamhousev1.NodeAddress{NodeId: id, GrpcAddr: n.GRPCAddr})
		}
	}
	return out
}

// shardNodes says who holds a shard.
type shardNodes struct {
	leader   string // "" when none is known
	replicas []string
}

func (b *Broker) shardNodes(ctx context.Context, view *fsm.View, number uint32) shardNodes {
	n := shardNodes{leader: b.knownLeader(ctx, number)}
	if sh, ok := view.Shard(number); ok {
		for _, r := range sh.Replicas {
			n.replicas = append(n.replicas, r.GetNodeId())
		}
	}
	return n
}

// place is a partition as this node knows it.
type place struct {
	topic     *fsm.Topic
	partition *fsm.Partition
}

// expect fails where the caller means another partition: one of a topic that had the name before. 0 is any. Ids only
// grow, so a newer one may be of a topic that this node has not heard of.
func (b *Broker) expect(ctx context.Context, at place, partitionID uint64) (place, error) {
	if partitionID > at.partition.ID {
		var err error
		if at, err = b.refresh(ctx, at); err != nil {
			return place{}, err
		}
	}
	if partitionID != 0 && partitionID != at.partition.ID {
		return place{}, topicNotFound(at.topic.Name)
	}
	return at, nil
}

// topic returns a topic by its name. Before it says no it waits for all that was committed, so that a topic created
// through any node is found.
func (b *Broker) topic(ctx context.Context, name string) (*fsm.Topic, error) {
	if err := fsm.ValidateName(name); err != nil {
		return nil, InvalidField("topic", "%s", err)
	}
	if t, ok := b.meta.View().Topic(name); ok {
		return t, nil
	}
	if err := b.meta.Barrier(ctx); err != nil {
		return nil, err
	}
	if t, ok := b.meta.View().Topic(name); ok {
		return t, nil
	}
	return nil, topicNotFound(name)
}

// partitionOf returns one partition of a topic, with the same care.
func (b *Broker) partitionOf(ctx context.Context, name string, number int32) (place, error) {
	if number < 0 {
		return place{}, InvalidField("partition", "%d is below 0", number)
	}
	t, err := b.topic(ctx, name)
	if err != nil {
		return place{}, err
	}
	if p, ok := b.placeIn(t, number); ok {
		return p, nil
	}
	// The topic may have grown, or is another one by now.
	if err := b.meta.Barrier(ctx); err != nil {
		return place{}, err
	}
	t, ok := b.meta.View().Topic(name)
	if !ok {
		return place{}, topicNotFound(name)
	}
	if p, ok := b.placeIn(t, number); ok {
		return p, nil
	}
	return place{}, partitionNotFound(name, number)
}

func (b *Broker) placeIn(t *fsm.Topic, number int32) (place, bool) {
	if int(number) >= len(t.PartitionIDs) {
		return place{}, false
	}
	p, ok := b.meta.View().Partition(t.PartitionIDs[number])
	return place{topic: t, partition: p}, ok
}

// refresh returns the place as it is now, after a barrier; gone topics and partitions are an error.
func (b *Broker) refresh(ctx context.Context, p place) (place, error) {
	if err := b.meta.Barrier(ctx); err != nil {
		return place{}, err
	}
	return b.partitionOf(ctx, p.topic.Name, p.partition.Number)
}

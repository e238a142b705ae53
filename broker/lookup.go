package broker

import (
	"context"

	"github.com/streamhouse/streamhouse/fsm"
)

// place is a partition as this node knows it.
type place struct {
	topic     *fsm.Topic
	partition *fsm.Partition
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

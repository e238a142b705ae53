package client

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A fetcher may look for work just when its partition, the consumer's last, is dropped.
func TestDroppedPartitionIsNotWanted(t *testing.T) {
	c, err := New(Config{})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	tp := TopicPartition{Topic: "t", Partition: 0}
	r, err := NewConsumer(c, ConsumerConfig{Partitions: []TopicPartition{tp}})
	require.NoError(t, err)
	p := r.partitions[tp]
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel

	read, _, ok := r.wanted(ctx, p)
	require.True(t, ok)
	read.cancel()
	r.dropAll()
	require.Empty(t, r.ring)
	_, _, ok = r.wanted(ctx, p)
	require.False(t, ok)
}

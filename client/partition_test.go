package client

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/record"
)

// consumerOfOne is a consumer of one partition, which reads nothing.
func consumerOfOne(t *testing.T) (*Consumer, *partition) {
	t.Helper()
	c, err := New(Config{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	tp := TopicPartition{Topic: "t", Partition: 0}
	r, err := NewConsumer(c, ConsumerConfig{Partitions: []TopicPartition{tp}})
	require.NoError(t, err)
	return r, r.partitions[tp]
}

// A fetcher may look for work just when its partition, the consumer's last, is dropped.
func TestDroppedPartitionIsNotWanted(t *testing.T) {
	r, p := consumerOfOne(t)
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

// What comes behind a batch that can't be decoded is not returned: only a seek goes on there.
func TestNothingIsReturnedBehindDamage(t *testing.T) {
	r, p := consumerOfOne(t)
	for offset := range int64(3) {
		b := record.NewBuilder(record.BuilderConfig{ProducerID: -1})
		b.Append(record.Record{Value: []byte("v")})
		batch, err := b.Build()
		require.NoError(t, err)
		batch.SetBaseOffset(offset)
		p.batches = append(p.batches, batch)
		r.bufferedLocked(p, batch.SizeBytes())
	}
	p.batches[1][record.HeaderBytes] ^= 0xff

	records, err := r.next()
	require.NoError(t, err)
	require.Len(t, records, 1)
	_, err = r.next()
	require.ErrorIs(t, err, ErrCorruptData)
	records, err = r.next()
	require.NoError(t, err)
	require.Empty(t, records)
	require.Equal(t, int64(1), p.position)
	require.Zero(t, r.prefetched)
}

// A question that was under way before a topic was created does not deny it to those who ask later.
func TestNoIsNotShared(t *testing.T) {
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, l.Close()) // nobody listens there
	c, err := New(Config{Addrs: []string{l.Addr().String()}})
	require.NoError(t, err)
	defer func() { require.NoError(t, c.Close()) }()
	old := &refreshing{done: make(chan struct{}), err: &Error{Reason: ErrTopicNotFound}}
	c.asking["t"] = old
	begun := make(chan struct{})
	var asked error
	var wg sync.WaitGroup
	wg.Go(func() {
		close(begun)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, asked = c.refresh(ctx, "t")
	})
	<-begun
	c.mu.Lock()
	delete(c.asking, "t")
	c.mu.Unlock()
	close(old.done)
	wg.Wait()
	require.NotErrorIs(t, asked, ErrTopicNotFound, "no node listens, so that is the answer of the second question")
}

package client

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

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

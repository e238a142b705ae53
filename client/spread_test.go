package client_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
)

// Records without a key go to another partition with each batch, however batches come to be full.
func TestProduceSpreadsFullBatches(t *testing.T) {
	f := start(t, 3)
	p, err := client.NewProducer(f.Client, client.ProducerConfig{BatchBytes: 10_000, Linger: time.Minute})
	require.NoError(t, err)
	for range 10_000 {
		require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t", Value: []byte("a value that never fills a batch to the byte")}, nil))
	}
	require.NoError(t, p.Close(t.Context()))
	for i := range 3 {
		require.Greater(t, len(f.cluster.Values("t", i)), 1_000, "partition %d", i)
	}
}

// A partition that stands still holds up no records without a key: they go to the others, and do not fill the buffer.
func TestProduceGoesRoundASlowPartition(t *testing.T) {
	f := start(t, 3)
	f.cluster.Lead("t", 0, 1)
	held := make(chan struct{})
	f.nodes[1].Before = onWrite(func() error { <-held; return nil })
	p, err := client.NewProducer(f.Client, client.ProducerConfig{BatchBytes: 10_000, BufferBytes: 200_000, Linger: time.Minute})
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	const n = 20_000
	var acked atomic.Int32
	for range n {
		require.NoError(t, p.Produce(ctx, &client.Record{Topic: "t", Value: []byte("of a megabyte in all")}, func(_ *client.Record, err error) {
			if err == nil {
				acked.Add(1)
			}
		}))
	}
	close(held)
	require.NoError(t, p.Close(t.Context()))
	require.EqualValues(t, n, acked.Load())
}

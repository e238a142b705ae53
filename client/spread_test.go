package client_test

import (
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

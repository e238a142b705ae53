package cluster

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/simulation/disk"
)

// A record that was acknowledged is there after a power cut of all nodes.
func TestThreeNodesInABubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		c, err := Start(ctx, Config{Dir: dir, Nodes: 3, Seed: 1, Logs: nil})
		require.NoError(t, err)
		require.NoError(t, c.WaitReady(ctx))
		cl, err := c.Client(1, nil)
		require.NoError(t, err)
		_, err = client.NewAdmin(cl).CreateTopic(ctx, "t", 1, nil)
		require.NoError(t, err)
		p, err := client.NewProducer(cl, client.ProducerConfig{})
		require.NoError(t, err)
		require.NoError(t, p.ProduceSync(ctx, &client.Record{Topic: "t", Value: []byte("v")}))
		for _, n := range c.Nodes {
			_, err := n.Crash(disk.All)
			require.NoError(t, err)
			require.False(t, n.Up())
		}
		for _, n := range c.Nodes {
			require.NoError(t, n.Start(ctx))
		}
		require.NoError(t, c.WaitReady(ctx))
		r, err := client.NewConsumer(cl, client.ConsumerConfig{Topics: []string{"t"}})
		require.NoError(t, err)
		got, err := r.Poll(ctx)
		require.NoError(t, err)
		require.Len(t, got, 1)
		require.Equal(t, "v", string(got[0].Value))
		require.NoError(t, r.Close(ctx))
		require.NoError(t, p.Close(ctx))
		require.NoError(t, cl.Close())
		require.NoError(t, c.Close())
		<-time.After(time.Minute) // for what memberlist leaves behind
	})
}

package cluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
)

func TestThreeNodesInABubble(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		c, err := Start(t.Context(), Config{Dir: dir, Nodes: 3, Seed: 1, Logs: func(string) io.Writer { return os.Stderr }})
		require.NoError(t, err)
		begin := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.NoError(t, c.WaitReady(ctx))
		fmt.Println("ready after", time.Since(begin))
		cl, err := c.Client(1, nil)
		require.NoError(t, err)
		_, err = client.NewAdmin(cl).CreateTopic(ctx, "t", 2, nil)
		require.NoError(t, err)
		p, err := client.NewProducer(cl, client.ProducerConfig{})
		require.NoError(t, err)
		err = p.ProduceSync(ctx, &client.Record{Topic: "t", Value: []byte("v")})
		require.NoError(t, err)
		fmt.Println(time.Since(begin))
		require.NoError(t, p.Close(ctx))
		require.NoError(t, cl.Close())
		require.NoError(t, c.Close())
	})
}

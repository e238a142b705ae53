//go:build root

package integration_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// A node whose disk has stalled is live, answers about its health in time, and has metrics. When the disk goes on, so
// does the node.
func TestStalledDiskIsLive(t *testing.T) {
	c := harness.NewCluster(t, harness.Options{Flags: quick(map[string]string{"shards": "1"})})
	n := c.Nodes[0]
	disk := harness.NewDisk(t, 512<<20)
	n.Dir = disk.Dir
	c.Start()
	c.WaitInSync(syncWithin)
	c.CreateTopic("orders", 1, nil)
	if leader := c.ShardLeader(0); leader != n {
		_, err := leader.TransferLeader(call(t), &streamhousev1.TransferLeaderRequest{Shard: 0, NodeId: n.ID})
		require.NoError(t, err)
	}
	_, err := produce(call(t), n, "orders", 0, "before", 0)
	require.NoError(t, err)

	r, stop := recordHealth(t, n)
	disk.Stall()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err = produce(ctx, n, "orders", 0, "stalled", 0)
	require.Error(t, err, "the leader can't write")
	r.answersFor(6)
	stalled := harness.Labels{"group": "shard"}
	require.Greater(t, n.MustScrape(t).Sum("streamhouse_log_write_oldest_seconds", stalled), 2.0, "its metrics tell")
	disk.Resume()
	harness.Eventually(t, syncWithin, "it writes again", func(ctx context.Context) error {
		_, err := produce(ctx, n, "orders", 0, "after", 0)
		return err
	})
	c.WaitInSync(syncWithin)
	stop()
	require.Less(t, n.MustScrape(t).Sum("streamhouse_log_write_oldest_seconds", stalled), 2.0)
	for _, l := range r.looks {
		require.Equal(t, []int{http.StatusOK, http.StatusOK}, []int{l.health.status, l.live.status}, "live all the time")
		require.Equal(t, http.StatusOK, l.metrics.status)
		require.NotZero(t, l.ready.status)
	}
}

// answersFor waits for so many more looks.
func (r *healthRecorder) answersFor(looks int) {
	r.t.Helper()
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.looks)
	}
	from := count()
	harness.Eventually(r.t, 30*time.Second, "there are more looks", func(context.Context) error {
		if n := count() - from; n < looks {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
}

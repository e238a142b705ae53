package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// Two of three nodes are killed: the third says so, and serves what it has.
func TestWithoutMajority(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{
		"checkpoint-bytes": "1MiB", "log-retain-bytes": "0", "tail-bytes": "0",
	})})
	c.CreateTopic("orders", 3, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "old", Partitions: 3, RecordBytes: 10 << 10}, 40) // 4 MB a partition
	waitUploaded(t, c, "orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "new", Partitions: 3}, 10)
	c.WaitInSync(syncWithin)
	survivor := c.Nodes[1]
	ends, err := survivor.HighWatermarks(t.Context(), "orders")
	require.NoError(t, err)
	gets := c.Proxy.Count("GET", ".seg")

	c.Nodes[0].Kill()
	c.Nodes[2].Kill()

	harness.Eventually(t, 5*time.Second, "/ready says 503", survivor.CheckNotReady)
	health := healthpb.NewHealthClient(survivor.Conn)
	harness.Eventually(t, 2*time.Second, "gRPC health says the same", func(ctx context.Context) error {
		answer, err := health.Check(ctx, &healthpb.HealthCheckRequest{})
		if err == nil && answer.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
			err = fmt.Errorf("it says %v", answer.GetStatus())
		}
		return err
	})

	t.Run("produce fails with UNAVAILABLE", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		_, err := produce(ctx, survivor, "orders", 0, "x", 0)
		require.Equal(t, codes.Unavailable, status.Code(err), harness.Describe(err))
	})
	t.Run("what it had is readable", func(t *testing.T) {
		ledger.VerifyUpTo(t, ends, survivor)
		require.Greater(t, c.Proxy.Count("GET", ".seg"), gets, "the old part comes from S3")
	})
	t.Run("the end is never called empty", func(t *testing.T) {
		for partition, end := range ends {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			resp, err := consume(ctx, survivor, "orders", partition, end, 100*time.Millisecond)
			cancel()
			require.Equal(t, codes.Unavailable, status.Code(err), "%v %s", resp, harness.Describe(err))
		}
	})

	c.Nodes[0].Start()
	harness.Eventually(t, 20*time.Second, "/ready says 200 again", survivor.CheckReady)
	c.ProduceN(ledger, harness.ProducerConfig{Name: "after", Partitions: 3}, 5)
	c.Nodes[2].Start()
	c.WaitInSync(syncWithin)
	ledger.Tolerate("x") // its outcome was unknown
	ledger.Verify(t, c.Nodes...)
}

// A node that is cut off by a pause of the others says so within 5 s, and is ready again within 5 s of their return.
func TestReadinessFollowsTheMajority(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	n := c.Nodes[2]
	require.NoError(t, c.Nodes[0].Process().Pause())
	require.NoError(t, c.Nodes[1].Process().Pause())
	down := harness.Eventually(t, 5*time.Second, "/ready says 503", n.CheckNotReady)
	require.NoError(t, c.Nodes[0].Process().Resume())
	require.NoError(t, c.Nodes[1].Process().Resume())
	up := harness.Eventually(t, 5*time.Second, "/ready says 200", n.CheckReady)
	t.Logf("not ready after %v, ready again after %v", down, up)
	c.WaitInSync(syncWithin)
}

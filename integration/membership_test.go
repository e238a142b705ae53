package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// nodeStatus returns what a status says of a node; nil when the cluster does not have it.
func nodeStatus(st *streamhousev1.GetClusterStatusResponse, id string) *streamhousev1.NodeStatus {
	for _, n := range st.GetNodes() {
		if n.GetNodeId() == id {
			return n
		}
	}
	return nil
}

// retry is one administrative call that is repeated while there is no leader.
func retry(t *testing.T, c *harness.Cluster, f func(ctx context.Context, cl *harness.Client) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := harness.Retry(ctx, c.Clients(), f); err != nil {
		t.Fatal(harness.Describe(err))
	}
}

// A fourth node joins under load, gets replicas, is drained, taken back, drained again and decommissioned.
func TestFourthNodeComesAndGoes(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{"shards": "4"})})
	c.CreateTopic("orders", 8, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 8, Every: 30 * time.Millisecond})
	ledger.WaitAcked(t, 300, syncWithin)

	n := c.Add()
	n.Start()
	harness.Eventually(t, syncWithin, "the fourth node gets replicas", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		if s := nodeStatus(st, n.ID); s.GetReplicas() == 0 {
			return fmt.Errorf("it has none: %v", s)
		}
		return nil
	})
	t.Logf("in sync after %v", c.WaitInSync(syncWithin))
	ledger.WaitAcked(t, 300, syncWithin)

	drain := func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: n.ID})
		return err
	}
	empty := func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		if s := nodeStatus(st, n.ID); s.GetReplicas()+s.GetLeaders() > 0 {
			return fmt.Errorf("it has %d replicas and leads %d", s.GetReplicas(), s.GetLeaders())
		}
		return nil
	}
	retry(t, c, drain)
	harness.Eventually(t, syncWithin, "the drained node is empty", empty)
	harness.Eventually(t, 10*time.Second, "a drained node is not ready", n.CheckNotReady)
	ledger.WaitAcked(t, 300, syncWithin)

	retry(t, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: n.ID})
		return err
	})
	harness.Eventually(t, 10*time.Second, "the node is ready again", n.CheckReady)

	retry(t, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.DecommissionNode(ctx, &streamhousev1.DecommissionNodeRequest{NodeId: n.ID})
		return err
	})
	waitGone(t, c, n)
	n.Start()
	harness.Eventually(t, 30*time.Second, "the removed node does not come back", func(context.Context) error {
		if n.Running() || !strings.Contains(n.Logs(), "was removed from the cluster") {
			return fmt.Errorf("running: %v", n.Running())
		}
		return nil
	})
	ledger.WaitAcked(t, 300, syncWithin)
	p.Stop(t)
	t.Logf("%d acknowledged, %d retries", ledger.Acked(), p.Retries())
	ledger.Verify(t, c.Nodes[:3]...)

	t.Run("a node whose replicas have no other place stays", func(t *testing.T) {
		_, err := c.Nodes[0].DecommissionNode(call(t), &streamhousev1.DecommissionNodeRequest{NodeId: "n2"})
		require.True(t, harness.IsCode(err, codes.FailedPrecondition, "CANNOT_PLACE_REPLICAS"), harness.Describe(err))
		_, err = c.Nodes[0].DrainNode(call(t), &streamhousev1.DrainNodeRequest{NodeId: "n2"})
		require.True(t, harness.IsCode(err, codes.FailedPrecondition, "CANNOT_PLACE_REPLICAS"), harness.Describe(err))
	})
}

// waitGone waits until a node that is decommissioned has left the cluster, and ends its process.
func waitGone(t *testing.T, c *harness.Cluster, n *harness.Node) {
	t.Helper()
	harness.Eventually(t, syncWithin, "the node is gone from the cluster", func(ctx context.Context) error {
		st, err := c.Nodes[0].ClusterStatus(ctx)
		if err != nil {
			return err
		}
		if s := nodeStatus(st, n.ID); s != nil {
			return fmt.Errorf("it is there: %v", s)
		}
		return nil
	})
	if n.Running() {
		require.NoError(t, n.Process().Terminate(30*time.Second))
	}
}

// A cluster that began as one node becomes three, and the first is not restarted.
func TestOneNodeBecomesThree(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 1, Flags: quick(nil)})
	n1 := c.Nodes[0]
	pid := n1.Process().PID()
	c.CreateTopic("orders", 4, map[string]string{"retention.ms": "3600000"})
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "alone", Partitions: 4}, 30)
	_, err := n1.CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{
		Group: "billing", Topic: "orders", Offsets: []*streamhousev1.CommittedOffset{{Partition: 1, Offset: 42, Metadata: "half way"}},
	})
	require.NoError(t, err)
	waitUploaded(t, c, "orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "growing", Partitions: 4, Every: 30 * time.Millisecond})

	for range 2 {
		n := c.Add()
		n.Start()
		t.Logf("%d nodes in sync after %v", len(c.Nodes), c.WaitInSync(syncWithin))
	}
	require.Equal(t, pid, n1.Process().PID())
	require.True(t, n1.Running())
	ledger.WaitAcked(t, 200, syncWithin)
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)

	// Now the first one may go.
	n1.Kill()
	later := c.Nodes[1:]
	retry(t, c, func(ctx context.Context, cl *harness.Client) error {
		resp, err := cl.GetOffset(ctx, &streamhousev1.GetOffsetRequest{Group: "billing", Topic: "orders"})
		if err != nil {
			return err
		}
		got := resp.GetOffsets()
		if len(got) != 1 || got[0].GetPartition() != 1 || got[0].GetOffset() != 42 || got[0].GetMetadata() != "half way" {
			return fmt.Errorf("the group's offsets are %v", got)
		}
		return nil
	})
	require.Equal(t, map[string]string{"retention.ms": "3600000"}, c.Topic("orders").GetConfig())
	ledger.Verify(t, later...)
	c.ProduceN(ledger, harness.ProducerConfig{Name: "without n1", Partitions: 4}, 5)
	ledger.Verify(t, later...)
}

// A dead node's replicas move to a spare node, and only then.
func TestDeadNodeIsReplacedByASpare(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, harness.Options{Nodes: 4, Flags: quick(map[string]string{"replace-after": "3s"})})
	c.Start()
	c.WaitInSync(syncWithin)
	c.CreateTopic("orders", 4, nil)
	ledger := harness.NewLedger("orders")
	p := c.StartProducer(ledger, harness.ProducerConfig{Name: "p", Partitions: 4, Every: 30 * time.Millisecond})
	ledger.WaitAcked(t, 200, syncWithin)

	dead := c.Nodes[3]
	dead.Kill()
	harness.Eventually(t, syncWithin, "its replicas are elsewhere", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		if s := nodeStatus(st, dead.ID); s.GetReplicas() > 0 {
			return fmt.Errorf("it has %d", s.GetReplicas())
		}
		return nil
	})
	ledger.WaitAcked(t, 200, syncWithin)

	// With three nodes left there is no spare: nothing shrinks.
	c.Nodes[2].Kill()
	harness.Always(t, 8*time.Second, "replicas without a spare stay", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		if s := nodeStatus(st, c.Nodes[2].ID); s.GetReplicas() == 0 {
			return errors.New("they went")
		}
		return nil
	})
	ledger.WaitAcked(t, 200, syncWithin)
	c.Nodes[2].Start()
	dead.Start()
	c.WaitInSync(syncWithin)
	p.Stop(t)
	ledger.Verify(t, c.Nodes...)
}

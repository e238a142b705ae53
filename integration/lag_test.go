package integration_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// Lag is what an independent count says, at /metrics and in a description, while consumers run and after they are dead;
// it goes with the group.
func TestLagIsTrue(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("logs", 4, nil)
	cl := c.Client(client.Config{})
	a := client.NewAdmin(cl)
	p, err := client.NewProducer(cl, client.ProducerConfig{})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close(t.Context())) }()
	write := func(n int) {
		for i := range n {
			require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "logs", Key: fmt.Append(nil, i), Value: []byte("line")}, nil))
		}
		require.NoError(t, p.Flush(t.Context()))
	}
	write(1000)
	one := c.StartConsumer("one", spec(c))
	two := c.StartConsumer("two", spec(c))
	waitGroup(t, a, 2)
	waitNoLag(t, a)
	requireLag(t, c, a, 0)

	slow := spec(c)
	slow.Work = time.Second
	three := c.StartConsumer("three", slow)
	waitGroup(t, a, 3)
	write(2000)
	requireLag(t, c, a, -1) // while they consume

	for _, m := range []*harness.Consumer{one, two, three} {
		m.Kill()
	}
	waitGroupEmpty(t, a)
	before := requireLag(t, c, a, -1)
	write(500)
	require.Equal(t, before+500, requireLag(t, c, a, before+500), "it grows though nobody consumes")
	g, err := a.DescribeGroup(t.Context(), groupName)
	require.NoError(t, err)
	n := c.Node(g.Coordinator)
	n.Kill()
	require.Equal(t, before+500, requireLag(t, c, a, before+500), "the next coordinator knows it")
	n.Start()
	c.WaitInSync(syncWithin)

	require.NoError(t, a.DeleteGroup(t.Context(), groupName))
	harness.Eventually(t, syncWithin, "the series of the group are gone", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			for name := range m {
				if left := m.Select(name, harness.Labels{"consumer_group": groupName}); len(left) > 0 {
					return fmt.Errorf("%s of %s", name, n.ID)
				}
			}
		}
		return nil
	})
}

func waitGroupEmpty(t *testing.T, a *client.Admin) {
	t.Helper()
	isEmpty := func(ctx context.Context) error {
		g, err := a.DescribeGroup(ctx, groupName)
		switch {
		case errors.Is(err, client.ErrGroupNotFound): // it has no offsets, either
			return nil
		case err == nil && g.State != client.GroupEmpty:
			return fmt.Errorf("it is %s", g.State)
		default:
			return err
		}
	}
	harness.Eventually(t, syncWithin, "the group is empty", isEmpty)
}

// requireLag counts the lag from committed offsets and high watermarks, and compares with what is told: between the
// counts before and after. want is the lag that there must be, or -1.
func requireLag(t *testing.T, c *harness.Cluster, a *client.Admin, want int64) int64 {
	t.Helper()
	count := func(ctx context.Context) (map[int32]int64, error) {
		committed, err := a.CommittedOffsets(ctx, groupName, "logs")
		if err != nil {
			return nil, err
		}
		ends, err := a.ListOffsets(ctx, "logs", client.LogEnd)
		for p := range ends {
			ends[p] -= committed[p].Offset
		}
		return ends, err
	}
	total := int64(0)
	harness.Eventually(t, syncWithin, "lag is right", func(ctx context.Context) error {
		before, err := count(ctx)
		if err != nil {
			return err
		}
		g, err := a.DescribeGroup(ctx, groupName)
		if err != nil {
			return err
		}
		scraped := make(map[int32]int64)
		for _, n := range c.Running() {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			for p := range before {
				scraped[p] += int64(m.Sum("streamhouse_consumer_lag", harness.Labels{"topic": "logs", "consumer_group": groupName, "partition": fmt.Sprint(p)}))
			}
		}
		after, err := count(ctx)
		if err != nil {
			return err
		}
		total = 0
		for _, gp := range g.Partitions {
			p := gp.Partition
			total += gp.Lag
			for source, lag := range map[string]int64{"describe": gp.Lag, "/metrics": scraped[p]} {
				if lag > before[p] || lag < after[p] { // nothing is written meanwhile, so lag only shrinks
					return fmt.Errorf("partition %d: %s says %d, it is %d to %d", p, source, lag, after[p], before[p])
				}
			}
		}
		if want >= 0 && total != want {
			return fmt.Errorf("it is %d, not %d", total, want)
		}
		return nil
	})
	return total
}

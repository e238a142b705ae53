package integration_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// killEvery is the time between two kills.
const killEvery = 5 * time.Second

// Every five seconds a node is killed, one after the other, and then all at once, while idempotent producers write with
// several batches under way and a group reads and commits: nothing is lost, doubled or out of order.
func TestKillEveryFiveSeconds(t *testing.T) {
	t.Parallel()
	during, atLeast := time.Minute, int64(15_000)
	if harness.Nightly() {
		during, atLeast = 5*time.Minute, 100_000
	}
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	m := watchMemory(t, c)
	l := startLoad(t, c, loadConfig{partitions: 6, every: 8 * time.Millisecond})
	victims := [][]*harness.Node{{c.Nodes[0]}, {c.Nodes[1]}, {c.Nodes[2]}, c.Nodes}
	kills := 0
	tick := time.NewTicker(killEvery)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < during; kills++ {
		<-tick.C
		h := &harness.Kill{Nodes: victims[kills%len(victims)]}
		require.NoError(t, h.Start())
		lasting(t, 500*time.Millisecond)
		require.NoError(t, h.Heal())
	}
	total := l.finish()
	t.Logf("%d kills in %v, %d records acknowledged", kills, during, total)
	require.GreaterOrEqual(t, total, atLeast)
	m.stop()
}

// lasting lets a harm last.
func lasting(t *testing.T, d time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	<-ctx.Done()
}

// vanished: several kill -9 in a row, and a topic was gone; what was acknowledged of metadata must outlive every crash.
func TestVanished(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: early()})
	ledgers := make(map[string]*harness.Ledger)
	for round := range 2 * harness.Repeat(10) {
		names := []string{topicOf(round, "kept"), topicOf(round, "deleted")}
		for _, name := range names {
			c.CreateTopic(name, 2, map[string]string{"retention.ms": "3600000"})
			ledgers[name] = harness.NewLedger(name)
			c.ProduceN(ledgers[name], harness.ProducerConfig{Name: "p", Partitions: 2}, 3)
		}
		deleteTopic(t, c, names[1])
		delete(ledgers, names[1])
		for range 3 {
			c.KillAll()
			c.Start()
			lasting(t, 300*time.Millisecond)
		}
		c.WaitInSync(syncWithin)
		for name, l := range ledgers {
			require.Equal(t, map[string]string{"retention.ms": "3600000"}, c.Topic(name).GetConfig(), name)
			l.Verify(t, c.Nodes[round%len(c.Nodes)])
		}
		for _, n := range c.Nodes {
			_, err := consume(call(t), n, names[1], 0, 0, 0)
			require.Equal(t, "TOPIC_NOT_FOUND", harness.Reason(err), "what was deleted stays deleted")
		}
	}
	for _, l := range ledgers {
		l.Verify(t, c.Nodes...)
	}
}

func topicOf(round int, name string) string { return fmt.Sprintf("topic-%d-%s", round, name) }

// deleteTopic deletes a topic; it retries while there is no leader.
func deleteTopic(t *testing.T, c *harness.Cluster, name string) {
	t.Helper()
	retry(t, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: name})
		if harness.Reason(err) == "TOPIC_NOT_FOUND" {
			return nil // an earlier try
		}
		return err
	})
}

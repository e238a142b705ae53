package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// outcomes is what a producer was told of numbered records, in one partition each.
type outcomes struct {
	mu      sync.Mutex
	acked   map[int32]map[int]int64 // offsets by number
	refused map[int32]map[int]bool  // surely not written
	unknown int
	// disorder is the first promise that came before that of an earlier record of its partition.
	disorder error
	last     map[int32]int
}

func newOutcomes() *outcomes {
	return &outcomes{acked: make(map[int32]map[int]int64), refused: make(map[int32]map[int]bool), last: make(map[int32]int)}
}

func (o *outcomes) note(r *client.Record, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	number, _ := strconv.Atoi(string(r.Value)) // checked when it is read back
	if last, ok := o.last[r.Partition]; ok && number <= last && o.disorder == nil {
		o.disorder = fmt.Errorf("partition %d: the promise of %d came after that of %d", r.Partition, number, last)
	}
	o.last[r.Partition] = number
	switch {
	case err == nil:
		if o.acked[r.Partition] == nil {
			o.acked[r.Partition] = make(map[int]int64)
		}
		o.acked[r.Partition][number] = r.Offset
	case errors.Is(err, client.ErrOutcomeUnknown):
		o.unknown++
	default:
		if o.refused[r.Partition] == nil {
			o.refused[r.Partition] = make(map[int]bool)
		}
		o.refused[r.Partition][number] = true
	}
}

func (o *outcomes) count() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := 0
	for _, part := range o.acked {
		n += len(part)
	}
	return n
}

// verify reads all back: each acknowledged record is there once, where the promise said, nothing that was refused is
// there, and each partition is in the order in which it was sent.
func (o *outcomes) verify(t *testing.T, c *harness.Cluster, topic string) {
	t.Helper()
	require.NoError(t, o.disorder)
	for _, n := range c.Nodes {
		cl, err := client.New(client.Config{Addrs: []string{n.GRPCAddr}})
		require.NoError(t, err)
		ends, err := client.NewAdmin(cl).ListOffsets(t.Context(), topic, client.LogEnd)
		require.NoError(t, err)
		r, err := client.NewConsumer(cl, client.ConsumerConfig{Topics: []string{topic}})
		require.NoError(t, err)
		left := int64(0)
		for _, end := range ends {
			left += end
		}
		seen, found := make(map[int32]int), 0
		for left > 0 {
			records, err := r.Poll(call(t))
			require.NoError(t, err)
			left -= int64(len(records))
			for _, rec := range records {
				number, err := strconv.Atoi(string(rec.Value))
				require.NoError(t, err)
				require.Greater(t, number, seen[rec.Partition], "partition %d: twice, or out of order", rec.Partition)
				require.False(t, o.refused[rec.Partition][number], "partition %d: %d was refused, and is there", rec.Partition, number)
				seen[rec.Partition] = number
				if offset, ok := o.acked[rec.Partition][number]; ok {
					found++
					require.Contains(t, []int64{rec.Offset, -1}, offset)
				}
			}
		}
		require.Equal(t, o.count(), found, "what was acknowledged is there")
		require.NoError(t, r.Close(t.Context()))
		require.NoError(t, cl.Close())
	}
}

// number writes numbers from 1 to each partition until it is stopped.
func number(t *testing.T, c *harness.Cluster, o *outcomes, partitions int32, cfg client.ProducerConfig) (stop func()) {
	t.Helper()
	cfg.Partitioner, cfg.BatchBytes = client.Manual, 2<<10
	p, err := client.NewProducer(c.Client(client.Config{}), cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for partition := range partitions {
		wg.Go(func() {
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for i := 1; ctx.Err() == nil; i++ {
				r := &client.Record{Topic: "orders", Partition: partition, Value: strconv.AppendInt(nil, int64(i), 10)}
				if err := p.Produce(t.Context(), r, o.note); err != nil { //nolint:contextcheck // what is handed over is not taken back
					t.Errorf("partition %d: %v", partition, err)
					return
				}
				<-tick.C
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		if err := p.Close(t.Context()); err != nil && cfg.DeliveryTimeout == 0 {
			t.Error(err)
		}
	}
}

// waitMore waits until 1,000 more records were acknowledged.
func (o *outcomes) waitMore(t *testing.T) {
	t.Helper()
	const more = 1000
	want := o.count() + more
	harness.Eventually(t, syncWithin, fmt.Sprintf("%d more records", more), func(context.Context) error {
		if n := o.count(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// waitMoreIn waits until 200 more records of one partition were acknowledged.
func (o *outcomes) waitMoreIn(t *testing.T, partition int32) {
	t.Helper()
	const more = 200
	count := func() int {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.acked[partition])
	}
	want := count() + more
	harness.Eventually(t, syncWithin, fmt.Sprintf("%d more records of partition %d", more, partition), func(context.Context) error {
		if n := count(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// A client's producer goes through the death and the silence of leaders: each record is stored once, in order.
func TestProducerThroughFailures(t *testing.T) {
	t.Parallel()
	const partitions = 6
	for name, timeout := range map[string]time.Duration{
		"patient":        0, // two minutes: no record fails
		"with time-outs": 700 * time.Millisecond,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
			topic := c.CreateTopic("orders", partitions, nil)
			o := newOutcomes()
			stop := number(t, c, o, partitions, client.ProducerConfig{DeliveryTimeout: timeout})
			o.waitMore(t)
			for range harness.Repeat(10) {
				for p := range 3 {
					n := c.ShardLeader(topic.GetPartitions()[p].GetShard())
					n.Kill()
					o.waitMore(t)
					n.Start()
					c.WaitInSync(syncWithin)
					n = c.ShardLeader(topic.GetPartitions()[p].GetShard())
					require.NoError(t, n.Process().Pause()) // cut off from all, and back with old connections
					o.waitMore(t)
					require.NoError(t, n.Process().Resume())
					c.WaitInSync(syncWithin)
				}
			}
			stop()
			if timeout == 0 {
				require.Zero(t, o.unknown)
				require.Empty(t, o.refused)
			}
			refused := 0
			for _, part := range o.refused {
				refused += len(part)
			}
			t.Logf("%d records acknowledged, %d refused, %d unknown", o.count(), refused, o.unknown)
			o.verify(t, c, "orders")
		})
	}
}

func leaderOf(st *streamhousev1.GetClusterStatusResponse, shard uint32) string {
	for _, s := range st.GetShards() {
		if s.GetShard() == shard {
			return s.GetLeader()
		}
	}
	return ""
}

// The leader of a shard is cut off from its peers, while clients still reach it: what it takes then is never
// acknowledged, and the producer finds the new leader.
func TestProducerThroughPartitions(t *testing.T) {
	t.Parallel()
	const partitions = 6
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil), Network: true})
	topic := c.CreateTopic("orders", partitions, nil)
	o := newOutcomes()
	stop := number(t, c, o, partitions, client.ProducerConfig{})
	o.waitMore(t)
	for range harness.Repeat(10) {
		for p := range 3 {
			n := c.ShardLeader(topic.GetPartitions()[p].GetShard())
			others := c.Others(n)
			start := time.Now()
			c.Network.Isolate(n, others...)
			o.waitMoreIn(t, int32(p))
			t.Logf("written on %v after the leader was cut off", time.Since(start).Round(time.Millisecond))
			st, err := others[0].ClusterStatus(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, n.ID, leaderOf(st, topic.GetPartitions()[p].GetShard()), "it was cut off")
			c.Network.Heal()
			c.WaitInSync(syncWithin)
			c.Network.Isolate(c.ShardLeader(topic.GetPartitions()[p].GetShard()), others[p%2]) // a majority is left
			o.waitMoreIn(t, int32(p))
			c.Network.Heal()
			c.WaitInSync(syncWithin)
		}
	}
	stop()
	require.Zero(t, o.unknown)
	require.Empty(t, o.refused)
	t.Logf("%d records acknowledged", o.count())
	o.verify(t, c, "orders")
}

package benchmarks

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// handoverPartitions are spread over all shards.
	handoverPartitions = 12
	// writeEvery is the time between two records of a partition.
	writeEvery = 4 * time.Millisecond
)

// silences measures for how long each partition is silent: the longest time between two acknowledgements.
type silences struct {
	mu      sync.Mutex
	last    [handoverPartitions]time.Time     // guarded by mu; of the newest acknowledgement
	longest [handoverPartitions]time.Duration // guarded by mu
	errs    []error                           // guarded by mu; what records failed with
}

// note is the promise of every record.
func (s *silences) note(r *client.Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.errs = append(s.errs, err)
		return
	}
	now := time.Now()
	s.longest[r.Partition] = max(s.longest[r.Partition], now.Sub(s.last[r.Partition]))
	s.last[r.Partition] = now
}

// begin forgets the silences so far.
func (s *silences) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.last {
		s.longest[p], s.last[p] = 0, time.Now()
	}
}

// worst returns the longest silence of the partitions since begin, one that lasts included.
func (s *silences) worst(partitions []int32) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	worst := time.Duration(0)
	for _, p := range partitions {
		worst = max(worst, s.longest[p], time.Since(s.last[p]))
	}
	return worst
}

// write writes to all partitions until the returned function is called, which reports every record that failed.
func (s *silences) write(b *testing.B, cl *client.Client) (stop func()) {
	b.Helper()
	p, err := client.NewProducer(cl, client.ProducerConfig{Partitioner: client.Manual, Linger: -1})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	value := incompressible()
	var wg sync.WaitGroup
	for partition := range int32(handoverPartitions) {
		wg.Go(func() {
			tick := time.NewTicker(writeEvery)
			defer tick.Stop()
			for ctx.Err() == nil {
				r := &client.Record{Topic: topicName, Partition: partition, Value: value}
				if err := p.Produce(b.Context(), r, s.note); err != nil { //nolint:contextcheck // what is handed over is not taken back
					b.Error(err)
					return
				}
				<-tick.C
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		if err := errors.Join(p.Flush(b.Context()), p.Close(b.Context()), errors.Join(s.errs...)); err != nil {
			b.Error(err)
		}
	}
}

// ledBy returns the partitions that a node leads, and the node that leads the most.
func ledBy(c *harness.Cluster) (*harness.Node, []int32) {
	led := make(map[string][]int32)
	most := ""
	for _, p := range c.Topic(topicName).GetPartitions() {
		led[p.GetLeader()] = append(led[p.GetLeader()], p.GetPartition())
		if len(led[p.GetLeader()]) > len(led[most]) {
			most = p.GetLeader()
		}
	}
	return c.Node(most), led[most]
}

// handover makes a node that leads give its leaderships away, and puts things right again.
type handover struct {
	name       string
	away, back func(b *testing.B, c *harness.Cluster, n *harness.Node)
	bound      *bound
}

func handovers() []handover {
	nothing := func(*testing.B, *harness.Cluster, *harness.Node) {}
	return []handover{
		{"nothing", nothing, nothing, nil}, // what the machine makes of it
		{"SIGTERM", stop, start, atMost(200)},
		{"transfer", transferAll, nothing, atMost(200)},
		{"drain", drain, undrain, atMost(200)},
	}
}

func stop(_ *testing.B, _ *harness.Cluster, n *harness.Node)  { n.Stop() }
func start(_ *testing.B, _ *harness.Cluster, n *harness.Node) { n.Start() }

// drain drains a node and waits until it leads nothing.
func drain(b *testing.B, c *harness.Cluster, n *harness.Node) {
	b.Helper()
	admin(b, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: n.ID})
		return err
	})
	harness.Eventually(b, time.Minute, "the drained node leads nothing", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		for _, s := range st.GetShards() {
			if s.GetLeader() == n.ID {
				return fmt.Errorf("it leads shard %d", s.GetShard())
			}
		}
		return nil
	})
}

func undrain(b *testing.B, c *harness.Cluster, n *harness.Node) {
	b.Helper()
	admin(b, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: n.ID})
		return err
	})
}

// admin is one administrative call that is repeated while there is no leader.
func admin(b *testing.B, c *harness.Cluster, f func(ctx context.Context, cl *harness.Client) error) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 30*time.Second)
	defer cancel()
	if err := harness.Retry(ctx, c.Clients(), f); err != nil {
		b.Fatal(harness.Describe(err))
	}
}

// transferAll gives all shards of a node to others, by name.
func transferAll(b *testing.B, c *harness.Cluster, n *harness.Node) {
	b.Helper()
	for _, s := range c.Status().GetShards() {
		if s.GetLeader() != n.ID {
			continue
		}
		to := ""
		for _, r := range s.GetReplicas() {
			if r.GetNodeId() != n.ID {
				to = r.GetNodeId()
			}
		}
		admin(b, c, func(ctx context.Context, cl *harness.Client) error {
			_, err := cl.TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: s.GetShard(), NodeId: to})
			return err
		})
	}
}

// BenchmarkHandover measures for how long a client that writes to a leader's partitions has no acknowledgement, while that
// node gives its leaderships away in an orderly way. Every record must be acknowledged.
func BenchmarkHandover(b *testing.B) {
	b.Run("partitions=12/every=4ms", func(b *testing.B) {
		// The fourth node is what a drained node's replicas move to.
		c := harness.StartCluster(b, harness.Options{Nodes: 4, Flags: flags(map[string]string{"shards": "4"})})
		c.CreateTopic(topicName, handoverPartitions, nil)
		c.WaitInSync(time.Minute)
		var s silences
		end := s.write(b, c.Client(client.Config{}))
		for b.Loop() {
			for _, h := range handovers() {
				var ms []float64
				for range pick(9, 1) {
					ms = append(ms, h.silence(b, c, &s).Seconds()*1e3)
				}
				b.Logf("%s: silences in ms %.0f", h.name, ms)
				b.ReportMetric(median(ms), "ms-"+h.name)
				note(b, "silence of a client at a hand-over by "+h.name, median(ms), "ms", h.bound)
				note(b, "the same: longest", percentile(ms, 100), "ms", nil)
			}
		}
		end()
	})
}

// silence makes the node that leads the most hand over, and returns the longest silence of its partitions.
func (h *handover) silence(b *testing.B, c *harness.Cluster, s *silences) time.Duration {
	b.Helper()
	n, partitions := ledBy(c)
	idle(b.Context(), pick(2*time.Second, 300*time.Millisecond))
	s.begin()
	h.away(b, c, n)
	idle(b.Context(), pick(time.Second, 300*time.Millisecond))
	worst := s.worst(partitions)
	h.back(b, c, n)
	c.WaitInSync(time.Minute)
	return worst
}

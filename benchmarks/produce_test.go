package benchmarks

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/storage/record"
)

const topicName = "bench"

// flags of a cluster under load: uploads and everything else as in production, with room on the disk.
func flags(more map[string]string) map[string]string {
	f := map[string]string{"shards": "3", "disk-min-free": "0", "log-level": "warn"}
	maps.Copy(f, more)
	return f
}

// incompressible returns 1 KiB of random bytes, the same in every run.
func incompressible() []byte {
	rnd := rand.NewChaCha8([32]byte{1})
	b := make([]byte, 1<<10)
	_, _ = rnd.Read(b) // never fails
	return b
}

// batch returns a record batch of records of 1 KiB.
func batch(b *testing.B, records int) []byte {
	b.Helper()
	bl := record.NewBuilder(record.BuilderConfig{ProducerID: -1})
	for range records {
		bl.Append(record.Record{TimestampMs: time.Now().UnixMilli(), Value: incompressible()})
	}
	batch, err := bl.Build()
	if err != nil {
		b.Fatal(err)
	}
	return batch
}

// leaders returns the leader's node of every partition, in order.
func leaders(c *harness.Cluster, topic *streamhousev1.Topic) []*harness.Node {
	nodes := make([]*harness.Node, 0, len(topic.GetPartitions()))
	for _, p := range topic.GetPartitions() {
		nodes = append(nodes, c.Node(p.GetLeader()))
	}
	return nodes
}

// spreadLeaders creates the topic and waits until its shards, of which there are as many as nodes, are led by all nodes, so
// that nothing is measured through nodes that forward. It returns the leader of every partition, in order.
func spreadLeaders(b *testing.B, c *harness.Cluster, partitions int32) []*harness.Node {
	b.Helper()
	c.CreateTopic(topicName, partitions, nil)
	var topic *streamhousev1.Topic
	harness.Eventually(b, 2*time.Minute, "every node leads a shard", func(ctx context.Context) error {
		res, err := c.Nodes[0].GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: topicName})
		if err != nil {
			return err
		}
		topic = res.GetTopic()
		led := make(map[string]bool)
		for _, p := range topic.GetPartitions() {
			led[p.GetLeader()] = true
		}
		if led[""] || len(led) < len(c.Nodes) {
			return fmt.Errorf("shards are led by %q", slices.Collect(maps.Keys(led)))
		}
		return nil
	})
	return leaders(c, topic)
}

// load writes batches to all partitions through their leaders until the time or
// the bytes are reached, and returns how many bytes of values were acknowledged.
func load(b *testing.B, to []*harness.Node, during time.Duration, maxBytes int64, underway int) (int64, time.Duration) {
	b.Helper()
	return loadBatches(b, to, 100, during, maxBytes, underway)
}

// loadBatches is load with batches of so many records.
func loadBatches(b *testing.B, to []*harness.Node, records int, during time.Duration, maxBytes int64, underway int) (int64, time.Duration) {
	b.Helper()
	data := batch(b, records)
	ctx, cancel := context.WithTimeout(b.Context(), during+30*time.Second)
	defer cancel()
	var acked atomic.Int64
	start := time.Now()
	var wg sync.WaitGroup
	for partition, n := range to {
		for range underway {
			wg.Go(func() {
				for time.Since(start) < during && acked.Load() < maxBytes && ctx.Err() == nil {
					_, err := n.ProduceRecordBatches(ctx, &streamhousev1.ProduceRecordBatchesRequest{
						Topic: topicName, Partition: int32(partition), RecordBatches: data,
					})
					if err == nil {
						acked.Add(int64(records) << 10)
					} else if !harness.MayRetry(err) {
						b.Error(harness.Describe(err))
						return
					}
				}
			})
		}
	}
	wg.Wait()
	return acked.Load(), time.Since(start)
}

const unbounded = int64(1) << 60

// BenchmarkProduce compares a cluster of three processes with bare Raft, in turns.
func BenchmarkProduce(b *testing.B) {
	b.Run("record=1KiB/batch=100/acks=quorum", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
		to := spreadLeaders(b, c, 3)
		during := pick(6*time.Second, 300*time.Millisecond)
		var ours, bare1, bare3 []float64
		for b.Loop() {
			for range pick(3, 1) {
				bare1 = append(bare1, bareThroughput(b, 1, during))
				bare3 = append(bare3, bareThroughput(b, 3, during))
				bytes, took := load(b, to, during, unbounded, 24)
				ours = append(ours, float64(bytes)/took.Seconds()/1e6)
			}
		}
		b.Logf("MB/s: ours %.0f, bare with one group %.0f, with three groups %.0f", ours, bare1, bare3)
		b.ReportMetric(median(ours), "MB/s")
		note(b, "bare Raft, one group, 128 KiB entries", median(bare1), "MB/s", nil)
		note(b, "bare Raft, three groups, 128 KiB entries", median(bare3), "MB/s", nil)
		note(b, "produce, three nodes", median(ours), "MB/s", nil)
		note(b, "produce : bare Raft, one group", median(ours)/median(bare1), "", atLeast(0.5))
		note(b, "produce : bare Raft, three groups", median(ours)/median(bare3), "", nil)
	})
	b.Run("record=1KiB/batch=100/heap", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
		to := leaders(c, c.CreateTopic(topicName, 1, nil))
		load(b, to, pick(2*time.Second, 200*time.Millisecond), unbounded, 24)
		var perKiB []float64
		for b.Loop() {
			for range pick(3, 1) {
				before := allocated(b, to[0])
				bytes, _ := load(b, to, pick(3*time.Second, 200*time.Millisecond), unbounded, 24)
				perKiB = append(perKiB, (allocated(b, to[0])-before)/float64(bytes))
			}
		}
		b.ReportMetric(median(perKiB), "KiB/KiB")
		note(b, "heap allocated per KiB produced, on the leader", median(perKiB), "KiB", atMost(2))
	})
}

func allocated(b *testing.B, n *harness.Node) float64 {
	b.Helper()
	return n.MustScrape(b).Sum("go_memstats_alloc_bytes_total", nil)
}

// BenchmarkLatency is one producer with one record at a time, in turns with bare Raft.
func BenchmarkLatency(b *testing.B) {
	b.Run("record=1KiB/acks=quorum", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
		c.CreateTopic(topicName, 1, nil)
		c.WaitInSync(time.Minute)
		leader := leaders(c, c.Topic(topicName))[0]
		g := startBareRaft(b)
		var ours, bare []float64
		n := pick(1000, 10)
		for b.Loop() {
			for range pick(5, 1) {
				bare = append(bare, bareLatency(b, g, n)...)
				ours = append(ours, ourLatency(b, leader, n)...)
			}
		}
		b.ReportMetric(median(ours), "ms/record")
		note(b, "bare Raft apply of 1 KiB, p50", median(bare), "ms", nil)
		note(b, "bare Raft apply of 1 KiB, p99", percentile(bare, 99), "ms", nil)
		note(b, "acknowledgement of a 1 KiB record, p50", median(ours), "ms", nil)
		note(b, "acknowledgement of a 1 KiB record, p99", percentile(ours, 99), "ms", nil)
		note(b, "acknowledgement : bare Raft apply, p50", median(ours)/median(bare), "", atMost(2))
	})
}

func ourLatency(b *testing.B, leader *harness.Node, n int) []float64 {
	b.Helper()
	took := make([]float64, 0, n)
	value := incompressible()
	partition := int32(0)
	for range n {
		start := time.Now()
		_, err := leader.Produce(b.Context(), &streamhousev1.ProduceRequest{
			Topic: topicName, Partition: &partition, Record: &streamhousev1.Record{Value: value},
		})
		if err != nil {
			b.Fatal(harness.Describe(err))
		}
		took = append(took, time.Since(start).Seconds()*1e3)
	}
	return took
}

// BenchmarkFailover kills leaders and measures how long it takes until a write is acknowledged.
func BenchmarkFailover(b *testing.B) {
	c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
	c.CreateTopic(topicName, 1, nil)
	var took []float64
	for b.Loop() {
		for i := range pick(30, 1) {
			c.WaitInSync(2 * time.Minute)
			leader := leaders(c, c.Topic(topicName))[0]
			others := c.Others(leader)
			if err := ackedThrough(b.Context(), others[0]); err != nil {
				b.Fatal(harness.Describe(err))
			}
			start := time.Now()
			leader.Kill()
			harness.Eventually(b, time.Minute, "a write is acknowledged", func(ctx context.Context) error {
				return ackedThrough(ctx, others[i%2])
			})
			took = append(took, time.Since(start).Seconds())
			leader.Start()
		}
	}
	b.Logf("seconds: %s", fmt.Sprintf("%.2f", took))
	b.ReportMetric(median(took), "s/failover")
	note(b, "kill -9 of a leader to the next acknowledgement, median", median(took), "s", atMost(2))
	note(b, "kill -9 of a leader to the next acknowledgement, worst", percentile(took, 100), "s", atMost(4))
}

func ackedThrough(ctx context.Context, n *harness.Node) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	partition := int32(0)
	_, err := n.Produce(ctx, &streamhousev1.ProduceRequest{
		Topic: topicName, Partition: &partition, Record: &streamhousev1.Record{Value: []byte("x")},
	})
	return err
}

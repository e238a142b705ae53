package benchmarks

import (
	"context"
	"errors"
	"runtime"
	"runtime/debug"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// clientBatchRecords is how many records of 1 KiB a batch has in these benchmarks, raw or the client's: as many as fit
// into its default.
const clientBatchRecords = 240

// produceFor writes records of 1 KiB through the client for a while, and returns how many were acknowledged, and how long
// that took.
func produceFor(b *testing.B, p *client.Producer, during time.Duration) (int64, time.Duration) {
	b.Helper()
	var acked atomic.Int64
	promise := func(_ *client.Record, err error) {
		if err != nil {
			b.Error(err)
			return
		}
		acked.Add(1)
	}
	value := incompressible()
	start := time.Now()
	for time.Since(start) < during {
		for range clientBatchRecords {
			if err := p.Produce(b.Context(), &client.Record{Topic: topicName, Value: value}, promise); err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := p.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	return acked.Load(), time.Since(start)
}

func newProducer(b *testing.B, c *client.Client) *client.Producer {
	b.Helper()
	p, err := client.NewProducer(c, client.ProducerConfig{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

// mallocs returns how many objects this process has allocated so far.
func mallocs() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Mallocs
}

// BenchmarkClientProduce compares the client's producer with calls that write batches which were built before, in turns.
// Both have at most five batches of a partition under way: nodes remember as many for a producer.
func BenchmarkClientProduce(b *testing.B) {
	b.Run("record=1KiB/batch=240/acks=quorum", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
		to := spreadLeaders(b, c, 12)
		p := newProducer(b, c.Client(client.Config{}))
		during := pick(3*time.Second, 300*time.Millisecond)
		produceFor(b, p, during/3)
		var ours, raw, allocs []float64
		for b.Loop() {
			for range pick(11, 1) { // many short turns: the machine's speed changes within seconds
				bytes, took := loadBatches(b, to, clientBatchRecords, during, unbounded, 5)
				raw = append(raw, float64(bytes)/took.Seconds()/1e6)
				before := mallocs()
				records, took := produceFor(b, p, during)
				allocs = append(allocs, float64(mallocs()-before)/float64(records))
				ours = append(ours, float64(records<<10)/took.Seconds()/1e6)
			}
		}
		b.Logf("MB/s: client %.0f, raw batches %.0f", ours, raw)
		b.ReportMetric(median(ours), "MB/s")
		note(b, "raw batches over gRPC, 240 records of 1 KiB", median(raw), "MB/s", nil)
		note(b, "client produce", median(ours), "MB/s", nil)
		note(b, "client produce : raw batches", median(ours)/median(raw), "", atLeast(0.9))
		note(b, "client produce: heap allocations", median(allocs), "per record", atMost(2))
	})
}

// BenchmarkClientConsume reads what nodes have in memory through the client's consumer.
func BenchmarkClientConsume(b *testing.B) {
	b.Run("record=1KiB/from=memory", func(b *testing.B) {
		total := pick(int64(192<<20), 4<<20)
		c := harness.StartCluster(b, harness.Options{Flags: flags(map[string]string{"tail-bytes": "1GiB"})})
		load(b, leaders(c, c.CreateTopic(topicName, 3, nil)), time.Minute, total, 16)
		cl := c.Client(client.Config{})
		var rates, allocs []float64
		for b.Loop() {
			for range pick(5, 1) {
				before, start := mallocs(), time.Now()
				records := consumeAll(b, cl)
				took := time.Since(start)
				allocs = append(allocs, float64(mallocs()-before)/float64(records))
				rates = append(rates, float64(records<<10)/took.Seconds()/1e6)
			}
		}
		b.Logf("MB/s: %.0f", rates)
		b.ReportMetric(median(rates), "MB/s")
		note(b, "client consume from memory", median(rates), "MB/s", atLeast(150))
		note(b, "client consume: heap allocations", median(allocs), "per record", atMost(2))
	})
}

// consumeAll reads the topic to its end, and returns how many records it has.
func consumeAll(b *testing.B, c *client.Client) int64 {
	b.Helper()
	ends, err := client.NewAdmin(c).ListOffsets(b.Context(), topicName, client.LogEnd)
	if err != nil {
		b.Fatal(err)
	}
	left := int64(0)
	for _, end := range ends {
		left += end
	}
	r, err := client.NewConsumer(c, client.ConsumerConfig{Topics: []string{topicName}})
	if err != nil {
		b.Fatal(err)
	}
	total := left
	for left > 0 {
		records, err := r.Poll(b.Context())
		if err != nil {
			b.Fatal(err)
		}
		left -= int64(len(records))
	}
	if err := r.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	return total
}

// BenchmarkClientMemory hands 10,000 records of 1 KiB to a producer whose cluster does not answer, and looks what the
// whole process takes from the system then.
func BenchmarkClientMemory(b *testing.B) {
	b.Run("record=1KiB/in-flight=10000", func(b *testing.B) {
		c := harness.StartCluster(b, harness.Options{Flags: flags(nil)})
		c.CreateTopic(topicName, 3, nil)
		p := newProducer(b, c.Client(client.Config{}))
		produceFor(b, p, 100*time.Millisecond) // connections, ids and leaders are known
		n := pick(10_000, 100)
		var held []float64
		for b.Loop() {
			debug.FreeOSMemory()
			for _, node := range c.Nodes {
				if err := node.Process().Pause(); err != nil {
					b.Fatal(err)
				}
			}
			for range n {
				value := incompressible()
				err := p.Produce(b.Context(), &client.Record{Topic: topicName, Value: value}, nil)
				if err != nil {
					b.Fatal(err)
				}
			}
			if got := p.BufferedRecords(); got != n {
				b.Fatalf("%d records are in flight", got)
			}
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			held = append(held, float64(m.Sys-m.HeapReleased)/(1<<20))
			for _, node := range c.Nodes {
				if err := node.Process().Resume(); err != nil {
					b.Fatal(err)
				}
			}
			if err := p.Flush(b.Context()); err != nil && !errors.Is(err, client.ErrOutcomeUnknown) {
				b.Fatal(err)
			}
		}
		b.ReportMetric(median(held), "MiB")
		note(b, "a process with 10,000 records of 1 KiB in flight", median(held), "MiB", atMost(64))
	})
}

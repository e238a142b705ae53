package benchmarks

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// resultLine is what a benchmark with -benchmem prints.
var resultLine = regexp.MustCompile(`(?m)^BenchmarkInstrumentation(\S*?)(?:-\d+)?\s+\d+\s+[\d.]+ ns/op\s+([\d.]+) cpu-ns/op\s+\d+ B/op\s+(\d+) allocs/op`)

// BenchmarkInstrumentation reports what counting, logging and tracing cost a batch while tracing is off: the benchmarks of
// that stand beside the code, which this module can't see.
func BenchmarkInstrumentation(b *testing.B) {
	root, err := harness.Root()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		nanos, allocs := make(map[string][]float64), make(map[string]float64)
		cmd := exec.CommandContext(b.Context(), "go", "test", "-run", "^$", "-bench", "^BenchmarkInstrumentation$", "-benchmem", "-cpu", "1",
			"-benchtime", pick("0.3s", "1000x"), "-count", pick("7", "1"), "./broker", "./broker/shard")
		cmd.Dir = root
		cmd.Env = append(os.Environ(), "GOFLAGS=")
		out, err := cmd.CombinedOutput()
		if err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		for _, m := range resultLine.FindAllStringSubmatch(string(out), -1) {
			ns, _ := strconv.ParseFloat(m[2], 64) // the pattern has digits only
			n, _ := strconv.ParseFloat(m[3], 64)
			nanos[m[1]] = append(nanos[m[1]], ns)
			allocs[m[1]] = max(allocs[m[1]], n)
		}
		if len(nanos) != 3 {
			b.Fatalf("%d of 3 benchmarks found:\n%s", len(nanos), out)
		}
		b.Logf("ns of CPU: %v", nanos)
		note(b, "instrumentation of a produced batch, tracing off, best of 7", slices.Min(nanos["/produced"])+slices.Min(nanos[""]), "ns of CPU", atMost(100))
		note(b, "the same: allocations", allocs["/produced"]+allocs[""], "per batch", atMost(0))
		note(b, "instrumentation of a consumed batch, tracing off, best of 7", slices.Min(nanos["/consumed"]), "ns of CPU", atMost(100))
		note(b, "the same: allocations", allocs["/consumed"], "per batch", atMost(0))
	}
}

// BenchmarkTracing compares the CPU time that nodes spend on the same work with tracing off and with 1 % of the requests
// sampled, in turns: writes of small batches, where a request costs most, and reads of them.
func BenchmarkTracing(b *testing.B) {
	b.Run("sampled=1%", func(b *testing.B) {
		receiver := harness.StartOTLP(b)
		off := newTracee(b, nil)
		on := newTracee(b, slices.Concat(receiver.Env(), []string{"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=0.01"}))
		batches := pick(700, 20)
		for _, t := range []*tracee{off, on} {
			t.turn(b, batches) // warm up
		}
		for b.Loop() {
			for i := range pick(15, 1) {
				for _, t := range [][]*tracee{{off, on}, {on, off}}[i%2] {
					t.turn(b, batches)
				}
			}
		}
		var ratios []float64
		for i := range off.cpu {
			ratios = append(ratios, 100*(on.cpu[i]/off.cpu[i]-1))
		}
		spans := len(receiver.Spans(""))
		b.Logf("CPU seconds off %.2f, on %.2f, %% more %.1f, %d spans were received", off.cpu, on.cpu, ratios, spans)
		note(b, fmt.Sprintf("CPU of a node, %d batches of 1 record written and read", batches), median(off.cpu), "s", nil)
		note(b, "tracing of 1 % of requests: CPU, median of 15 pairs of turns", median(ratios), "% more", atMost(2))
		if spans == 0 && !testing.Short() {
			b.Error("nothing was sampled")
		}
	})
}

// tracee is a cluster of one node and how much CPU time its turns took.
type tracee struct {
	cluster  *harness.Cluster
	producer *client.Producer
	value    []byte
	offset   int64
	cpu      []float64
}

func newTracee(b *testing.B, env []string) *tracee {
	b.Helper()
	c := harness.StartCluster(b, harness.Options{Nodes: 1, Flags: flags(nil), Env: env})
	c.CreateTopic(topicName, 1, nil)
	return &tracee{cluster: c, value: incompressible(), producer: newProducer(b, c.Client(client.Config{}))}
}

// turn writes batches one at a time through the stream and reads each, and notes the CPU time. The first turn is not noted.
func (t *tracee) turn(b *testing.B, batches int) {
	b.Helper()
	n := t.cluster.Nodes[0]
	_, before := usage(b, n.Process().PID())
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for range batches {
		if err := t.producer.ProduceSync(ctx, &client.Record{Topic: topicName, Value: t.value}); err != nil {
			b.Fatal(err)
		}
		res, err := n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: topicName, Offset: t.offset, MaxRecords: 1})
		if err != nil || len(res.GetRecords()) != 1 {
			b.Fatalf("%d records, %v", len(res.GetRecords()), err)
		}
		t.offset++
	}
	_, after := usage(b, n.Process().PID())
	if t.offset > int64(batches) {
		t.cpu = append(t.cpu, after-before)
	}
}

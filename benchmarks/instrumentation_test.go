package benchmarks

import (
	"context"
	"fmt"
	"math"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// resultLine is what a benchmark with -benchmem prints.
var resultLine = regexp.MustCompile(`(?m)^BenchmarkInstrumentation/(\S+?)(?:-\d+)?\s+\d+\s+[\d.]+ ns/op\s+([\d.]+) cpu-ns/batch\s+\d+ B/op\s+(\d+) allocs/op`)

// ways of a batch through the nodes, and the parts of which the instrumentation on each is made up, with tracing off. The
// benchmarks of the parts stand beside the code, which this module can't see. A batch may cost 100 ns, and 100 more for each
// call between client and nodes, or node and node, that it is alone in.
var ways = []struct {
	name  string
	parts []string
	calls float64
}{
	{"produced by a call", []string{"called", "stored"}, 1},
	{"produced by a call that is forwarded", []string{"called", "forwarded", "called", "stored"}, 2},
	{"produced in a stream", []string{"streamed", "storedInGroup"}, 0},
	{"consumed by a call", []string{"called", "consumed"}, 1},
	{"consumed by a group's call", []string{"called", "consumedByGroup"}, 1},
}

// together is how many batches one run of a part is for.
var together = map[string]float64{"storedInGroup": 16}

// BenchmarkInstrumentation reports what counting, logging and tracing cost a batch while tracing is off: the best of many
// short runs, that is the one which others have disturbed least.
func BenchmarkInstrumentation(b *testing.B) {
	for b.Loop() {
		nanos, allocs := partsOfInstrumentation(b)
		b.Logf("ns of CPU: %v; allocations: %v", nanos, allocs)
		for _, w := range ways {
			ns, n, allowed := 0.0, 0.0, 0.0
			for _, part := range w.parts {
				if _, ok := nanos[part]; !ok {
					b.Fatalf("there is no benchmark of %q", part)
				}
				ns += nanos[part]
				if of := together[part]; of > 0 {
					n += allocs[part] / of
					allowed = 1 / of // one for all of them
					continue
				}
				n += allocs[part]
			}
			note(b, "instrumentation of a batch "+w.name, ns, "ns of CPU", atMost(100*(1+w.calls)))
			note(b, "the same: allocations", n, "", atMost(allowed))
		}
	}
}

// partsOfInstrumentation runs the benchmarks that stand beside the code.
func partsOfInstrumentation(b *testing.B) (nanos, allocs map[string]float64) {
	b.Helper()
	root, err := harness.Root()
	if err != nil {
		b.Fatal(err)
	}
	cmd := exec.CommandContext(b.Context(), "go", "test", "-run", "^$", "-bench", "^BenchmarkInstrumentation$", "-benchmem", "-cpu", "1",
		"-benchtime", "20000x", "-count", pick("60", "1"), "./broker", "./broker/rpc", "./broker/shard")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "GOFLAGS=")
	out, err := cmd.CombinedOutput()
	if err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	nanos, allocs = make(map[string]float64), make(map[string]float64)
	for _, m := range resultLine.FindAllStringSubmatch(string(out), -1) {
		ns, _ := strconv.ParseFloat(m[2], 64) // the pattern has digits only
		n, _ := strconv.ParseFloat(m[3], 64)
		if best, ok := nanos[m[1]]; !ok || ns < best {
			nanos[m[1]] = ns
		}
		allocs[m[1]] = max(allocs[m[1]], n)
	}
	return nanos, allocs
}

// BenchmarkTracing compares the CPU time that nodes spend on the same work with tracing off and with 1 % of the requests
// sampled, in many short turns: writes of one record, where a request costs most, and reads of them. It sees what a profile
// does not, the work that others have with a traced call, but no better than the interval says.
func BenchmarkTracing(b *testing.B) {
	b.Run("sampled=1%", func(b *testing.B) {
		receiver := harness.StartOTLP(b)
		off := newTracee(b, nil)
		on := newTracee(b, slices.Concat(receiver.Env(), sampledEnv("0.01")))
		batches, pairs := pick(60, 5), pick(120, 1)
		for _, t := range []*tracee{off, on} {
			t.turn(b, 10*batches) // warm up
		}
		var ratios []float64
		for b.Loop() {
			for i := range pairs {
				var spent [2]float64
				for _, j := range [][]int{{0, 1}, {1, 0}}[i%2] {
					spent[j] = []*tracee{off, on}[j].turn(b, batches)
				}
				ratios = append(ratios, 100*(spent[1]/spent[0]-1))
			}
		}
		low, high := interval(ratios)
		spans := len(receiver.Spans(""))
		b.Logf("%d pairs of turns of %d batches, %d spans were received", len(ratios), batches, spans)
		note(b, fmt.Sprintf("tracing of 1 %% of requests: CPU, median of %d pairs of turns", len(ratios)), median(ratios), "% more", atMost(2))
		note(b, "the same: 95 % of such medians are above", low, "% more", nil)
		note(b, "the same: 95 % of such medians are below", high, "% more", nil)
		if spans == 0 && !testing.Short() {
			b.Error("nothing was sampled")
		}
	})
}

// interval is the one that has the median in it with 95 %, whatever the distribution: the ranks are those of the binomial
// distribution, which is near a normal one.
func interval(v []float64) (low, high float64) {
	s := slices.Sorted(slices.Values(v))
	n := float64(len(s))
	d := 1.96 * math.Sqrt(n) / 2
	return s[max(0, int(n/2-d))], s[min(len(s)-1, int(math.Ceil(n/2+d)))]
}

// tracee is a cluster of one node that is written to and read from.
type tracee struct {
	cluster *harness.Cluster
	value   []byte
	offset  int64
}

func newTracee(b *testing.B, env []string) *tracee {
	b.Helper()
	c := harness.StartCluster(b, harness.Options{Nodes: 1, Flags: flags(nil), Env: env})
	c.CreateTopic(topicName, 1, nil)
	return &tracee{cluster: c, value: incompressible()}
}

// turn writes batches one at a time and reads each. It returns the CPU seconds that the node has used.
func (t *tracee) turn(b *testing.B, batches int) float64 {
	b.Helper()
	n := t.cluster.Nodes[0]
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	before := cpuClock(b, n.Process().PID())
	for range batches {
		_, err := n.Produce(ctx, &streamhousev1.ProduceRequest{Topic: topicName, Record: &streamhousev1.Record{Value: t.value}})
		if err != nil {
			b.Fatal(harness.Describe(err))
		}
		res, err := n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: topicName, Offset: t.offset, MaxRecords: 1})
		if err != nil || len(res.GetRecords()) != 1 {
			b.Fatalf("%d records, %v", len(res.GetRecords()), err)
		}
		t.offset++
	}
	return (cpuClock(b, n.Process().PID()) - before).Seconds()
}

// cpuClock is the CPU time that another process has used, to the nanosecond: /proc tells hundredths of a second.
func cpuClock(b *testing.B, pid int) time.Duration {
	b.Helper()
	var ts unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil { // as clock_getcpuclockid(3) makes it
		b.Fatal(err)
	}
	return time.Duration(ts.Nano())
}

package benchmarks

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/pprof/profile"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// What makes up the instrumentation, by the names of functions. A sample belongs to it when one of these is anywhere in its
// stack; of a wrapper, through which the work itself goes, only where it is the innermost. hashicorp/raft calls go-metrics
// whether anybody listens or not: what listens is ours, the rest is not.
var (
	instrumentation = regexp.MustCompile(`^github\.com/prometheus/client_golang/` +
		`|^log/slog\.|^go\.opentelemetry\.io/|^google\.golang\.org/grpc/(stats|internal/stats)\.` +
		`|^github\.com/streamhouse/streamhouse/(` +
		`observability\.\(\*(handler|sampler|redactor|raftSink)\)` +
		`|internal/tracing\.(Take|WithRemote|outgoing|spanName|describe|End|Observe|Tracer)` +
		`|broker\.(\(\*Metrics\)|\(\*Broker\)\.(known|consumed|written|Count)|\(\*pipeline\)\.trace|\(\*laneGroup\)\.(trace|context))` +
		`|broker/rpc\.(\(\*callLog\)|\(\*counting\)\.count\b)` +
		`|broker/shard\.(\(\*Metrics\)|\(\*batchCounts\)|\(\*proposer\)\.mark|\(\*waitingTraces\)|clock))`)
	wrapper = regexp.MustCompile(`^github\.com/streamhouse/streamhouse/(` +
		`internal/tracing\.|broker/rpc\.\(\*counting\)|broker/shard\.\(\*proposer\)\.traceCommit|storage/object\.\(\*(counted|traced))`)
	ofRaft    = regexp.MustCompile(`^github\.com/streamhouse/streamhouse/observability\.\(\*raftSink\)`)
	ofTracing = regexp.MustCompile(`^go\.opentelemetry\.io/|^github\.com/streamhouse/streamhouse/internal/tracing\.`)
)

// share of the CPU time of profiles that the instrumentation takes.
type share struct {
	total, instrumentation, raft, tracing int64            // ns
	by                                    map[string]int64 // ns by the outermost function of the instrumentation
}

func (s *share) add(p *profile.Profile) {
	for _, sample := range p.Sample {
		spent := sample.Value[len(sample.Value)-1]
		s.total += spent
		if name := found(sample); name != "" {
			s.instrumentation += spent
			s.by[name] += spent
			switch {
			case ofRaft.MatchString(name):
				s.raft += spent
			case ofTracing.MatchString(name):
				s.tracing += spent
			}
		}
	}
}

// found returns the outermost function of instrumentation in a stack, "" where there is none.
func found(sample *profile.Sample) string {
	name := ""
	for i, loc := range sample.Location {
		for j, line := range loc.Line {
			f := line.Function.Name
			if instrumentation.MatchString(f) || i == 0 && j == 0 && wrapper.MatchString(f) {
				name = f
			}
		}
	}
	return name
}

func (s *share) percent(part int64) float64 { return 100 * float64(part) / float64(max(s.total, 1)) }

func (s *share) String() string {
	var out strings.Builder
	_, _ = fmt.Fprintf(&out, "%.1f s of CPU, instrumentation %.2f %%", float64(s.total)/1e9, s.percent(s.instrumentation))
	for _, name := range slices.SortedFunc(maps.Keys(s.by), func(x, y string) int { return int(s.by[y] - s.by[x]) }) {
		_, _ = fmt.Fprintf(&out, "\n%7.3f %% %s", s.percent(s.by[name]), name)
	}
	return out.String()
}

// profiled runs a path and takes CPU profiles of all nodes meanwhile, until there are enough samples or it takes too long.
func profiled(b *testing.B, c *harness.Cluster, p path) (s *share, batches int64) {
	b.Helper()
	seconds, enough := pick(10, 1), pick(30*time.Second, 0)
	s = &share{by: make(map[string]int64)}
	for rounds := 0; rounds == 0 || rounds < 12 && s.total < enough.Nanoseconds(); rounds++ {
		profiles := make([]*profile.Profile, len(c.Nodes))
		var wg sync.WaitGroup
		for i, n := range c.Nodes {
			wg.Go(func() {
				var err error
				if profiles[i], err = cpuProfile(b.Context(), n.URL(fmt.Sprintf("/debug/pprof/profile?seconds=%d", seconds))); err != nil {
					b.Error(err)
				}
			})
		}
		batches += p.run(b, c, 9, time.Duration(seconds)*time.Second)
		wg.Wait()
		for _, got := range profiles {
			if got != nil {
				s.add(got)
			}
		}
	}
	return s, batches
}

func cpuProfile(ctx context.Context, url string) (*profile.Profile, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return nil, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: status %d", url, resp.StatusCode)
	}
	return profile.Parse(resp.Body)
}

// BenchmarkShare takes CPU profiles of three nodes at work, and reports which part of the samples is of the instrumentation:
// a machine that others use too slows down all of it alike. What a sample of the work itself costs more for the
// instrumentation's sake, such as collecting its garbage, is not in that part.
func BenchmarkShare(b *testing.B) {
	type mode struct {
		name    string
		env     []string
		tracing *bound
	}
	modes := []mode{
		{"tracing=off", nil, atMost(0.2)},
		{"tracing=1%", sampledEnv("0.01"), atMost(2)},
	}
	for _, mode := range pick(modes, modes[:1]) {
		b.Run(mode.name, func(b *testing.B) {
			env := mode.env
			if env != nil {
				env = slices.Concat(harness.StartOTLP(b).Env(), env)
			}
			c := newPathCluster(b, pick(3, 1), env)
			for b.Loop() {
				for _, p := range paths {
					s, batches := profiled(b, c, p)
					b.Logf("%s: %d batches, %s", p.name, batches, s)
					what := mode.name + ": " + p.name
					note(b, what+": CPU of all nodes", float64(s.total)/1e3/float64(max(batches, 1)), "µs a batch", nil)
					note(b, what+": metrics and logs", s.percent(s.instrumentation-s.tracing), "% of CPU", atMost(1))
					note(b, what+": of these the metrics of hashicorp/raft", s.percent(s.raft), "% of CPU", nil)
					note(b, what+": tracing", s.percent(s.tracing), "% of CPU", mode.tracing)
					if s.instrumentation == 0 && !testing.Short() {
						b.Errorf("%s: no instrumentation was seen in %d ns", p.name, s.total)
					}
				}
			}
		})
	}
}

// sampledEnv lets nodes sample such a part of the requests.
func sampledEnv(ratio string) []string {
	return []string{"OTEL_TRACES_SAMPLER=parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG=" + ratio}
}

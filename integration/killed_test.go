package integration_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// process is one life of a node, from its start to its end, which is zero while it lives.
type process struct {
	node     string
	from, to time.Time
}

// processes are all those of a cluster, so that Prometheus can be asked for what each counted last: the sum over nodes has
// only those that live, and is never above that.
type processes struct {
	p   *harness.Prometheus
	all []process
}

func newProcesses(c *harness.Cluster, p *harness.Prometheus, began time.Time) *processes {
	ps := &processes{p: p}
	for _, n := range c.Nodes {
		ps.all = append(ps.all, process{node: n.ID, from: began})
	}
	return ps
}

// killed returns all processes after the last one of a node has ended.
func (ps *processes) killed(n *harness.Node) *processes {
	all := slices.Clone(ps.all)
	for i, life := range slices.Backward(all) {
		if life.node == n.ID {
			all[i].to = time.Now()
			break
		}
	}
	return &processes{p: ps.p, all: all}
}

// started returns all processes with a new one of a node.
func (ps *processes) started(n *harness.Node) *processes {
	return &processes{p: ps.p, all: append(slices.Clone(ps.all), process{node: n.ID, from: time.Now()})}
}

// of returns a range selector of what one process told, as text of PromQL.
func (life process) of(metric, labels string, now time.Time) string {
	to := life.to
	if to.IsZero() {
		to = now
	}
	return fmt.Sprintf("%s{%snode=%q}[%dms] @ %.3f", metric, labels, life.node, max(1, to.Sub(life.from).Milliseconds()), float64(to.UnixMilli())/1000)
}

// total adds up what all processes counted last.
func (ps *processes) total(ctx context.Context, metric, labels string) (float64, error) {
	now := time.Now()
	terms := make([]string, 0, len(ps.all))
	for _, life := range ps.all {
		terms = append(terms, fmt.Sprintf("(sum(max_over_time(%s)) or vector(0))", life.of(metric, labels, now)))
	}
	return ps.p.Value(ctx, strings.Join(terms, " + "))
}

// resets is how often counters of the contract went back within a process.
func (ps *processes) resets(t *testing.T) float64 {
	t.Helper()
	total, series, now := 0.0, 0, time.Now()
	for _, name := range countedNames() {
		for _, life := range ps.all {
			v, err := ps.p.Vector(t.Context(), fmt.Sprintf("resets(%s)", life.of(name, "", now)))
			require.NoError(t, err)
			series += len(v)
			for _, s := range v {
				total += float64(s.Value)
			}
		}
	}
	require.Greater(t, series, 50*len(ps.all))
	return total
}

// countedNames are the names of all series of the contract that only go up.
func countedNames() []string {
	var names []string
	for _, m := range contract {
		switch m.kind {
		case counter:
			names = append(names, m.name)
		case histogram:
			names = append(names, m.name+"_count", m.name+"_sum", m.name+"_bucket")
		default:
		}
	}
	return names
}

// limit is what a counter, added up over all processes, may not be above.
type limit struct {
	metric, labels string
	// truth is how much there was, asked after the counter was.
	truth func(context.Context) (float64, error)
}

// check asks for the counter and then for the truth. Where that is what S3 saw, a request that was counted may come there a
// moment later.
func (l limit) check(ctx context.Context, ps *processes) error {
	counted, err := ps.total(ctx, l.metric, l.labels)
	if err != nil {
		return err
	}
	truth := 0.0
	patience, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	above := errors.New("above the truth")
	err = harness.Poll(patience, func(context.Context) error {
		if truth, err = l.truth(ctx); err == nil && counted > truth {
			err = above
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("%s{%s}: %v are counted, the truth is %v: %w", l.metric, l.labels, counted, truth, err)
	}
	return nil
}

// kill ends nodes with kill -9 under a load of known size, and starts them again: first the one that leads the shard, then
// the one that reads through its cache. All the while no counter is above the truth.
func (w *workload) kill(p *harness.Prometheus, began time.Time) {
	w.t.Helper()
	ps := newProcesses(w.c, p, began)
	l := w.startLoad()
	limits := w.limits(l, ps)
	before := make([]float64, 0, len(limits))
	for _, limit := range limits {
		v, err := ps.total(w.t.Context(), limit.metric, limit.labels)
		require.NoError(w.t, err)
		before = append(before, v)
	}
	watched := func(what string, change func()) {
		w.t.Helper()
		stop := w.watch(limits, ps)
		change()
		l.more()
		w.t.Logf("%s: nothing was above the truth, in %d looks", what, stop())
	}
	watched("at first", func() {})
	for _, n := range []*harness.Node{w.c.ShardLeader(0), w.outsider} {
		n.Kill()
		ps = ps.killed(n)
		watched(n.ID+" is dead", func() { p.WaitValue(scrapedWithin, "count(streamhouse_agents_active == 3)", 3) })
		require.Zero(w.t, ps.resets(w.t), "nothing has gone back while nobody was started again")

		ps = ps.started(n)
		n.Start()
		watched(n.ID+" is back", func() {
			p.WaitValue(scrapedWithin, "count(streamhouse_agents_active == 4)", 4)
			l.served(n)
		})
	}
	l.stop()
	p.WaitScraped(scrapedWithin)
	require.Zero(w.t, ps.resets(w.t))
	w.requireWithin(limits, before, ps)
}

// requireWithin holds all counters against the truth once nothing happens any more, and wants them to have moved.
func (w *workload) requireWithin(limits []limit, before []float64, ps *processes) {
	w.t.Helper()
	has := make(map[string]bool)
	for i, limit := range limits {
		has[limit.metric] = true
		require.NoError(w.t, limit.check(w.t.Context(), ps))
		counted, err := ps.total(w.t.Context(), limit.metric, limit.labels)
		require.NoError(w.t, err)
		truth, err := limit.truth(w.t.Context())
		require.NoError(w.t, err)
		w.t.Logf("%-40s %12.3f counted by all processes, %12.3f true, %s", limit.metric, counted, truth, limit.labels)
		if !slices.Contains(still, limit.metric+"{"+limit.labels+"}") && !slices.Contains(unused, limit.labels) {
			require.Greater(w.t, counted, before[i], "%s{%s} has moved", limit.metric, limit.labels)
		}
	}
	for _, name := range countedNames() {
		require.True(w.t, has[name] || strings.HasSuffix(name, "_bucket"), "%s is not watched", name)
	}
}

// What the load does not move: operations that nodes make now and then, and reads of S3 that fail.
var (
	unused = []string{`operation="DELETE",`, `operation="HEAD",`, `operation="LIST",`}
	still  = []string{`streamhouse_s3_errors_total{operation="GET",}`}
)

// watch holds all counters against the truth, again and again, until it is stopped, which returns how often it did.
func (w *workload) watch(limits []limit, ps *processes) (stop func() int) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	looks := 0
	go func() { // joined by stop
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			for _, l := range limits {
				if err := l.check(ctx, ps); err != nil && ctx.Err() == nil {
					done <- err
					return
				}
			}
			looks++
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
		}
	}()
	return func() int {
		w.t.Helper()
		cancel()
		require.NoError(w.t, <-done)
		return looks
	}
}

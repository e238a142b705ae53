package grafana_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/grafana"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// live is a Prometheus that scrapes a cluster, and what is asked of it.
type live struct {
	*harness.Prometheus

	began      time.Time
	dashboards []grafana.Dashboard
	values     map[string]map[string][]string // by dashboard and variable
}

// TestLive takes every expression from the files, and asks the Prometheus of a cluster for it: while all of it moves, and
// when nothing does.
func TestLive(t *testing.T) {
	c := harness.StartCluster(t, harness.Options{Flags: map[string]string{
		"shards": "3", "upload-interval": "300ms", "checkpoint-bytes": "1KiB", "log-retain-bytes": "0", "tail-bytes": "0",
		"cache-bytes": "32MiB", "disk-min-free": "0",
		// On a busy machine leaders stay where they are: each node leads something, and what it counts goes on.
		"raft-heartbeat-timeout": "5s", "raft-election-timeout": "5s", "raft-lease-timeout": "2s",
	}})
	l := &live{began: time.Now(), dashboards: dashboards(t), values: make(map[string]map[string][]string)}
	l.Prometheus = harness.StartPrometheus(t, c, harness.PrometheusOptions{ScrapeInterval: 2 * time.Second, RuleFiles: ruleFiles(t)})
	w := startWorkload(t, c, l.Prometheus)
	harness.Eventually(t, 5*time.Minute, "every panel of the five dashboards has moved", l.allMoved)
	l.findValues(t)
	t.Run("names are exported", l.testNames)
	t.Run("names in documents are exported", l.testDocuments)
	t.Run("every value of every variable", l.testValues)
	t.Run("rules", l.testRules)

	lag := w.stop(t)
	t.Run("idle", func(t *testing.T) { l.testIdle(t, lag) })
}

// all fills in "All" for every variable of a dashboard.
func all(d *grafana.Dashboard) map[string]string {
	values := windows(nil)
	for _, v := range d.Templating.List {
		values[v.Name] = v.AllValue
	}
	return values
}

// eachTarget calls f with each query of each panel.
func (l *live) eachTarget(f func(d *grafana.Dashboard, p *grafana.Panel, q *grafana.Target) error) error {
	for i := range l.dashboards {
		d := &l.dashboards[i]
		for j := range d.Panels {
			p := &d.Panels[j]
			for k := range p.Targets {
				if err := f(d, p, &p.Targets[k]); err != nil {
					return fmt.Errorf("%s: %s: %s: %w", d.UID, p.Title, p.Targets[k].Expr, err)
				}
			}
		}
	}
	return nil
}

// asking is the context of one query, which does not end with the wait for its result, so that what is told in the end is
// what was wrong with that.
func asking(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
}

// since returns an expression's values since the beginning, as a graph has them. There must be some, and none may be NaN.
func (l *live) since(ctx context.Context, expr string) (model.Matrix, error) {
	ctx, cancel := asking(ctx)
	defer cancel()
	v, _, _, err := l.QueryRange(ctx, expr, promv1.Range{Start: l.began, End: time.Now(), Step: 2 * time.Second})
	if err != nil {
		return nil, err
	}
	m, ok := v.(model.Matrix)
	if !ok || len(m) == 0 {
		return nil, errors.New("no data")
	}
	for _, s := range m {
		for _, p := range s.Values {
			if err := isNumber(p.Value); err != nil {
				return nil, fmt.Errorf("%s at %s: %w", s.Metric, p.Timestamp.Time(), err)
			}
		}
	}
	return m, nil
}

func isNumber(v model.SampleValue) error {
	if f := float64(v); math.IsNaN(f) || math.IsInf(f, 0) {
		return fmt.Errorf("it is %v", f)
	}
	return nil
}

// now returns an expression's present values. There must be some, and none may be NaN.
func (l *live) now(ctx context.Context, expr string) (model.Vector, error) {
	ctx, cancel := asking(ctx)
	defer cancel()
	v, err := l.Vector(ctx, expr)
	if err != nil {
		return nil, err
	}
	if len(v) == 0 {
		return nil, errors.New("no data")
	}
	for _, s := range v {
		if err := isNumber(s.Value); err != nil {
			return nil, fmt.Errorf("%s: %w", s.Metric, err)
		}
	}
	return v, nil
}

// allMoved checks that each query of the five dashboards was above 0 at some time.
func (l *live) allMoved(ctx context.Context) error {
	return l.eachTarget(func(d *grafana.Dashboard, _ *grafana.Panel, q *grafana.Target) error {
		if required[d.UID] == nil {
			return nil
		}
		m, err := l.since(ctx, fill(q.Expr, all(d)))
		if err != nil {
			return err
		}
		for _, s := range m {
			if slices.ContainsFunc(s.Values, func(p model.SamplePair) bool { return p.Value > 0 }) {
				return nil
			}
		}
		return errors.New("it was never above 0")
	})
}

// findValues runs the queries of the variables. Each must have values.
func (l *live) findValues(t *testing.T) {
	t.Helper()
	for i := range l.dashboards {
		d := &l.dashboards[i]
		l.values[d.UID] = make(map[string][]string)
		for _, v := range d.Templating.List {
			if v.Type != "query" {
				continue
			}
			m := labelValues.FindStringSubmatch(v.Query)
			got, _, _, err := l.LabelValues(t.Context(), m[2], []string{fill(m[1], all(d))}, time.Now().Add(-10*time.Second), time.Now())
			require.NoError(t, err, v.Query)
			require.NotEmpty(t, got, "%s: $%s", d.UID, v.Name)
			for _, value := range got {
				l.values[d.UID][v.Name] = append(l.values[d.UID][v.Name], string(value))
			}
		}
	}
	overview := l.values["streamhouse-overview"]
	require.Equal(t, []string{"n1", "n2", "n3"}, overview["node"])
	require.Equal(t, []string{"clicks", "orders"}, overview["topic"])
	require.Equal(t, []string{"billing", "workers"}, overview["group"])
	require.Equal(t, []string{"0", "1", "2"}, l.values["streamhouse-consumer"]["partition"])
	require.Equal(t, []string{"0", "1", "2"}, l.values["streamhouse-storage"]["partition"])
	require.Equal(t, []string{"0", "1", "2"}, l.values["streamhouse-internals"]["shard"])
}

// choices are the ways in which the variables of a dashboard are filled in: "All" for all, and one or two values of one.
func (l *live) choices(d *grafana.Dashboard) []map[string]string {
	out := []map[string]string{all(d)}
	for name, values := range l.values[d.UID] {
		chosen := make([]string, 0, len(values)+1)
		for _, v := range values {
			chosen = append(chosen, anyOf(v))
		}
		if len(values) > 1 {
			chosen = append(chosen, anyOf(values[:2]...))
		}
		for _, v := range chosen {
			c := all(d)
			c[name] = v
			out = append(out, c)
		}
	}
	return out
}

// testValues runs every query with every choice, and holds the labels in its legend against what came.
func (l *live) testValues(t *testing.T) {
	queries := 0
	legend := regexp.MustCompile(`{{(\w+)}}`)
	require.NoError(t, l.eachTarget(func(d *grafana.Dashboard, _ *grafana.Panel, q *grafana.Target) error {
		for i, choice := range l.choices(d) {
			v, err := l.now(t.Context(), fill(q.Expr, choice))
			if err != nil {
				return fmt.Errorf("with %v: %w", choice, err)
			}
			queries++
			if i > 0 {
				continue
			}
			for _, m := range legend.FindAllStringSubmatch(q.LegendFormat, -1) {
				if !slices.ContainsFunc(v, func(s *model.Sample) bool { return s.Metric[model.LabelName(m[1])] != "" }) {
					return fmt.Errorf("the legend wants %s, and no series has it", m[1])
				}
			}
		}
		return nil
	}))
	require.Greater(t, queries, 500)
	t.Logf("%d queries have data", queries)
}

// exported returns the labels of each metric that Prometheus has.
func (l *live) exported(t *testing.T) map[string]map[string]bool {
	t.Helper()
	series, _, _, err := l.Series(t.Context(), []string{`{__name__=~".+"}`}, l.began, time.Now())
	require.NoError(t, err)
	out := make(map[string]map[string]bool)
	for _, s := range series {
		name := string(s[model.MetricNameLabel])
		if out[name] == nil {
			out[name] = make(map[string]bool)
		}
		for label := range s {
			out[name][string(label)] = true
		}
	}
	return out
}

func checkNames(exported map[string]map[string]bool, expr string) error {
	e, err := promql.ParseExpr(expr)
	if err != nil {
		return err
	}
	used, err := namesIn(e)
	if err != nil {
		return err
	}
	labels := make(map[string]bool)
	for metric, of := range used.matched {
		if exported[metric] == nil {
			return fmt.Errorf("no node exports %s", metric)
		}
		for label := range of {
			if !exported[metric][label] {
				return fmt.Errorf("%s has no label %s", metric, label)
			}
		}
		maps.Copy(labels, exported[metric])
	}
	for label := range used.grouped {
		if !labels[label] {
			return fmt.Errorf("no metric in it has the label %s", label)
		}
	}
	return nil
}

// testNames checks that all metrics and labels that are named anywhere are there.
func (l *live) testNames(t *testing.T) {
	exported := l.exported(t)
	require.NoError(t, checkNames(exported, `sum by (node) (streamhouse_uptime_seconds{job="streamhouse"})`))
	for _, wrong := range []string{`streamhouse_uptime`, `streamhouse_uptime_seconds{topic="x"}`, `sum by (topic) (streamhouse_uptime_seconds)`} {
		require.Error(t, checkNames(exported, wrong), wrong)
	}
	require.NoError(t, l.eachTarget(func(d *grafana.Dashboard, _ *grafana.Panel, q *grafana.Target) error {
		return checkNames(exported, fill(q.Expr, all(d)))
	}))
	for i := range l.dashboards {
		d := &l.dashboards[i]
		for _, v := range d.Templating.List {
			if m := labelValues.FindStringSubmatch(v.Query); m != nil {
				require.NoError(t, checkNames(exported, fill(fmt.Sprintf("count by (%s) (%s)", m[2], m[1]), all(d))), v.Query)
			}
		}
	}
	for _, r := range rules(t) {
		require.NoError(t, checkNames(exported, r.Expr), r.name())
	}
}

// testRules runs the rules: what is recorded, and what alerts compare, for they return nothing while all is well.
func (l *live) testRules(t *testing.T) {
	l.runRules(t)
	state, err := l.Rules(t.Context(), nil)
	require.NoError(t, err)
	for _, g := range state.Groups {
		for _, r := range g.Rules {
			if rec, ok := r.(promv1.RecordingRule); ok {
				require.Empty(t, rec.LastError, rec.Name)
			}
			if alert, ok := r.(promv1.AlertingRule); ok {
				require.Empty(t, alert.LastError, alert.Name)
			}
		}
	}
}

func (l *live) runRules(t *testing.T) {
	t.Helper()
	all := rules(t)
	for _, r := range all {
		for _, e := range ruleExprs(t, r) {
			_, err := l.now(t.Context(), e)
			require.NoError(t, err, "%s: %s", r.name(), e)
		}
	}
	t.Logf("%d rules have data", len(all))
}

func ruleExprs(t *testing.T, r rule) []string {
	t.Helper()
	e, err := promql.ParseExpr(r.Expr)
	require.NoError(t, err, r.name())
	shorten(e, 10*time.Second)
	if r.Record != "" {
		return []string{e.String()}
	}
	var out []string
	for _, s := range sides(e) {
		out = append(out, s.String())
	}
	return out
}

// idle has the values of the required panels when nothing happens, where those are known.
var idle = map[string]map[string]float64{
	"streamhouse-overview": {"Producer throughput": 0, "Consumer throughput": 0, "Producer latency": 0, "Error rates": 0, "Average batch size": 0},
	"streamhouse-producer": {"Throughput by topic": 0, "Bytes by topic": 0, "Latency percentiles": 0, "Batch sizes": 0, "Error rates": 0},
	"streamhouse-consumer": {"Throughput by topic and group": 0, "Rebalances": 0, "Error rates": 0},
	"streamhouse-storage":  {"Segment writes": 0, "Uploads": 0, "Upload success rate": 1, "PUT latency": 0, "Requests": 0, "Errors": 0},
	"streamhouse-cache":    {"Hit rate": 1, "Hits and misses": 0},
}

// testIdle wants a number from every query once nothing has happened for longer than rates look back, and the true one.
func (l *live) testIdle(t *testing.T, lag float64) {
	t.Helper()
	harness.Eventually(t, 2*time.Minute, "the panels show that nothing happens", func(ctx context.Context) error {
		return l.eachTarget(func(d *grafana.Dashboard, p *grafana.Panel, q *grafana.Target) error {
			want, known := idle[d.UID][p.Title]
			if !known {
				return nil
			}
			v, err := l.now(ctx, fill(q.Expr, all(d)))
			for _, s := range v {
				if float64(s.Value) != want {
					return fmt.Errorf("%s is %v, not %v", s.Metric, s.Value, want)
				}
			}
			return err
		})
	})
	require.NoError(t, l.eachTarget(func(d *grafana.Dashboard, _ *grafana.Panel, q *grafana.Target) error {
		for _, choice := range l.choices(d) {
			if _, err := l.now(t.Context(), fill(q.Expr, choice)); err != nil {
				return fmt.Errorf("with %v: %w", choice, err)
			}
		}
		_, err := l.since(t.Context(), fill(q.Expr, all(d))) // nor was it NaN on the way
		return err
	}))
	l.runRules(t)
	require.InDelta(t, lag, l.sum(t, "streamhouse-overview", "Consumer lag"), 0)
	require.InDelta(t, 6, l.sum(t, "streamhouse-overview", "Partitions led per agent"), 0)
	require.InDelta(t, lag, l.sum(t, "streamhouse-consumer", "Lag by partition"), 0)
	require.InDelta(t, 1, l.sum(t, "streamhouse-internals", "Metadata leader"), 0)
	require.InDelta(t, 0, l.sum(t, "streamhouse-internals", "Shards without a leader"), 0)
	require.InDelta(t, 3, l.sum(t, "streamhouse-internals", "Agents alive"), 0)
}

// sum adds up what a panel shows.
func (l *live) sum(t *testing.T, uid, title string) float64 {
	t.Helper()
	sum, found := 0.0, false
	require.NoError(t, l.eachTarget(func(d *grafana.Dashboard, p *grafana.Panel, q *grafana.Target) error {
		if d.UID != uid || p.Title != title {
			return nil
		}
		v, err := l.now(t.Context(), fill(q.Expr, all(d)))
		for _, s := range v {
			sum += float64(s.Value)
		}
		found = true
		return err
	}))
	require.True(t, found, strings.Join([]string{uid, title}, ": "))
	return sum
}

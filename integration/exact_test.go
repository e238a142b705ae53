package integration_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// scrapedWithin bounds how long Prometheus may take to have seen what is true.
const scrapedWithin = 60 * time.Second

// row is one line of the table: a metric, a query of it, and the value that the workload says it has.
type row struct {
	metric, query string
	want          float64
}

// sums are rows that add a metric over the nodes for each set of labels, and one that has nothing beside them.
func sums(metric string, want map[string]float64) []row {
	var rows []row
	total := 0.0
	for labels, value := range want {
		rows = append(rows, row{metric, "sum(" + metric + "{" + labels + "})", value})
		total += value
	}
	return append(rows, row{metric, "sum(" + metric + ")", total})
}

// byTopic makes topics labels.
func byTopic(m map[string]float64) map[string]float64 {
	out := make(map[string]float64, len(m))
	for topic, value := range m {
		out[fmt.Sprintf("topic=%q", topic)] = value
	}
	return out
}

// produced are the rows of what producers did.
func (w *workload) produced() []row {
	var seconds []row
	for topic := range w.acks {
		// Each was acknowledged after some time, and none took longer than a call may.
		const sum, slow = "sum(streamhouse_producer_latency_seconds_sum{topic=%q}) > bool 0", "sum(streamhouse_producer_latency_seconds_count{topic=%[1]q}) - sum(streamhouse_producer_latency_seconds_bucket{topic=%[1]q,le=\"16.384\"})"
		seconds = append(seconds,
			row{"streamhouse_producer_latency_seconds", fmt.Sprintf(sum, topic), 1},
			row{"streamhouse_producer_latency_seconds", fmt.Sprintf(slow, topic), 0})
	}
	return slices.Concat(
		sums("streamhouse_producer_records_total", byTopic(w.records)),
		sums("streamhouse_producer_bytes_total", byTopic(w.bytes)),
		renamed("streamhouse_producer_batch_size", sums("streamhouse_producer_batch_size_count", byTopic(w.batches))),
		renamed("streamhouse_producer_batch_size", sums("streamhouse_producer_batch_size_sum", byTopic(w.records))),
		renamed("streamhouse_producer_latency_seconds", sums("streamhouse_producer_latency_seconds_count", byTopic(w.acks))),
		seconds,
		sums("streamhouse_producer_errors_total", w.produceErrors),
	)
}

// renamed gives rows of a histogram's parts its name.
func renamed(metric string, rows []row) []row {
	for i := range rows {
		rows[i].metric = metric
	}
	return rows
}

// table has every metric of the contract, after the whole script.
func (w *workload) table() []row {
	ends, err := w.leader.HighWatermarks(w.t.Context(), "orders")
	require.NoError(w.t, err)
	archived := w.records["archive"]
	nodes := float64(len(w.c.Nodes))
	onAll := func(metric, is string) row {
		return row{metric, fmt.Sprintf("count(%s %s)", metric, is), nodes}
	}
	return slices.Concat(w.produced(),
		sums("streamhouse_consumer_records_total", w.consumed),
		sums("streamhouse_consumer_errors_total", w.consumeErrors),
		sums("streamhouse_consumer_lag", map[string]float64{
			`topic="orders",partition="0",consumer_group="billing"`:   float64(ends[0]) - 3,
			`topic="orders",partition="0",consumer_group="workers"`:   float64(ends[0]) - 5,
			`topic="orders",partition="1",consumer_group="workers"`:   float64(ends[1]),
			`topic="archive",partition="0",consumer_group="auditors"`: archived,
		}),
		[]row{{"streamhouse_consumer_lag", "count(count by (node) (streamhouse_consumer_lag))", 1}}, // on the coordinator only
		sums("streamhouse_consumer_rebalances_total", map[string]float64{
			`consumer_group="workers"`: 3, `consumer_group="billing"`: 0, `consumer_group="auditors"`: 0,
		}),
		sums("streamhouse_segment_writes_total", w.writes),
		sums("streamhouse_segment_flushes_total", w.flushes),
		sums("streamhouse_s3_errors_total", map[string]float64{
			`operation="PUT",error_type="retry"`: w.retries, `operation="PUT",error_type="failed"`: w.failures,
		}),
		sums("streamhouse_cache_hits_total", map[string]float64{"": w.hits}),
		sums("streamhouse_cache_misses_total", map[string]float64{"": w.misses}),
		sums("streamhouse_cache_size_bytes", map[string]float64{"": w.cached}),
		[]row{
			onAll("streamhouse_consumer_records_total", `{consumer_group="auditors",topic="archive"}`), // one of them served it
			onAll("streamhouse_topics_total", "== 2"),
			onAll("streamhouse_partitions_total", `{topic="orders"} == 2`),
			onAll("streamhouse_partitions_total", `{topic="archive"} == 1`),
			{"streamhouse_partitions_total", "count(streamhouse_partitions_total)", 2 * nodes},
			onAll("streamhouse_agents_active", "== 4"),
			{
				"streamhouse_uptime_seconds",
				"count(abs(timestamp(streamhouse_uptime_seconds) - streamhouse_uptime_seconds - process_start_time_seconds) < 2)", nodes,
			},
		},
	)
}

// requireTable waits for every row, and makes sure that none goes on to another value.
func requireTable(t *testing.T, p *harness.Prometheus, rows []row) {
	t.Helper()
	for _, r := range rows {
		p.WaitValue(scrapedWithin, r.query, r.want)
		t.Logf("%-40s %10.0f  %s", r.metric, r.want, r.query)
	}
	p.WaitValue(scrapedWithin, fmt.Sprintf(`min(timestamp(up{job="streamhouse"})) > bool %.3f`, float64(time.Now().UnixMilli())/1000), 1)
	for _, r := range rows {
		got, err := p.Value(t.Context(), r.query)
		require.NoError(t, err)
		require.InDelta(t, r.want, got, 0, r.query)
	}
}

// A script of known size, and then Prometheus says of each metric of the contract what the script did: no less, no more,
// and nothing that it did not do. After a drain nothing is lost; after a kill nothing is counted twice, and no counter has
// gone back within a process.
func TestMetricsAreExact(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 4, Flags: quick(map[string]string{"shards": "1", "upload-interval": "1h"})})
	p := harness.StartPrometheus(t, c, harness.PrometheusOptions{})
	began := time.Now()
	for name, partitions := range map[string]int32{"orders": 2, "archive": 1, "short-lived": 3} {
		c.CreateTopic(name, partitions, nil)
	}
	w := newWorkload(t, c)
	for _, step := range []struct {
		name string
		run  func(*harness.Prometheus)
	}{
		{"one script", w.script},
		{"connections", w.connections},
		{"a drained node", w.drain},
		{"a killed node", func(p *harness.Prometheus) { w.kill(p, began) }},
	} {
		ok := t.Run(step.name, func(t *testing.T) {
			w.t = t
			step.run(p)
		})
		if !ok {
			return // the next ones count on it
		}
	}
}

func (w *workload) script(p *harness.Prometheus) {
	w.t.Helper()
	w.produce()
	w.refusals()
	w.rebalance()
	w.consume()
	w.upload()
	w.history()

	requireTable(w.t, p, w.produced())
	_, err := w.follower.DeleteTopic(call(w.t), &streamhousev1.DeleteTopicRequest{Name: "short-lived"})
	require.NoError(w.t, err)
	p.WaitValue(scrapedWithin, `count({__name__=~"streamhouse_.+",topic="short-lived"}) or vector(0)`, 0)
	for _, m := range []map[string]float64{w.records, w.bytes, w.batches, w.acks} {
		delete(m, "short-lived")
	}
	for _, m := range []map[string]float64{w.writes, w.flushes} {
		delete(m, `topic="short-lived",partition="2"`)
	}
	rows := w.table()
	requireTable(w.t, p, rows)
	w.requireS3(p)
	w.requireAll(rows)
}

// requireS3 compares with what the proxy before the S3 server has seen.
func (w *workload) requireS3(p *harness.Prometheus) {
	w.t.Helper()
	for _, op := range operations {
		harness.Eventually(w.t, scrapedWithin, op+" is counted as S3 sees it", func(ctx context.Context) error {
			seen := float64(w.c.Proxy.Count(op, ""))
			for _, metric := range []string{"streamhouse_s3_requests_total", "streamhouse_s3_latency_seconds_count"} {
				counted, err := p.Value(ctx, fmt.Sprintf("sum(%s{operation=%q})", metric, op))
				if err != nil {
					return err
				}
				if counted != seen {
					return fmt.Errorf("%s: S3 saw %v, counted were %v", metric, seen, counted)
				}
			}
			return nil
		})
		w.t.Logf("%s: %d", op, w.c.Proxy.Count(op, ""))
	}
}

// requireAll makes sure that no metric of the contract was left out.
func (w *workload) requireAll(rows []row) {
	w.t.Helper()
	elsewhere := []string{"streamhouse_s3_requests_total", "streamhouse_s3_latency_seconds", "streamhouse_connections_active"}
	for _, m := range contract {
		checked := slices.ContainsFunc(rows, func(r row) bool { return r.metric == m.name })
		require.True(w.t, checked || slices.Contains(elsewhere, m.name), "%s is not checked", m.name)
	}
}

// connections opens some and closes them.
func (w *workload) connections(p *harness.Prometheus) {
	w.t.Helper()
	query := fmt.Sprintf("streamhouse_connections_active{node=%q}", w.outsider.ID)
	p.WaitValue(scrapedWithin, query, 1)
	var opened []*harness.Client
	for range 3 {
		cl := harness.Dial(w.t, w.outsider.GRPCAddr)
		_, err := cl.ListTopics(call(w.t), &streamhousev1.ListTopicsRequest{})
		require.NoError(w.t, err)
		opened = append(opened, cl)
	}
	p.WaitValue(scrapedWithin, query, 4)
	for i, cl := range opened {
		require.NoError(w.t, cl.Conn.Close())
		p.WaitValue(scrapedWithin, query, float64(3-i))
	}
}

// drain empties the leader's node, which goes on forwarding. What it has counted stays counted.
func (w *workload) drain(p *harness.Prometheus) {
	w.t.Helper()
	drained := w.leader
	_, err := w.outsider.DrainNode(call(w.t), &streamhousev1.DrainNodeRequest{NodeId: drained.ID})
	require.NoError(w.t, err, harness.Describe(err))
	harness.Eventually(w.t, syncWithin, "the drained node is empty", func(ctx context.Context) error {
		st, err := w.outsider.ClusterStatus(ctx)
		if err != nil {
			return err
		}
		if s := nodeStatus(st, drained.ID); s.GetReplicas()+s.GetLeaders() > 0 {
			return fmt.Errorf("it has %d replicas and leads %d", s.GetReplicas(), s.GetLeaders())
		}
		return nil
	})
	w.leader = w.c.ShardLeader(0)
	require.NotEqual(w.t, drained, w.leader)
	w.outsider = drained // it has no replica now, and is not killed below
	for _, n := range w.c.Nodes {
		w.write(n, batchOf("orders", 0, 3))
	}
	w.durable(1, 2, `topic="orders",partition="0"`, `topic="orders",partition="1"`)
	rows := w.produced()
	for metric, want := range map[string]map[string]float64{
		"streamhouse_segment_writes_total": w.writes, "streamhouse_segment_flushes_total": w.flushes,
	} {
		// A partition's series are on the node that leads it; what an earlier leader counted is in its last ones.
		for labels, n := range want {
			rows = append(rows, row{metric, fmt.Sprintf("sum(max_over_time(%s{%s}[1h]))", metric, labels), n})
		}
		rows = append(rows, row{metric, fmt.Sprintf("count(count by (node) (%s))", metric), 1})
	}
	rows = append(rows,
		row{"streamhouse_consumer_lag", "count(count by (node) (streamhouse_consumer_lag))", 1},
		row{"streamhouse_agents_active", "count(streamhouse_agents_active == 4)", 4})
	requireTable(w.t, p, rows)
}

// kill ends the shard's leader while records are written, and starts it again.
func (w *workload) kill(p *harness.Prometheus, began time.Time) {
	w.t.Helper()
	w.c.CreateTopic("feed", 2, nil)
	f := startFeed(w.t, w.c, "feed", 200)
	stop := w.watchFeed(p)
	acked := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		n := 0
		for _, sums := range f.sums {
			n += len(sums)
		}
		return n
	}
	more := func() {
		from := acked()
		harness.Eventually(w.t, syncWithin, "records are acknowledged", func(context.Context) error {
			if n := acked(); n < from+200 {
				return fmt.Errorf("%d", n-from)
			}
			return nil
		})
	}
	more()
	killed := w.c.ShardLeader(0)
	killed.Kill()
	died := time.Now()
	more()
	p.WaitValue(scrapedWithin, "count(streamhouse_agents_active == 3)", 3)
	require.Zero(w.t, w.resets(p, time.Since(began), time.Now(), ""), "nothing has gone back while nobody was started again")

	killed.Start()
	harness.Eventually(w.t, syncWithin, "it is back", killed.CheckReady)
	back := time.Now()
	more()
	f.stop()
	stop()
	require.Empty(w.t, f.errs)
	ends, err := killed.HighWatermarks(w.t.Context(), "feed")
	require.NoError(w.t, err)
	stored := ends[0] + ends[1]
	require.EqualValues(w.t, acked(), stored, "each record is stored once")
	p.WaitValue(scrapedWithin, "count(streamhouse_agents_active == 4)", 4)
	require.Zero(w.t, w.resets(p, time.Since(began), time.Now(), fmt.Sprintf("node!=%q", killed.ID)))
	require.Zero(w.t, w.resets(p, died.Sub(began), died, fmt.Sprintf("node=%q", killed.ID)), "its first life")
	require.Zero(w.t, w.resets(p, time.Since(back), time.Now(), fmt.Sprintf("node=%q", killed.ID)), "its second life")

	// Of both lives of the killed node, the last that Prometheus saw.
	const counted = `sum(max_over_time(streamhouse_producer_records_total{topic="feed"}[1h]))`
	all, err := p.Value(w.t.Context(), counted)
	require.NoError(w.t, err)
	require.LessOrEqual(w.t, all, float64(stored))
	w.t.Logf("%d records are stored, %v are counted in what is left of the nodes' counters", stored, all)
	require.Greater(w.t, all, 0.0)
}

// watchFeed holds the sum over the nodes, again and again, against what is stored, until it is stopped.
func (w *workload) watchFeed(p *harness.Prometheus) (stop func()) {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan error, 1)
	looks := 0
	go func() { // joined by stop
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			counted, err := p.Value(ctx, `sum(streamhouse_producer_records_total{topic="feed"})`)
			if err != nil {
				continue // before the first scrape of the topic
			}
			last, err := p.Value(ctx, `sum(last_over_time(streamhouse_producer_records_total{topic="feed"}[1h]))`)
			if err != nil {
				continue
			}
			ends, err := w.outsider.HighWatermarks(ctx, "feed")
			if err != nil {
				continue // the end of the test
			}
			looks++
			if stored := float64(ends[0] + ends[1]); counted > stored || last > stored {
				done <- fmt.Errorf("%v are counted, %v with the last of the dead, and %v stored", counted, last, stored)
				return
			}
		}
	}()
	return func() {
		cancel()
		require.NoError(w.t, <-done)
		require.Greater(w.t, looks, 10)
		w.t.Logf("the sum was never above the truth, in %d looks", looks)
	}
}

// resets is how often counters of the contract went back in a time that ends at end.
func (w *workload) resets(p *harness.Prometheus, during time.Duration, end time.Time, labels string) float64 {
	w.t.Helper()
	total, series := 0.0, 0
	for _, m := range contract {
		if m.kind == gauge {
			continue
		}
		names := []string{m.name}
		if m.kind == histogram {
			names = []string{m.name + "_count", m.name + "_sum", m.name + "_bucket"}
		}
		for _, name := range names {
			v, _, _, err := p.Query(w.t.Context(), fmt.Sprintf("resets(%s{%s}[%dms])", name, labels, during.Milliseconds()), end)
			require.NoError(w.t, err)
			vector, ok := v.(model.Vector)
			require.True(w.t, ok)
			series += len(vector)
			for _, s := range vector {
				total += float64(s.Value)
			}
		}
	}
	require.Greater(w.t, series, 50)
	return total
}

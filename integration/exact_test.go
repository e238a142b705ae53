package integration_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

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
			`topic="archive",partition="0",consumer_group="auditors"`: w.records["archive"],
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
	at := p.WaitScraped(scrapedWithin)
	for _, r := range rows {
		got, err := p.ValueAt(t.Context(), r.query, at)
		require.NoError(t, err)
		require.InDelta(t, r.want, got, 0, r.query)
	}
}

// A script of known size, and then Prometheus says of each metric of the contract what the script did: no less, no more,
// and nothing that it did not do. After a drain nothing is lost; while and after nodes are killed no sum is above the truth,
// and no counter goes back within a process. All that the nodes wrote of it is JSON.
func TestMetricsAreExact(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 4, Env: jsonLogs, Flags: steady(map[string]string{"shards": "1", "upload-interval": "1h"})})
	began := time.Now()
	p := harness.StartPrometheus(t, c, harness.PrometheusOptions{ScrapeInterval: 500 * time.Millisecond})
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
		{"killed nodes", func(p *harness.Prometheus) { w.kill(p, began) }},
		{"the logs of all of it", func(*harness.Prometheus) { requireJSONLogs(w.t, c) }},
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

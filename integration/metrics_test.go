package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	counter   = dto.MetricType_COUNTER
	gauge     = dto.MetricType_GAUGE
	histogram = dto.MetricType_HISTOGRAM
)

// contract has the 22 metrics that dashboards rely on, with their labels in order.
var contract = []struct {
	name   string
	kind   dto.MetricType
	labels string
}{
	{"streamhouse_producer_records_total", counter, "topic"},
	{"streamhouse_producer_bytes_total", counter, "topic"},
	{"streamhouse_producer_latency_seconds", histogram, "topic"},
	{"streamhouse_producer_batch_size", histogram, "topic"},
	{"streamhouse_producer_errors_total", counter, "error_type topic"},
	{"streamhouse_consumer_records_total", counter, "consumer_group topic"},
	{"streamhouse_consumer_lag", gauge, "consumer_group partition topic"},
	{"streamhouse_consumer_rebalances_total", counter, "consumer_group"},
	{"streamhouse_consumer_errors_total", counter, "consumer_group error_type topic"},
	{"streamhouse_segment_writes_total", counter, "partition topic"},
	{"streamhouse_segment_flushes_total", counter, "partition topic"},
	{"streamhouse_s3_requests_total", counter, "operation"},
	{"streamhouse_s3_errors_total", counter, "error_type operation"},
	{"streamhouse_s3_latency_seconds", histogram, "operation"},
	{"streamhouse_cache_hits_total", counter, ""},
	{"streamhouse_cache_misses_total", counter, ""},
	{"streamhouse_cache_size_bytes", gauge, ""},
	{"streamhouse_connections_active", gauge, ""},
	{"streamhouse_partitions_total", gauge, "topic"},
	{"streamhouse_topics_total", gauge, ""},
	{"streamhouse_agents_active", gauge, ""},
	{"streamhouse_uptime_seconds", gauge, ""},
}

var operations = []string{"PUT", "GET", "HEAD", "LIST", "DELETE"}

func labelNames(m *dto.Metric) string {
	names := make([]string, 0, len(m.GetLabel()))
	for _, l := range m.GetLabel() {
		names = append(names, l.GetName())
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// checkContract holds what is there of a scrape against the table, and returns the names that are missing.
func checkContract(t *testing.T, m harness.Metrics) (missing []string) {
	t.Helper()
	for _, c := range contract {
		f := m[c.name]
		if f == nil {
			missing = append(missing, c.name)
			continue
		}
		require.Equal(t, c.kind, f.GetType(), c.name)
		require.NotEmpty(t, f.GetHelp(), c.name)
		for _, s := range f.GetMetric() {
			require.Equal(t, c.labels, labelNames(s), c.name)
		}
	}
	return missing
}

// moved is how much a metric of one node went up since the first scrape.
func moved(before, after harness.Metrics, name string, labels harness.Labels) float64 {
	return after.Sum(name, labels) - before.Sum(name, labels)
}

// scrapes are scrapes of all nodes by id.
type scrapes map[string]harness.Metrics

func scrapeAll(t *testing.T, c *harness.Cluster) scrapes {
	t.Helper()
	out := make(scrapes)
	for _, n := range c.Running() {
		out[n.ID] = n.MustScrape(t)
	}
	return out
}

// requireMoved wants a metric to have gone up by so much on one node, and not at all on the others.
func requireMoved(t *testing.T, before, after scrapes, node, name string, labels harness.Labels, by float64) {
	t.Helper()
	for id := range after {
		want := 0.0
		if id == node {
			want = by
		}
		require.InDeltaf(t, want, moved(before[id], after[id], name, labels), 1e-9, "%s%v on %s (%s acted)", name, labels, id, node)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: steady(map[string]string{
		"shards": "1", "upload-interval": "300ms", "checkpoint-bytes": "1KiB", "log-retain-bytes": "0", "tail-bytes": "0",
	})})

	t.Run("at first", func(t *testing.T) { testFirstScrape(t, c) })
	topic := c.CreateTopic("orders", 2, nil)
	leader := c.Node(topic.GetPartitions()[0].GetLeader())
	other := c.Others(leader)[0]
	t.Run("a new topic", func(t *testing.T) { testTopicSeries(t, c, leader) })
	t.Run("produce", func(t *testing.T) { testProduceMetrics(t, c, leader, other) })
	t.Run("upload", func(t *testing.T) { testUploadMetrics(t, c, leader) })
	t.Run("consume and cache", func(t *testing.T) { testConsumeMetrics(t, c, other) })
	t.Run("lag", func(t *testing.T) { testLag(t, c) })
	t.Run("errors", func(t *testing.T) { testErrorMetrics(t, c, other) })
	t.Run("connections", func(t *testing.T) { testConnections(t, other) })
	t.Run("S3 requests are counted as S3 sees them", func(t *testing.T) { testS3Counts(t, c) })
	t.Run("series go with their topic", func(t *testing.T) { testSeriesGo(t, c) })
	t.Run("agents", func(t *testing.T) {
		c.Others(leader)[1].Kill()
		harness.Eventually(t, 60*time.Second, "a dead agent is not counted", func(ctx context.Context) error {
			m, err := leader.Metrics(ctx)
			if err == nil && m.Sum("streamhouse_agents_active", nil) != 2 {
				err = fmt.Errorf("%v are", m.Sum("streamhouse_agents_active", nil))
			}
			return err
		})
	})
}

func testFirstScrape(t *testing.T, c *harness.Cluster) {
	t.Helper()
	for _, n := range c.Nodes {
		m := n.MustScrape(t)
		checkContract(t, m)
		for _, op := range operations {
			require.Len(t, m.Select("streamhouse_s3_requests_total", harness.Labels{"operation": op}), 1, op)
			require.Len(t, m.Select("streamhouse_s3_latency_seconds", harness.Labels{"operation": op}), 1, op)
			for _, kind := range []string{"retry", "failed"} {
				require.Len(t, m.Select("streamhouse_s3_errors_total", harness.Labels{"operation": op, "error_type": kind}), 1, op)
			}
		}
		for _, name := range []string{
			"streamhouse_cache_hits_total", "streamhouse_cache_misses_total", "streamhouse_cache_size_bytes",
			"streamhouse_connections_active", "streamhouse_topics_total", "streamhouse_agents_active", "streamhouse_uptime_seconds",
		} {
			require.Len(t, m.Select(name, nil), 1, name)
		}
		require.InDelta(t, 3, m.Sum("streamhouse_agents_active", nil), 0)
		require.InDelta(t, 0, m.Sum("streamhouse_topics_total", nil), 0)
		require.Positive(t, m.Sum("streamhouse_uptime_seconds", nil))
	}
	require.Contains(t, contentType(t, c.Nodes[0], "application/openmetrics-text;version=1.0.0"), "application/openmetrics-text")
	require.Contains(t, contentType(t, c.Nodes[0], ""), "text/plain; version=0.0.4")
}

func contentType(t *testing.T, n *harness.Node, accept string) string {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.URL("/metrics"), http.NoBody)
	require.NoError(t, err)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	_, err = io.Copy(io.Discard, resp.Body)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	return resp.Header.Get("Content-Type")
}

func testTopicSeries(t *testing.T, c *harness.Cluster, leader *harness.Node) {
	t.Helper()
	byTopic := []string{
		"streamhouse_producer_records_total", "streamhouse_producer_bytes_total",
		"streamhouse_producer_latency_seconds", "streamhouse_producer_batch_size",
	}
	harness.Eventually(t, 10*time.Second, "every node has the topic's series at 0", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			for _, name := range byTopic {
				if s := m.Select(name, harness.Labels{"topic": "orders"}); len(s) != 1 || m.Sum(name, nil) != 0 {
					return fmt.Errorf("%s: %s: %v", n.ID, name, s)
				}
			}
			if m.Sum("streamhouse_topics_total", nil) != 1 || m.Sum("streamhouse_partitions_total", harness.Labels{"topic": "orders"}) != 2 {
				return fmt.Errorf("%s counts other topics and partitions", n.ID)
			}
			want := 0
			if n == leader {
				want = 2
			}
			if got := len(m.Select("streamhouse_segment_writes_total", harness.Labels{"topic": "orders"})); got != want {
				return fmt.Errorf("%s has segment series of %d partitions, not %d", n.ID, got, want)
			}
		}
		return nil
	})
}

func testProduceMetrics(t *testing.T, c *harness.Cluster, leader, through *harness.Node) {
	t.Helper()
	before := scrapeAll(t, c)
	recs := make([]*streamhousev1.Record, 0, 7)
	bytes := 0
	for i := range 7 {
		r := &streamhousev1.Record{
			Key: []byte("key"), Value: []byte(strings.Repeat("v", 1000+i)),
			Headers: []*streamhousev1.Header{{Key: "h", Value: []byte("12")}},
		}
		bytes += len(r.GetKey()) + len(r.GetValue()) + 3
		recs = append(recs, r)
	}
	_, err := through.ProduceBatch(call(t), &streamhousev1.ProduceBatchRequest{Topic: "orders", Partition: new(int32(0)), Records: recs})
	require.NoError(t, err)
	after := scrapeAll(t, c)
	l := harness.Labels{"topic": "orders"}
	requireMoved(t, before, after, leader.ID, "streamhouse_producer_records_total", l, 7)
	requireMoved(t, before, after, leader.ID, "streamhouse_producer_bytes_total", l, float64(bytes))
	requireMoved(t, before, after, leader.ID, "streamhouse_producer_latency_seconds", l, 1)
	requireMoved(t, before, after, leader.ID, "streamhouse_producer_batch_size", l, 1)
	size := after[leader.ID].Select("streamhouse_producer_batch_size", l)[0].GetHistogram()
	require.InDelta(t, 7, size.GetSampleSum(), 0)
	latency := after[leader.ID].Select("streamhouse_producer_latency_seconds", l)[0].GetHistogram()
	require.Positive(t, latency.GetSampleSum())
	require.Less(t, latency.GetSampleSum(), 5.0)
}

func testUploadMetrics(t *testing.T, c *harness.Cluster, leader *harness.Node) {
	t.Helper()
	waitUploaded(t, c, "orders")
	l := harness.Labels{"topic": "orders", "partition": "0"}
	harness.Eventually(t, 10*time.Second, "one segment is cut and in the manifest", func(ctx context.Context) error {
		m, err := leader.Metrics(ctx)
		if err != nil {
			return err
		}
		w, f := m.Sum("streamhouse_segment_writes_total", l), m.Sum("streamhouse_segment_flushes_total", l)
		if w != 1 || f != 1 {
			return fmt.Errorf("%v writes, %v flushes", w, f)
		}
		return nil
	})
	sum := c.MustSum("streamhouse_segment_writes_total", nil)
	require.InDelta(t, 1, sum, 0, "partition 1 has no segment")
}

func testConsumeMetrics(t *testing.T, c *harness.Cluster, through *harness.Node) {
	t.Helper()
	// The log is cut once something comes behind what was uploaded.
	harness.Eventually(t, 30*time.Second, "the local log is cut", func(ctx context.Context) error {
		offset, err := produce(ctx, through, "orders", 1, strings.Repeat("x", 500), 0)
		if err != nil {
			return err
		}
		// Once the node has this record it has let go of what was uploaded before.
		if _, err := consume(ctx, through, "orders", 1, offset, time.Second); err != nil {
			return err
		}
		m, err := through.Metrics(ctx)
		if err == nil && m.Sum("streamhouse_shard_log_bytes", nil) > 4<<10 {
			err = fmt.Errorf("it has %v bytes", m.Sum("streamhouse_shard_log_bytes", nil))
		}
		return err
	})
	// A group is counted by its name once it exists.
	require.NoError(t, commit("billing", "orders", &streamhousev1.CommittedOffset{})(call(t), through))
	l := harness.Labels{"topic": "orders", "consumer_group": "billing"}
	read := func() scrapes {
		resp, err := through.Consume(call(t), &streamhousev1.ConsumeRequest{Topic: "orders", Partition: 0, MaxRecords: 5, Group: "billing"})
		require.NoError(t, err)
		require.Len(t, resp.GetRecords(), 5)
		harness.Eventually(t, 10*time.Second, "they are counted for the group", func(ctx context.Context) error {
			m, err := through.Metrics(ctx)
			if err == nil && m.Sum("streamhouse_consumer_records_total", l) < 5 {
				err = errors.New("not yet")
			}
			return err
		})
		return scrapeAll(t, c)
	}
	before := scrapeAll(t, c)
	first := read()
	requireMoved(t, before, first, through.ID, "streamhouse_consumer_records_total", l, 5)
	requireMoved(t, before, first, through.ID, "streamhouse_cache_misses_total", nil, 1)
	require.InDelta(t, 1, moved(before[through.ID], first[through.ID], "streamhouse_s3_requests_total", harness.Labels{"operation": "GET"}), 0)
	require.Positive(t, first[through.ID].Sum("streamhouse_cache_size_bytes", nil))
	second := read()
	requireMoved(t, first, second, through.ID, "streamhouse_consumer_records_total", l, 5)
	requireMoved(t, first, second, through.ID, "streamhouse_cache_misses_total", nil, 0)
	require.Positive(t, moved(first[through.ID], second[through.ID], "streamhouse_cache_hits_total", nil))
}

func testLag(t *testing.T, c *harness.Cluster) {
	t.Helper()
	_, err := c.Nodes[0].CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{
		Group: "billing", Topic: "orders", Offsets: []*streamhousev1.CommittedOffset{{Partition: 0, Offset: 3}},
	})
	require.NoError(t, err)
	harness.Eventually(t, 10*time.Second, "one node shows the lag", func(ctx context.Context) error {
		shown := 0
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			for _, s := range m.Select("streamhouse_consumer_lag", harness.Labels{"topic": "orders", "partition": "0", "consumer_group": "billing"}) {
				shown++
				if s.GetGauge().GetValue() != 4 {
					return fmt.Errorf("%s says %v", n.ID, s.GetGauge().GetValue())
				}
			}
		}
		if shown != 1 {
			return fmt.Errorf("%d nodes show it", shown)
		}
		return nil
	})
	harness.Eventually(t, 10*time.Second, "every node shows what it should", func(ctx context.Context) error {
		led := make(map[string]int)
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			missing := checkContract(t, m)
			for _, name := range onLeader {
				if m[name] != nil {
					led[name]++
				}
				missing = slices.DeleteFunc(missing, func(s string) bool { return s == name })
			}
			if len(missing) > 0 {
				return fmt.Errorf("%s lacks %v", n.ID, missing)
			}
		}
		for _, name := range onLeader {
			if led[name] != 1 {
				return fmt.Errorf("%d nodes show %s of the only shard", led[name], name)
			}
		}
		return nil
	})
}

// onLeader are the metrics that only the node has that leads the partition's shard, or coordinates the group.
var onLeader = []string{"streamhouse_consumer_lag", "streamhouse_segment_writes_total", "streamhouse_segment_flushes_total"}

func testErrorMetrics(t *testing.T, c *harness.Cluster, through *harness.Node) {
	t.Helper()
	before := scrapeAll(t, c)
	_, err := produce(call(t), through, "nothing", 0, "x", 0)
	require.Error(t, err)
	_, err = produce(call(t), through, "orders", 9, "x", 0)
	require.Error(t, err)
	_, err = through.Consume(call(t), &streamhousev1.ConsumeRequest{Topic: "orders", Offset: 1 << 40, Group: "billing"})
	require.Error(t, err)
	after := scrapeAll(t, c)
	requireMoved(t, before, after, through.ID, "streamhouse_producer_errors_total", harness.Labels{"topic": ""}, 1)
	requireMoved(t, before, after, through.ID, "streamhouse_producer_errors_total", harness.Labels{"topic": "orders"}, 1)
	requireMoved(t, before, after, through.ID, "streamhouse_consumer_errors_total", harness.Labels{"topic": "orders", "consumer_group": "billing"}, 1)
}

func testConnections(t *testing.T, n *harness.Node) {
	t.Helper()
	before := n.MustScrape(t).Sum("streamhouse_connections_active", nil)
	is := func(want float64) func(context.Context) error {
		return func(ctx context.Context) error {
			m, err := n.Metrics(ctx)
			if err == nil && m.Sum("streamhouse_connections_active", nil) != want {
				err = fmt.Errorf("%v, not %v", m.Sum("streamhouse_connections_active", nil), want)
			}
			return err
		}
	}
	cl := harness.Dial(t, n.GRPCAddr)
	_, err := cl.ListTopics(call(t), &streamhousev1.ListTopicsRequest{})
	require.NoError(t, err)
	harness.Eventually(t, 5*time.Second, "one connection more", is(before+1))
	require.NoError(t, cl.Conn.Close())
	harness.Eventually(t, 5*time.Second, "it is gone", is(before))
}

func testS3Counts(t *testing.T, c *harness.Cluster) {
	t.Helper()
	harness.Eventually(t, 20*time.Second, "nodes count what S3 sees", func(ctx context.Context) error {
		for _, op := range operations {
			seen := float64(c.Proxy.Count(op, ""))
			counted, err := c.Sum(ctx, "streamhouse_s3_requests_total", harness.Labels{"operation": op})
			if err != nil {
				return err
			}
			timed, err := c.Sum(ctx, "streamhouse_s3_latency_seconds", harness.Labels{"operation": op})
			if err != nil {
				return err
			}
			if counted != seen || timed != seen {
				return fmt.Errorf("%s: S3 saw %v, the nodes counted %v and timed %v", op, seen, counted, timed)
			}
		}
		return nil
	})
}

func testSeriesGo(t *testing.T, c *harness.Cluster) {
	t.Helper()
	_, err := c.Nodes[1].DeleteTopic(call(t), &streamhousev1.DeleteTopicRequest{Name: "orders"})
	require.NoError(t, err)
	harness.Eventually(t, 30*time.Second, "no series has the topic", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			for name := range m {
				if len(m.Select(name, harness.Labels{"topic": "orders"})) > 0 {
					return fmt.Errorf("%s has one of %s", n.ID, name)
				}
			}
			if m.Sum("streamhouse_topics_total", nil) != 0 {
				return errors.New(n.ID + " counts a topic")
			}
		}
		return nil
	})
}

// What needs no topic, partition or group is told from the first scrape on, also by a node that waits for its cluster.
func TestFirstScrapeOfANodeThatWaits(t *testing.T) {
	t.Parallel()
	c := harness.NewCluster(t, harness.Options{Flags: quick(nil)})
	n := c.Nodes[0]
	n.Start() // the others are not there
	var m harness.Metrics
	harness.Eventually(t, 30*time.Second, "it answers", func(ctx context.Context) (err error) {
		m, err = n.Metrics(ctx)
		return err
	})
	require.Zero(t, m.Sum("streamhouse_ready", nil))
	series := make(map[string]int)
	for _, c := range contract {
		series[c.name] = len(m.Select(c.name, nil))
	}
	require.Equal(t, map[string]int{
		"streamhouse_producer_errors_total": 10, "streamhouse_consumer_records_total": 1, "streamhouse_consumer_errors_total": 12,
		"streamhouse_s3_requests_total": len(operations), "streamhouse_s3_errors_total": 2 * len(operations),
		"streamhouse_s3_latency_seconds": len(operations),
		"streamhouse_cache_hits_total":   1, "streamhouse_cache_misses_total": 1, "streamhouse_cache_size_bytes": 1,
		"streamhouse_connections_active": 1, "streamhouse_topics_total": 1, "streamhouse_agents_active": 1, "streamhouse_uptime_seconds": 1,
		// These come with a topic, a partition or a group.
		"streamhouse_producer_records_total": 0, "streamhouse_producer_bytes_total": 0, "streamhouse_producer_latency_seconds": 0,
		"streamhouse_producer_batch_size": 0, "streamhouse_consumer_lag": 0, "streamhouse_consumer_rebalances_total": 0,
		"streamhouse_segment_writes_total": 0, "streamhouse_segment_flushes_total": 0, "streamhouse_partitions_total": 0,
	}, series)
	for _, name := range []string{
		"streamhouse_producer_errors_total", "streamhouse_consumer_records_total", "streamhouse_consumer_errors_total",
		"streamhouse_cache_hits_total", "streamhouse_cache_misses_total", "streamhouse_cache_size_bytes",
		"streamhouse_connections_active", "streamhouse_topics_total",
	} {
		require.Zero(t, m.Sum(name, nil), name)
	}
	require.Positive(t, m.Sum("streamhouse_uptime_seconds", nil))
}

package integration_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var updateRules = flag.Bool("update-rules", false, "write deploy/prometheus/rules/tests/healthy*_test.yml")

// quietTest is a test of promtool in which nothing may fire: three nodes are scraped so many times.
type quietTest struct {
	file, name string
	// intervalSeconds is the time between two scrapes.
	intervalSeconds int
	scrapes         int
	// restarts says between which scrapes a node is away. They are the same where it is not.
	restarts [4][2]int // by node, from 1
}

var quietTests = []quietTest{
	{file: "healthyday_test.yml", name: "nothing fires on a healthy day under load", intervalSeconds: 60, scrapes: 24 * 60},
	{
		file: "healthy_test.yml", name: "nothing fires in a rolling restart of one minute for each node", intervalSeconds: 15, scrapes: 400,
		restarts: [4][2]int{1: {40, 44}, 2: {60, 64}, 3: {80, 84}},
	},
}

// scrape is one scrape of a node.
type scrape struct {
	test *quietTest
	node int
	// i counts all scrapes of the test, since those of this life of the node.
	i, since int
}

func (s scrape) minutes(scrapes int) float64 { return float64(scrapes*s.test.intervalSeconds) / 60 }

// restarted counts the restarts that have begun.
func (s scrape) restarted() int {
	n := 0
	for _, away := range s.test.restarts {
		if away[0] < away[1] && away[0] <= s.i {
			n++
		}
	}
	return n
}

type valueAt func(s scrape) float64

func constant(v float64) valueAt { return func(scrape) float64 { return v } }

// perMinute is a counter of the process.
func perMinute(rate float64) valueAt {
	return func(s scrape) float64 { return rate * s.minutes(s.since) }
}

// once is a counter that goes up by n soon after a restart, and never else.
func once(n float64) valueAt {
	return func(s scrape) float64 {
		if s.since < s.i && s.since >= 2 {
			return n
		}
		return 0
	}
}

// leader is 1 where the node leads: a node that goes hands over to the next one.
func leader(s scrape) float64 {
	if s.restarted()%3+1 == s.node {
		return 1
	}
	return 0
}

// term has gone up twice with every restart: a hand-over, and another one that evens out.
func term(s scrape) float64 { return float64(5 + 2*s.restarted()) }

// applied is an index of the whole cluster, of which a node that is back lacks the last two scrapes' share at first.
func applied(rate float64) valueAt {
	return func(s scrape) float64 {
		if s.since < s.i && s.since < 2 {
			return rate * s.minutes(s.i-2)
		}
		return rate * s.minutes(s.i)
	}
}

// agents are alive in gossip, which learns with the next scrape.
func agents(s scrape) float64 {
	alive := 3
	for node, away := range s.test.restarts {
		if node != s.node && away[0] < s.i && s.i <= away[1] {
			alive--
		}
	}
	return float64(alive)
}

func started(s scrape) float64 { return float64(1000 + (s.i-s.since)*s.test.intervalSeconds) }

// lag has a peak in each hour, which is over soon.
func lag(s scrape) float64 {
	if int(s.minutes(s.i))%60 < 4 {
		return 4000
	}
	return 80
}

// rebalances are those of a deployment of ten consumers, which takes ten minutes, and one for each restart.
func rebalances(s scrape) float64 {
	deployed := min(max(s.minutes(s.i)-60, 0), 10)
	return 2*deployed + float64(s.restarted())
}

// healthySeries are what a healthy node exports of what rules ask for.
var healthySeries = []struct {
	name, labels string
	value        valueAt
}{
	{"process_start_time_seconds", "", started},
	{"streamhouse_ready", "", constant(1)},
	{"streamhouse_metadata_leader", "", leader},
	{"streamhouse_shards", "", constant(1)},
	{"streamhouse_shard_leader", `shard="0"`, leader},
	{"streamhouse_metadata_term", "", term},
	{"streamhouse_shard_term", `shard="0"`, term},
	{"streamhouse_metadata_applied_index", "", applied(3)},
	{"streamhouse_shard_applied_index", `shard="0"`, applied(500)},
	{"streamhouse_agents_active", "", agents},
	{"streamhouse_nodes_registered", "", constant(3)},
	{"streamhouse_controller_failures_total", `action="transfer"`, once(2)},
	{"streamhouse_controller_failures_total", `action="propose"`, constant(0)},
	{"streamhouse_producer_records_total", `topic="orders"`, perMinute(6000)},
	{"streamhouse_producer_bytes_total", `topic="orders"`, perMinute(600000)},
	{"streamhouse_producer_errors_total", `error_type="unavailable",topic="orders"`, once(3)},
	{"streamhouse_producer_errors_total", `error_type="invalid",topic="orders"`, perMinute(30)},
	{"streamhouse_producer_latency_seconds_bucket", `le="0.032",topic="orders"`, perMinute(594)},
	{"streamhouse_producer_latency_seconds_bucket", `le="1.024",topic="orders"`, perMinute(600)},
	{"streamhouse_producer_latency_seconds_bucket", `le="+Inf",topic="orders"`, perMinute(600)},
	{"streamhouse_producer_latency_seconds_count", `topic="orders"`, perMinute(600)},
	{"streamhouse_consumer_records_total", `consumer_group="billing",topic="orders"`, perMinute(6000)},
	{"streamhouse_consumer_records_total", `consumer_group="",topic=""`, constant(0)},
	{"streamhouse_consumer_errors_total", `consumer_group="billing",error_type="unavailable",topic="orders"`, once(6)},
	{"streamhouse_consumer_errors_total", `consumer_group="billing",error_type="data_loss",topic="orders"`, constant(0)},
	{"streamhouse_consumer_lag", `consumer_group="billing",partition="0",topic="orders"`, lag},
	{"streamhouse_consumer_rebalances_total", `consumer_group="billing"`, rebalances},
	{"streamhouse_cache_hits_total", "", perMinute(90)},
	{"streamhouse_cache_misses_total", "", perMinute(10)},
	{"streamhouse_s3_requests_total", `operation="PUT"`, perMinute(4)},
	{"streamhouse_s3_requests_total", `operation="GET"`, perMinute(10)},
	{"streamhouse_s3_errors_total", `error_type="failed",operation="PUT"`, constant(0)},
	{"streamhouse_s3_errors_total", `error_type="retry",operation="PUT"`, perMinute(0.125)},
	{"streamhouse_s3_latency_seconds_bucket", `le="1.024",operation="PUT"`, perMinute(4)},
	{"streamhouse_s3_latency_seconds_bucket", `le="8.192",operation="PUT"`, perMinute(4)},
	{"streamhouse_s3_latency_seconds_bucket", `le="+Inf",operation="PUT"`, perMinute(4)},
	{"streamhouse_s3_latency_seconds_count", `operation="PUT"`, perMinute(4)},
	{"streamhouse_shard_upload_backlog_seconds", `shard="0"`, constant(58)},
	{"streamhouse_upload_interval_seconds", "", constant(60)},
	{"streamhouse_metadata_checkpoint_pending_seconds", "", constant(1)},
	{"streamhouse_shard_log_bytes", `shard="0"`, constant(5e8)},
	{"streamhouse_log_limit_bytes", "", constant(8 << 30)},
	{"streamhouse_disk_free_bytes", "", constant(90e9)},
	{"streamhouse_disk_min_free_bytes", "", constant(1 << 30)},
	{"streamhouse_scrub_damaged_objects", "", constant(0)},
	{"streamhouse_scrub_diverged_replicas", "", constant(0)},
	{"streamhouse_log_write_seconds_bucket", `group="shard",le="0.032"`, perMinute(594)},
	{"streamhouse_log_write_seconds_bucket", `group="shard",le="0.512"`, perMinute(600)},
	{"streamhouse_log_write_seconds_bucket", `group="shard",le="+Inf"`, perMinute(600)},
	{"streamhouse_log_write_seconds_count", `group="shard"`, perMinute(600)},
	{"streamhouse_log_write_oldest_seconds", `group="shard"`, constant(0.02)},
	{"streamhouse_log_write_oldest_seconds", `group="metadata"`, constant(0)},
}

// values writes a series as promtool reads it.
func (q *quietTest) values(node int, value valueAt) string {
	away := q.restarts[node]
	var out []string
	var run []float64 // with equal steps
	flush := func() {
		if len(run) == 0 {
			return
		}
		step := 0.0
		if len(run) > 1 {
			step = run[1] - run[0]
		}
		out = append(out, fmt.Sprintf("%s%s%sx%d", plain(run[0]), sign(step), plain(max(step, -step)), len(run)-1))
		run = nil
	}
	for i := range q.scrapes {
		if away[0] <= i && i < away[1] {
			flush()
			out = append(out, map[bool]string{true: "stale", false: "_"}[i == away[0]])
			continue
		}
		s := scrape{test: q, node: node, i: i, since: i}
		if away[0] < away[1] && i >= away[1] {
			s.since = i - away[1]
		}
		v := value(s)
		if n := len(run); n > 1 && v-run[n-1] != run[1]-run[0] {
			flush()
		}
		run = append(run, v)
	}
	flush()
	return strings.Join(out, " ")
}

func plain(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func sign(v float64) string {
	if v < 0 {
		return "-"
	}
	return "+"
}

// up is what Prometheus itself says of a node.
func (q *quietTest) up(node int) string {
	away := q.restarts[node]
	if away[0] == away[1] {
		return fmt.Sprintf("1x%d", q.scrapes-1)
	}
	return fmt.Sprintf("1x%d 0x%d 1x%d", away[0]-1, away[1]-away[0]-1, q.scrapes-away[1]-1)
}

// text is a file of promtool.
func (q *quietTest) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, `# What must not fire. Written by: cd integration && go test -run TestHealthyRules -update-rules .
rule_files:
  - ../recording.yml
  - ../alerts.yml

evaluation_interval: %ds

tests:
  - name: %s
    interval: %[1]ds
    input_series:
`, q.intervalSeconds, q.name)
	series := func(name, labels string, node int, values string) {
		if labels != "" {
			labels += ","
		}
		fmt.Fprintf(&b, "      - series: '%s{%sinstance=\"n%d:8080\",job=\"streamhouse\",node=\"n%[3]d\"}'\n        values: '%[4]s'\n", name, labels, node, values)
	}
	for node := 1; node <= 3; node++ {
		series("up", "", node, q.up(node))
		for _, s := range healthySeries {
			series(s.name, s.labels, node, q.values(node, s.value))
		}
	}
	fmt.Fprintf(&b, `    promql_expr_test:
      - eval_time: %ds
        expr: count_over_time(ALERTS{alertstate="firing"}[%[1]ds])
        exp_samples: []
`, q.scrapes*q.intervalSeconds)
	return b.String()
}

// The test that nothing fires has every series that a rule asks for: a rule without its series can't fire.
func TestHealthyRulesAreGenerated(t *testing.T) {
	t.Parallel()
	for _, q := range quietTests {
		path := deployed(t, "prometheus", "rules", "tests", q.file)
		if *updateRules {
			require.NoError(t, os.WriteFile(path, []byte(q.text()), 0o600))
		}
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, q.text(), string(have), "write it again with -update-rules")
	}
	exported := map[string]bool{"up": true}
	for _, s := range healthySeries {
		exported[s.name] = true
	}
	for _, file := range []string{"recording.yml", "alerts.yml"} {
		var f ruleFile
		decodeStrictly(t, deployed(t, "prometheus", "rules", file), &f)
		for _, g := range f.Groups {
			for _, r := range g.Rules {
				for _, name := range regexp.MustCompile(`[\w:]+`).FindAllString(r.Expr, -1) {
					if regexp.MustCompile(`^(streamhouse|process)_\w+$|^up$`).MatchString(name) {
						require.True(t, exported[name], "%s%s asks for %s", r.Alert, r.Record, name)
					}
				}
			}
		}
	}
}

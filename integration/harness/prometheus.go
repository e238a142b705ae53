package harness

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"
	"github.com/prometheus/common/model"
)

// PrometheusOptions sets up a Prometheus server.
type PrometheusOptions struct {
	// ScrapeInterval is also how often rules are evaluated. 0: 200 ms.
	ScrapeInterval time.Duration
	// RuleFiles are paths of files with rules.
	RuleFiles []string
	// Alertmanager is the address that alerts are sent to. Empty: none.
	Alertmanager string
}

// Prometheus is a real Prometheus server that scrapes a cluster's nodes.
type Prometheus struct {
	promv1.API
	// Addr is where it listens.
	Addr string

	tb   testing.TB
	opts PrometheusOptions
}

// StartPrometheus starts a server that scrapes all nodes of the cluster as job "streamhouse", each with its id as the label
// "node", and waits until it has seen each once. It ends with the test.
func StartPrometheus(tb testing.TB, c *Cluster, opts PrometheusOptions) *Prometheus {
	tb.Helper()
	path := ToolPath(tb, "prometheus")
	if opts.ScrapeInterval == 0 {
		opts.ScrapeInterval = 200 * time.Millisecond
	}
	dir := tb.TempDir()
	config := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(config, []byte(prometheusConfig(c, opts)), 0o600); err != nil {
		tb.Fatal(err)
	}
	p := &Prometheus{Addr: FreeAddr(tb), tb: tb, opts: opts}
	Start(tb, Command{
		Name: "prometheus", Path: path,
		Args: []string{
			"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "tsdb"), "--web.listen-address=" + p.Addr,
			"--query.lookback-delta=" + model.Duration(10*opts.ScrapeInterval).String(), "--enable-feature=exemplar-storage", "--log.level=warn",
		},
		LogPath: filepath.Join(logDir(tb), "prometheus.log"),
	})
	p.API = AtPrometheus(tb, p.Addr).API
	Eventually(tb, time.Minute, "Prometheus has scraped every node", func(ctx context.Context) error {
		up, err := p.Value(ctx, `sum(up{job="streamhouse"})`)
		if err == nil && up != float64(len(c.Nodes)) {
			err = fmt.Errorf("%v of %d are up", up, len(c.Nodes))
		}
		return err
	})
	return p
}

// AtPrometheus returns the server that listens at an address, and that somebody else has started.
func AtPrometheus(tb testing.TB, addr string) *Prometheus {
	tb.Helper()
	client, err := api.NewClient(api.Config{Address: "http://" + addr})
	if err != nil {
		tb.Fatal(err)
	}
	return &Prometheus{API: promv1.NewAPI(client), Addr: addr, tb: tb}
}

func prometheusConfig(c *Cluster, opts PrometheusOptions) string {
	var b strings.Builder
	fmt.Fprintf(&b, "global:\n  scrape_interval: %[1]s\n  scrape_timeout: %[1]s\n  evaluation_interval: %[1]s\n", opts.ScrapeInterval)
	if len(opts.RuleFiles) > 0 {
		b.WriteString("rule_files:\n")
		for _, f := range opts.RuleFiles {
			fmt.Fprintf(&b, "  - %q\n", f)
		}
	}
	if opts.Alertmanager != "" {
		fmt.Fprintf(&b, "alerting:\n  alertmanagers:\n    - static_configs:\n        - targets: [%q]\n", opts.Alertmanager)
	}
	b.WriteString("scrape_configs:\n  - job_name: streamhouse\n    static_configs:\n")
	for _, n := range c.Nodes {
		fmt.Fprintf(&b, "      - targets: [%q]\n        labels: {node: %q}\n", n.HTTPAddr, n.ID)
	}
	return b.String()
}

// Vector runs an instant query at the present time.
func (p *Prometheus) Vector(ctx context.Context, query string) (model.Vector, error) {
	return p.vectorAt(ctx, query, time.Now())
}

func (p *Prometheus) vectorAt(ctx context.Context, query string, at time.Time) (model.Vector, error) {
	v, _, _, err := p.Query(ctx, query, at)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", query, err)
	}
	switch v := v.(type) {
	case model.Vector:
		return v, nil
	case *model.Scalar:
		return model.Vector{{Value: v.Value, Timestamp: v.Timestamp}}, nil
	default:
		return nil, fmt.Errorf("%s: it is a %s", query, v.Type())
	}
}

// Value runs an instant query that must have one result.
func (p *Prometheus) Value(ctx context.Context, query string) (float64, error) {
	return p.ValueAt(ctx, query, time.Now())
}

// ValueAt is Value at a time.
func (p *Prometheus) ValueAt(ctx context.Context, query string, at time.Time) (float64, error) {
	v, err := p.vectorAt(ctx, query, at)
	if err != nil {
		return math.NaN(), err
	}
	if len(v) != 1 {
		return math.NaN(), fmt.Errorf("%s: %d results", query, len(v))
	}
	return float64(v[0].Value), nil
}

// WaitScraped waits until every node has answered a scrape that began after this call, and returns a time at which that is the
// last one of each: a machine that is busy may not answer the next.
func (p *Prometheus) WaitScraped(within time.Duration) time.Time {
	p.tb.Helper()
	query := fmt.Sprintf(`min(up{job="streamhouse"} * (timestamp(up{job="streamhouse"}) > bool %.3f))`, float64(time.Now().UnixMilli())/1000)
	var at time.Time
	Eventually(p.tb, within, "every node was scraped", func(ctx context.Context) error {
		at = time.Now()
		got, err := p.ValueAt(ctx, query, at)
		if err == nil && got != 1 {
			err = errors.New("not yet")
		}
		return err
	})
	return at
}

// WaitValue waits until a query has this value, at most for a while, and ends the test with the last one.
func (p *Prometheus) WaitValue(within time.Duration, query string, want float64) {
	p.tb.Helper()
	Eventually(p.tb, within, fmt.Sprintf("%s is %v", query, want), func(ctx context.Context) error {
		got, err := p.Value(ctx, query)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %v", query, got)
		}
		return err
	})
}

package harness

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Metrics is one scrape.
type Metrics map[string]*dto.MetricFamily

// Labels select series: all of them must be there with these values.
type Labels map[string]string

// MetricsText returns what the node answers on /metrics.
func (n *Node) MetricsText(ctx context.Context) ([]byte, error) {
	status, body, err := get(ctx, n.URL("/metrics"))
	if err != nil {
		return nil, err
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("/metrics of %s: %d %s", n.ID, status, body)
	}
	return body, nil
}

// Metrics scrapes the node.
func (n *Node) Metrics(ctx context.Context) (Metrics, error) {
	body, err := n.MetricsText(ctx)
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("/metrics of %s: %w", n.ID, err)
	}
	return families, nil
}

// MustScrape scrapes the node or ends the test.
func (n *Node) MustScrape(tb testing.TB) Metrics {
	tb.Helper()
	m, err := n.Metrics(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	return m
}

// Select returns the series of a metric with these labels.
func (m Metrics) Select(name string, labels Labels) []*dto.Metric {
	var out []*dto.Metric
	for _, s := range m[name].GetMetric() {
		have := make(map[string]string)
		for _, l := range s.GetLabel() {
			have[l.GetName()] = l.GetValue()
		}
		matches := true
		for k, v := range labels {
			got, ok := have[k]
			matches = matches && ok && got == v
		}
		if matches {
			out = append(out, s)
		}
	}
	return out
}

// Sum adds the values of the series with these labels; for a histogram, its counts.
func (m Metrics) Sum(name string, labels Labels) float64 {
	sum := 0.0
	for _, s := range m.Select(name, labels) {
		switch {
		case s.GetCounter() != nil:
			sum += s.GetCounter().GetValue()
		case s.GetGauge() != nil:
			sum += s.GetGauge().GetValue()
		case s.GetHistogram() != nil:
			sum += float64(s.GetHistogram().GetSampleCount())
		case s.GetUntyped() != nil:
			sum += s.GetUntyped().GetValue()
		}
	}
	return sum
}

// Sum adds a metric over all running nodes.
func (c *Cluster) Sum(ctx context.Context, name string, labels Labels) (float64, error) {
	sum := 0.0
	for _, n := range c.Running() {
		m, err := n.Metrics(ctx)
		if err != nil {
			return 0, err
		}
		sum += m.Sum(name, labels)
	}
	return sum, nil
}

// MustSum is Sum that ends the test when a node can't be scraped.
func (c *Cluster) MustSum(name string, labels Labels) float64 {
	c.t.Helper()
	sum, err := c.Sum(c.t.Context(), name, labels)
	if err != nil {
		c.t.Fatal(err)
	}
	return sum
}

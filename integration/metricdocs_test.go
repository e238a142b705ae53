package integration_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// documented is a line of a table in docs/metrics.md.
var documented = regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)(?:\\{([a-z0-9_,]+)\\})?` \\| ([a-z]+) \\| (.+) \\|$")

// readMetricDocs returns "type labels" of every documented metric.
func readMetricDocs(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile("../docs/metrics.md")
	require.NoError(t, err)
	rows := strings.Count(string(text), "\n| `")
	out := make(map[string]string)
	for _, m := range documented.FindAllStringSubmatch(string(text), -1) {
		require.NotContains(t, out, m[1], "it is there twice")
		out[m[1]] = m[3] + " " + m[2]
	}
	require.Len(t, out, rows, "lines that the test can't read")
	return out
}

// docs/metrics.md has every metric that a cluster exports, with its type and labels, and no other.
func TestMetricsAreDocumented(t *testing.T) {
	t.Parallel()
	docs := readMetricDocs(t)
	c := harness.StartCluster(t, harness.Options{Flags: quick(map[string]string{"upload-interval": "300ms"})})
	c.CreateTopic("orders", 2, nil)
	_, err := produce(call(t), c.Nodes[0], "orders", 0, "x", streamhousev1.Acks_ACKS_DURABLE)
	require.NoError(t, err)
	require.NoError(t, commit("billing", "orders", &streamhousev1.CommittedOffset{Offset: 1})(call(t), c.Nodes[1]))
	harness.Eventually(t, time.Minute, "all that is documented is exported", func(ctx context.Context) error {
		left := make(map[string]bool)
		for name := range docs {
			left[name] = true
		}
		for _, n := range c.Nodes {
			m, err := n.Metrics(ctx)
			if err != nil {
				return err
			}
			for name := range m {
				delete(left, name)
			}
		}
		if len(left) > 0 {
			return fmt.Errorf("%v", left)
		}
		return nil
	})
	var wrong []error
	for _, n := range c.Nodes {
		for name, f := range n.MustScrape(t) {
			if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") || strings.HasPrefix(name, "promhttp_") {
				continue // of the Prometheus library
			}
			for _, s := range f.GetMetric() {
				labels := strings.ReplaceAll(labelNames(s), " ", ",")
				if is := strings.ToLower(f.GetType().String()) + " " + labels; docs[name] != is {
					wrong = append(wrong, fmt.Errorf("%s is %q, documented is %q", name, is, docs[name]))
				}
			}
			if f.GetHelp() == "" {
				wrong = append(wrong, fmt.Errorf("%s has no help", name))
			}
		}
	}
	require.NoError(t, errors.Join(wrong...))
	for _, row := range contract {
		require.Contains(t, docs, row.name)
	}
	t.Logf("%d metrics are documented and exported", len(docs))
}

package integration_test

import (
	"bytes"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// runbooks is where the links of the alerts point to.
const runbooks = "https://github.com/streamhouse/streamhouse/blob/main/docs/runbooks/"

// rule is a rule as it stands in a file.
type rule struct {
	Record      string            `yaml:"record"`
	Alert       string            `yaml:"alert"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for"`
	Labels      map[string]string `yaml:"labels"`
	Annotations map[string]string `yaml:"annotations"`
}

type ruleFile struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

// deployed is the path of a file below deploy/.
func deployed(t *testing.T, elem ...string) string {
	t.Helper()
	root, err := harness.Root()
	require.NoError(t, err)
	return filepath.Join(append([]string{root, "deploy"}, elem...)...)
}

// decodeStrictly decodes a YAML file, in which unknown keys are errors.
func decodeStrictly(t *testing.T, path string, into any) {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	dec := yaml.NewDecoder(bytes.NewReader(data))
	dec.KnownFields(true)
	require.NoError(t, dec.Decode(into), path)
}

// alertsOf returns the alerts of the file by name.
func alertsOf(t *testing.T) map[string]rule {
	t.Helper()
	var f ruleFile
	decodeStrictly(t, deployed(t, "prometheus", "rules", "alerts.yml"), &f)
	alerts := make(map[string]rule)
	for _, g := range f.Groups {
		for _, r := range g.Rules {
			require.NotEmpty(t, r.Alert, "a rule of alerts.yml is no alert")
			require.NotContains(t, alerts, r.Alert)
			alerts[r.Alert] = r
		}
	}
	return alerts
}

// tool runs a program of bin/ and returns what it wrote.
func tool(t *testing.T, stdin []byte, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), harness.ToolPath(t, name), args...)
	cmd.Stdin = bytes.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func requireTool(t *testing.T, name string, args ...string) {
	t.Helper()
	out, err := tool(t, nil, name, args...)
	require.NoError(t, err, out)
}

// The files in deploy/ are what their own programs take, and the rules do at full length what their tests say.
func TestRulesAreClean(t *testing.T) {
	t.Parallel()
	rules, err := filepath.Glob(deployed(t, "prometheus", "rules", "*.yml"))
	require.NoError(t, err)
	require.Len(t, rules, 2)
	tests, err := filepath.Glob(deployed(t, "prometheus", "rules", "tests", "*_test.yml"))
	require.NoError(t, err)
	require.NotEmpty(t, tests)
	requireTool(t, "promtool", "check", "config", deployed(t, "prometheus", "prometheus.yml"))
	requireTool(t, "promtool", append([]string{"check", "rules"}, rules...)...)
	requireTool(t, "promtool", append([]string{"test", "rules"}, tests...)...)
	requireTool(t, "amtool", "check-config", deployed(t, "alertmanager", "alertmanager.yml"))

	tested := expectedAlerts(t, tests)
	for name := range alertsOf(t) {
		require.Contains(t, tested, name, "no test at full length expects it to fire")
	}
}

// alertname matches an alert's name in an expression or in labels.
var alertname = regexp.MustCompile(`alertname="(\w+)"`)

// expectedAlerts returns the alerts of which some test of promtool says that they fire.
func expectedAlerts(t *testing.T, tests []string) map[string]bool {
	t.Helper()
	expected := make(map[string]bool)
	for _, path := range tests {
		data, err := os.ReadFile(path)
		require.NoError(t, err)
		var f struct {
			Tests []struct {
				Alerts []struct {
					Name   string `yaml:"alertname"`
					Expect []any  `yaml:"exp_alerts"`
				} `yaml:"alert_rule_test"`
				Exprs []struct {
					Expect []struct {
						Labels string `yaml:"labels"`
					} `yaml:"exp_samples"`
				} `yaml:"promql_expr_test"`
			} `yaml:"tests"`
		}
		require.NoError(t, yaml.Unmarshal(data, &f), path)
		for _, test := range f.Tests {
			for _, a := range test.Alerts {
				if len(a.Expect) > 0 {
					expected[a.Name] = true
				}
			}
			for _, e := range test.Exprs {
				for _, s := range e.Expect {
					if m := alertname.FindStringSubmatch(s.Labels); m != nil {
						expected[m[1]] = true
					}
				}
			}
		}
	}
	return expected
}

// What silences alerts, and what is silenced, are alerts that there are.
func TestInhibitedAlertsExist(t *testing.T) {
	t.Parallel()
	data, err := os.ReadFile(deployed(t, "alertmanager", "alertmanager.yml"))
	require.NoError(t, err)
	var f struct {
		Rules []struct {
			Sources []string `yaml:"source_matchers"`
			Targets []string `yaml:"target_matchers"`
		} `yaml:"inhibit_rules"`
	}
	require.NoError(t, yaml.Unmarshal(data, &f))
	require.NotEmpty(t, f.Rules)
	alerts := alertsOf(t)
	for _, r := range f.Rules {
		for _, matchers := range [][]string{r.Sources, r.Targets} {
			require.Len(t, matchers, 1)
			m := regexp.MustCompile(`^alertname=~?"([\w|]+)"$`).FindStringSubmatch(matchers[0])
			require.NotNil(t, m, matchers[0])
			for name := range strings.SplitSeq(m[1], "|") {
				require.Contains(t, alerts, name)
			}
		}
	}
}

// Every alert says what an operator needs, and its runbook is there; every runbook has its alert and its line in the index.
func TestRunbooks(t *testing.T) {
	t.Parallel()
	root, err := harness.Root()
	require.NoError(t, err)
	dir := filepath.Join(root, "docs", "runbooks")
	index, err := os.ReadFile(filepath.Join(dir, "README.md"))
	require.NoError(t, err)
	alerts := alertsOf(t)
	for name, r := range alerts {
		require.Contains(t, []string{"critical", "warning"}, r.Labels["severity"], name)
		require.NotEmpty(t, r.Annotations["summary"], name)
		require.Contains(t, r.Annotations["description"], "{{ ", "%s: the description has no values", name)
		require.Equal(t, runbooks+name+".md", r.Annotations["runbook_url"])
		page, err := os.ReadFile(filepath.Join(dir, name+".md"))
		require.NoError(t, err)
		require.True(t, strings.HasPrefix(string(page), "# "+name+" ("+r.Labels["severity"]+")\n"), name)
		require.Contains(t, string(index), "["+name+"]("+name+".md) | "+r.Labels["severity"]+" |")
		for _, link := range regexp.MustCompile(`\]\(([^)]+\.md)\)`).FindAllStringSubmatch(string(page), -1) {
			require.FileExists(t, filepath.Join(dir, link[1]), name)
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "*.md"))
	require.NoError(t, err)
	for _, p := range pages {
		name := strings.TrimSuffix(filepath.Base(p), ".md")
		if page, err := os.ReadFile(p); err == nil && strings.HasPrefix(string(page), "# "+name+" (procedure)\n") {
			require.Contains(t, string(index), "["+name+"]("+name+".md) | ")
			continue
		}
		if name != "README" {
			require.Contains(t, alerts, name, "a runbook without an alert")
		}
	}
	for name, want := range map[string]string{"ConsumerLagHigh": "5m", "S3UploadFailed": "", "CacheHitRateLow": "10m"} {
		require.Contains(t, alerts, name)
		require.Equal(t, want, alerts[name].For, name)
	}
}

// Alerts go to the receiver of their severity.
func TestAlertRoutes(t *testing.T) {
	t.Parallel()
	for severity, receiver := range receivers {
		out, err := tool(t, nil, "amtool", "config", "routes", "test",
			"--config.file="+deployed(t, "alertmanager", "alertmanager.yml"), "severity="+severity)
		require.NoError(t, err, out)
		require.Equal(t, receiver, lastLine(out))
	}
}

// receivers by severity.
var receivers = map[string]string{"critical": "on-call", "warning": "team"}

func lastLine(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return lines[len(lines)-1]
}

// promtool finds nothing to say of a node's metrics but for two gauges whose names are fixed: others read
// them.
func TestMetricsAreClean(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 1, Flags: quick(nil)})
	c.CreateTopic("orders", 2, nil)
	_, err := produce(call(t), c.Nodes[0], "orders", 0, "x", 0)
	require.NoError(t, err)
	body, err := c.Nodes[0].MetricsText(t.Context())
	require.NoError(t, err)
	out, err := tool(t, body, "promtool", "check", "metrics")
	require.Error(t, err, "the two names are no longer complained of: take them out here")
	kept := map[string]bool{
		`streamhouse_partitions_total non-counter metrics should not have "_total" suffix`: false,
		`streamhouse_topics_total non-counter metrics should not have "_total" suffix`:     false,
	}
	for line := range strings.Lines(strings.TrimSpace(out)) {
		line = strings.TrimSpace(line)
		require.Contains(t, slices.Collect(maps.Keys(kept)), line)
		kept[line] = true
	}
	for line, seen := range kept {
		require.True(t, seen, line)
	}
}

var durations = regexp.MustCompile(`\b\d+(?:ms|s|m|h|d|w|y)\b`)

// scaleRules copies a file of rules with all durations divided by a factor, and returns the copy's path.
func scaleRules(t *testing.T, path string, factor time.Duration) string {
	t.Helper()
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	var doc yaml.Node
	require.NoError(t, yaml.Unmarshal(data, &doc))
	require.Positive(t, scaleNode(t, &doc, factor))
	out, err := yaml.Marshal(&doc)
	require.NoError(t, err)
	scaled := filepath.Join(t.TempDir(), filepath.Base(path))
	require.NoError(t, os.WriteFile(scaled, out, 0o600))
	return scaled
}

// scaleNode divides what is a duration below a node, and returns how many there were.
func scaleNode(t *testing.T, n *yaml.Node, factor time.Duration) int {
	t.Helper()
	scaled := 0
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 1 && slices.Contains([]string{"expr", "for", "interval", "keep_firing_for"}, n.Content[i-1].Value) {
			child.Value = durations.ReplaceAllStringFunc(child.Value, func(s string) string {
				d, err := model.ParseDuration(s)
				require.NoError(t, err)
				require.Zero(t, d%model.Duration(factor*time.Millisecond), "%s is not divided without a rest", s)
				scaled++
				return (d / model.Duration(factor)).String()
			})
			continue
		}
		scaled += scaleNode(t, child, factor)
	}
	return scaled
}

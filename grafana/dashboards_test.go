package grafana_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/streamhouse/streamhouse/grafana"
	"github.com/streamhouse/streamhouse/integration/harness"
)

var update = flag.Bool("update", false, "write the files in dashboards/")

func TestMain(m *testing.M) { harness.Main(m) }

// required has the panels that must be there, first and in this order, and what their expressions must be of.
var required = map[string][]struct{ title, metrics string }{
	"streamhouse-overview": {
		{"Producer throughput", "streamhouse_producer_records_total"},
		{"Consumer throughput", "streamhouse_consumer_records_total"},
		{"Consumer lag", "streamhouse_consumer_lag"},
		{"Producer latency", "streamhouse_producer_latency_seconds_bucket"},
		{"Partitions led per agent", "streamhouse_segment_writes_total"},
		{"Error rates", "streamhouse_producer_errors_total streamhouse_consumer_errors_total streamhouse_s3_errors_total"},
		{"Average batch size", "streamhouse_producer_batch_size_sum streamhouse_producer_batch_size_count"},
	},
	"streamhouse-producer": {
		{"Throughput by topic", "streamhouse_producer_records_total"},
		{"Bytes by topic", "streamhouse_producer_bytes_total"},
		{"Latency percentiles", "streamhouse_producer_latency_seconds_bucket"},
		{"Batch sizes", "streamhouse_producer_batch_size_bucket streamhouse_producer_batch_size_sum"},
		{"Error rates", "streamhouse_producer_errors_total"},
	},
	"streamhouse-consumer": {
		{"Throughput by topic and group", "streamhouse_consumer_records_total"},
		{"Lag by partition", "streamhouse_consumer_lag"},
		{"Max lag", "streamhouse_consumer_lag"},
		{"Rebalances", "streamhouse_consumer_rebalances_total"},
		{"Error rates", "streamhouse_consumer_errors_total"},
	},
	"streamhouse-storage": {
		{"Segment writes", "streamhouse_segment_writes_total"},
		{"Uploads", "streamhouse_segment_flushes_total"},
		{"Upload success rate", "streamhouse_s3_latency_seconds_count streamhouse_s3_errors_total"},
		{"PUT latency", "streamhouse_s3_latency_seconds_bucket"},
		{"Requests", "streamhouse_s3_requests_total"},
		{"Errors", "streamhouse_s3_errors_total"},
	},
	"streamhouse-cache": {
		{"Hit rate", "streamhouse_cache_hits_total streamhouse_cache_misses_total"},
		{"Size", "streamhouse_cache_size_bytes"},
		{"Hits and misses", "streamhouse_cache_hits_total streamhouse_cache_misses_total"},
		{"Operations per hour", "streamhouse_cache_hits_total streamhouse_cache_misses_total"},
		{"Utilisation", "streamhouse_cache_size_bytes streamhouse_cache_capacity_bytes"},
		{"S3 GETs avoided", "streamhouse_cache_hits_total streamhouse_s3_requests_total"},
	},
}

// dashboards reads the files as Grafana does, and fails on a field that the model does not have.
func dashboards(t *testing.T) []grafana.Dashboard {
	t.Helper()
	files, err := filepath.Glob("dashboards/*")
	require.NoError(t, err)
	require.Len(t, files, len(required)+1, "the required dashboards, and internals")
	out := make([]grafana.Dashboard, 0, len(files))
	for _, f := range files {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		var d grafana.Dashboard
		dec := json.NewDecoder(bytes.NewReader(b))
		dec.DisallowUnknownFields()
		require.NoError(t, dec.Decode(&d), f)
		require.Equal(t, d.File(), filepath.Base(f))
		out = append(out, d)
	}
	return out
}

func TestDashboardsAreGenerated(t *testing.T) {
	for _, d := range grafana.All() {
		b, err := d.Encode()
		require.NoError(t, err)
		path := filepath.Join("dashboards", d.File())
		if *update {
			require.NoError(t, os.WriteFile(path, b, 0o644)) //nolint:gosec // all may read it
		}
		have, err := os.ReadFile(path)
		require.NoError(t, err)
		require.Equal(t, string(b), string(have), "run make generate")
	}
}

func TestDashboardsHaveWhatIsRequired(t *testing.T) {
	uids := make(map[string]bool)
	for _, d := range dashboards(t) {
		require.False(t, uids[d.UID], "two dashboards are %s", d.UID)
		uids[d.UID] = true
		want, ok := required[d.UID]
		if !ok {
			require.Equal(t, "streamhouse-internals", d.UID)
			continue
		}
		require.Len(t, d.Panels, len(want), d.UID)
		for i, w := range want {
			p := d.Panels[i]
			require.Equal(t, w.title, p.Title, d.UID)
			all := ""
			for _, q := range p.Targets {
				all += q.Expr + "\n"
			}
			for m := range strings.FieldsSeq(w.metrics) {
				require.Contains(t, all, m, "%s: %s", d.UID, p.Title)
			}
		}
	}
	require.Len(t, uids, len(required)+1)
}

// units are those of Grafana that are meant: it takes any other word as a suffix and does not complain.
var units = []string{"recps", "Bps", "ops", "reqps", "cpm", "s", "bytes", "short", "percentunit"}

func TestPanelsKeepTheRules(t *testing.T) {
	for _, d := range dashboards(t) {
		require.Equal(t, "10s", d.Refresh, d.UID)
		require.NotEmpty(t, d.Description, d.UID)
		ids := make(map[int]bool)
		for i, p := range d.Panels {
			name := d.UID + ": " + p.Title
			require.NotEmpty(t, p.Title, d.UID)
			require.Positive(t, p.ID, name)
			require.False(t, ids[p.ID], "%s has the id of another panel", name)
			ids[p.ID] = true
			require.Contains(t, []string{"timeseries", "gauge", "stat"}, p.Type, name)
			require.Regexp(t, `(?s)^[A-Z0-9].{15,}\.$`, p.Description, "%s needs a sentence of help", name)
			require.Contains(t, units, p.FieldConfig.Defaults.Unit, name)
			requireThresholds(t, name, p.FieldConfig.Defaults.Thresholds)
			requirePlace(t, name, p.GridPos, d.Panels[:i])
			require.Equal(t, grafana.Datasource{Type: "prometheus", UID: "${datasource}"}, p.Datasource, name)
			refs := make(map[string]bool)
			require.NotEmpty(t, p.Targets, name)
			for _, q := range p.Targets {
				require.False(t, refs[q.RefID], "%s: two queries are %s", name, q.RefID)
				refs[q.RefID] = true
				require.Equal(t, p.Datasource, q.Datasource, name)
				require.NotEmpty(t, q.LegendFormat, name)
				require.NotEqual(t, q.Instant, q.Range, name)
			}
		}
	}
}

func requireThresholds(t *testing.T, name string, th grafana.Thresholds) {
	t.Helper()
	require.Equal(t, "absolute", th.Mode, name)
	require.GreaterOrEqual(t, len(th.Steps), 2, name)
	require.Nil(t, th.Steps[0].Value, name)
	for i, s := range th.Steps {
		require.NotEmpty(t, s.Color, name)
		if i > 0 {
			require.NotNil(t, s.Value, name)
			require.NotEqual(t, th.Steps[i-1].Color, s.Color, name)
		}
		if i > 1 {
			require.Greater(t, *s.Value, *th.Steps[i-1].Value, name)
		}
	}
}

func requirePlace(t *testing.T, name string, g grafana.GridPos, others []grafana.Panel) {
	t.Helper()
	require.Positive(t, g.W, name)
	require.Positive(t, g.H, name)
	require.GreaterOrEqual(t, g.X, 0, name)
	require.GreaterOrEqual(t, g.Y, 0, name)
	require.LessOrEqual(t, g.X+g.W, 24, "%s is wider than the grid", name)
	for _, o := range others {
		b := o.GridPos
		apart := g.X+g.W <= b.X || b.X+b.W <= g.X || g.Y+g.H <= b.Y || b.Y+b.H <= g.Y
		require.True(t, apart, "%s lies over %s", name, o.Title)
	}
}

var usedVariable = regexp.MustCompile(`\$(?:\{(\w+)\}|(\w+))`)

func TestVariables(t *testing.T) {
	builtIn := []string{"__rate_interval", "__range", "__interval"}
	for _, d := range dashboards(t) {
		defined := make(map[string]bool)
		used := make(map[string]bool)
		use := func(where, text string) {
			for _, m := range usedVariable.FindAllStringSubmatch(text, -1) {
				name := m[1] + m[2]
				if slices.Contains(builtIn, name) {
					continue
				}
				require.True(t, defined[name], "%s uses $%s, which is not defined before it", where, name)
				used[name] = true
			}
		}
		require.Equal(t, "datasource", d.Templating.List[0].Name, d.UID)
		for _, v := range d.Templating.List {
			name := d.UID + ": $" + v.Name
			require.False(t, defined[v.Name], "%s is defined twice", name)
			require.NotEmpty(t, v.Label, name)
			require.NotEmpty(t, v.Description, name)
			if v.Type == "datasource" {
				require.Equal(t, "prometheus", v.Query, name)
				defined[v.Name] = true
				continue
			}
			require.Equal(t, "query", v.Type, name)
			require.True(t, v.Multi && v.IncludeAll, name)
			require.Equal(t, ".*", v.AllValue, "%s: All takes what has no such label too", name)
			require.Equal(t, []string{"$__all"}, v.Current.Value, name)
			use(name, v.Datasource.UID)
			use(name, v.Query)
			defined[v.Name] = true
		}
		for _, p := range d.Panels {
			name := d.UID + ": " + p.Title
			use(name, p.Datasource.UID)
			for _, q := range p.Targets {
				use(name, q.Expr)
				use(name, q.LegendFormat)
				requireRegexMatch(t, name, q.Expr)
			}
		}
		for v := range defined {
			require.True(t, used[v], "%s: no panel uses $%s", d.UID, v)
		}
	}
}

// requireRegexMatch wants =~ before each variable, without which neither All nor two values match.
func requireRegexMatch(t *testing.T, name, expr string) {
	t.Helper()
	for _, i := range usedVariable.FindAllStringIndex(expr, -1) {
		if before := expr[:i[0]]; strings.HasSuffix(before, `"`) {
			require.True(t, strings.HasSuffix(before, `=~"`), "%s: %s", name, expr)
		} else {
			require.True(t, strings.HasSuffix(before, "["), "%s: %s", name, expr)
		}
	}
}

// Prometheus is the default data source, and the files in dashboards/ are what Grafana looks for.
func TestProvisioning(t *testing.T) {
	read := func(path string, into any) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join("..", "deploy", "grafana", "provisioning", path))
		require.NoError(t, err)
		dec := yaml.NewDecoder(bytes.NewReader(b))
		dec.KnownFields(true)
		require.NoError(t, dec.Decode(into), path)
	}
	var sources struct {
		APIVersion  int `yaml:"apiVersion"`
		Prune       bool
		Datasources []struct {
			Name, UID, Type, Access, URL string
			IsDefault                    bool `yaml:"isDefault"`
			Editable                     bool
			JSONData                     struct {
				TimeInterval string `yaml:"timeInterval"`
				HTTPMethod   string `yaml:"httpMethod"`
			} `yaml:"jsonData"`
		}
	}
	read("datasources/prometheus.yml", &sources)
	require.Equal(t, 1, sources.APIVersion)
	require.Len(t, sources.Datasources, 1)
	require.Equal(t, "prometheus", sources.Datasources[0].Type)
	require.True(t, sources.Datasources[0].IsDefault)
	require.NotEmpty(t, sources.Datasources[0].JSONData.TimeInterval, "what $__rate_interval is made from")

	var providers struct {
		APIVersion int `yaml:"apiVersion"`
		Providers  []struct {
			Name, Folder, FolderUID, Type string `yaml:",omitempty"`
			AllowUIUpdates                bool   `yaml:"allowUiUpdates"`
			DisableDeletion               bool   `yaml:"disableDeletion"`
			UpdateIntervalSeconds         int    `yaml:"updateIntervalSeconds"`
			Options                       struct{ Path string }
		}
	}
	read("dashboards/streamhouse.yml", &providers)
	require.Equal(t, 1, providers.APIVersion)
	require.Len(t, providers.Providers, 1)
	require.Equal(t, "file", providers.Providers[0].Type)
	require.NotEmpty(t, providers.Providers[0].Options.Path)
}

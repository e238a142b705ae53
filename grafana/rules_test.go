package grafana_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
)

// rule is a recording rule or an alert.
type rule struct {
	Record, Alert, Expr string
}

func (r rule) name() string { return r.Record + r.Alert }

// ruleFiles are absolute paths of the rules that Prometheus gets. There are some where there is a configuration for it.
func ruleFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../deploy/prometheus/rules/*.yml")
	require.NoError(t, err)
	var out []string
	for _, f := range files {
		if strings.HasSuffix(f, "_test.yml") {
			continue
		}
		abs, err := filepath.Abs(f)
		require.NoError(t, err)
		out = append(out, abs)
	}
	if _, err := os.Stat("../deploy/prometheus"); err == nil {
		require.NotEmpty(t, out)
	}
	return out
}

func rules(t *testing.T) []rule {
	t.Helper()
	var out []rule
	for _, f := range ruleFiles(t) {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		var file struct {
			Groups []struct{ Rules []rule }
		}
		require.NoError(t, yaml.Unmarshal(b, &file), f)
		before := len(out)
		for _, g := range file.Groups {
			out = append(out, g.Rules...)
		}
		require.Greater(t, len(out), before, "%s has no rules", f)
	}
	return out
}

func TestRules(t *testing.T) {
	for _, r := range rules(t) {
		require.NotEmpty(t, r.name())
		e, err := promql.ParseExpr(r.Expr)
		require.NoError(t, err, r.name())
		_, err = namesIn(e)
		require.NoError(t, err, r.name())
	}
}

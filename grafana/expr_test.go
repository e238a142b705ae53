package grafana_test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/model/labels"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/stretchr/testify/require"
)

var promql = parser.NewParser(parser.Options{})

// fill replaces variables in an expression, as Grafana does.
func fill(expr string, values map[string]string) string {
	return usedVariable.ReplaceAllStringFunc(expr, func(v string) string {
		name := strings.Trim(v, "${}")
		if value, ok := values[name]; ok {
			return value
		}
		return v
	})
}

// windows are what Grafana puts for its own variables, for a time range of a minute and a scrape interval of 2 seconds.
func windows(more map[string]string) map[string]string {
	all := map[string]string{"__rate_interval": "10s", "__range": "60s", "__interval": "5s"}
	maps.Copy(all, more)
	return all
}

// anyOf is how Grafana writes the chosen values of a variable into a regular expression within a string.
func anyOf(values ...string) string {
	quoted := make([]string, 0, len(values))
	for _, v := range values {
		quoted = append(quoted, strings.ReplaceAll(regexp.QuoteMeta(v), `\`, `\\`))
	}
	if len(quoted) == 1 {
		return quoted[0]
	}
	return "(" + strings.Join(quoted, "|") + ")"
}

var labelValues = regexp.MustCompile(`^label_values\((.+), *(\w+)\)$`)

// names are the metrics that an expression reads, and the labels that it names: of each metric in matchers, and besides
// in by (…), on (…) and the like.
type names struct {
	matched map[string]map[string]bool
	grouped map[string]bool
}

func namesIn(expr parser.Expr) (names, error) {
	n := names{matched: make(map[string]map[string]bool), grouped: make(map[string]bool)}
	var bad error
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch x := node.(type) {
		case *parser.VectorSelector:
			metrics, of := selected(x)
			if len(metrics) == 0 {
				bad = fmt.Errorf("%s names no metric", x)
			}
			for _, m := range metrics {
				if n.matched[m] == nil {
					n.matched[m] = make(map[string]bool)
				}
				maps.Copy(n.matched[m], of)
			}
		case *parser.AggregateExpr:
			for _, l := range x.Grouping {
				n.grouped[l] = true
			}
		case *parser.BinaryExpr:
			if x.VectorMatching != nil {
				for _, l := range slices.Concat(x.VectorMatching.MatchingLabels, x.VectorMatching.Include) {
					n.grouped[l] = true
				}
			}
		}
		return nil
	})
	return n, bad
}

// selected returns the metrics of a selector, of which there are several in {__name__=~"a|b"}, and its other labels.
func selected(x *parser.VectorSelector) (metrics []string, of map[string]bool) {
	of = make(map[string]bool)
	for _, m := range x.LabelMatchers {
		switch {
		case m.Name != model.MetricNameLabel:
			of[m.Name] = true
		case m.Type == labels.MatchEqual, m.Type == labels.MatchRegexp:
			metrics = append(metrics, strings.Split(m.Value, "|")...)
		}
	}
	return metrics, of
}

// sides takes the conditions out of an alert's expression, which returns nothing while all is well, and gives what they
// compare: that must return data always.
func sides(expr parser.Expr) []parser.Expr {
	var found []parser.Expr
	var strip func(e parser.Expr) parser.Expr
	strip = func(e parser.Expr) parser.Expr {
		switch x := e.(type) {
		case *parser.ParenExpr:
			x.Expr = strip(x.Expr)
		case *parser.AggregateExpr:
			x.Expr = strip(x.Expr)
		case *parser.UnaryExpr:
			x.Expr = strip(x.Expr)
		case *parser.SubqueryExpr:
			x.Expr = strip(x.Expr)
		case *parser.Call:
			if strings.HasPrefix(x.Func.Name, "absent") {
				return strip(x.Args[0])
			}
			for i, a := range x.Args {
				x.Args[i] = strip(a)
			}
		case *parser.BinaryExpr:
			l, r := strip(x.LHS), strip(x.RHS)
			x.LHS, x.RHS = l, r
			switch {
			case x.Op.IsComparisonOperator() && !x.ReturnBool, x.Op == parser.LAND, x.Op == parser.LUNLESS, x.Op == parser.LOR:
				if l.Type() == parser.ValueTypeScalar {
					return r
				}
				if r.Type() != parser.ValueTypeScalar {
					found = append(found, r)
				}
				return l
			}
		}
		return e
	}
	return append([]parser.Expr{strip(expr)}, found...)
}

// shorten makes an expression look back no longer than a test lasts.
func shorten(expr parser.Expr, window time.Duration) {
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch x := node.(type) {
		case *parser.VectorSelector:
			x.OriginalOffset = min(x.OriginalOffset, 0)
		case *parser.MatrixSelector:
			x.Range = min(x.Range, window)
		case *parser.SubqueryExpr:
			x.Range, x.OriginalOffset = min(x.Range, window), 0
		}
		return nil
	})
}

func TestSides(t *testing.T) {
	for expr, want := range map[string][]string{
		`up == 0`:                             {"up"},
		`1 < sum by (a) (x)`:                  {"sum by (a) (x)"},
		`x > on (a) group_left () 2 * y`:      {"x", "2 * y"},
		`count(x > 3) > 1`:                    {"count(x)"},
		`a > 0 or (b > 1 unless c offset 5m)`: {"a", "c", "(b)"},
		`absent(x)`:                           {"x"},
		`(max(x) or 0 * max(y)) == 0`:         {"(max(x))", "0 * max(y)"},
		`sum(x > bool 1)`:                     {"sum(x > bool 1)"},
	} {
		e, err := promql.ParseExpr(expr)
		require.NoError(t, err, expr)
		shorten(e, time.Minute)
		got := make([]string, 0, 2)
		for _, s := range sides(e) {
			got = append(got, s.String())
		}
		require.Equal(t, want, got, expr)
	}
}

// Each expression can be parsed, takes rates over what Grafana chooses, and has a value while nothing happens.
func TestExpressions(t *testing.T) {
	rateWindow := regexp.MustCompile(`\brate\([^\[\]]*\[([^\]]*)\]`)
	for _, d := range dashboards(t) {
		values := windows(nil)
		for _, v := range d.Templating.List {
			values[v.Name] = v.AllValue
			if v.Type == "query" {
				m := labelValues.FindStringSubmatch(v.Query)
				require.NotNil(t, m, "%s: $%s", d.UID, v.Name)
				_, err := promql.ParseExpr(fill(m[1], values))
				require.NoError(t, err, "%s: $%s", d.UID, v.Name)
			}
		}
		for _, p := range d.Panels {
			for _, q := range p.Targets {
				name := d.UID + ": " + p.Title + ": " + q.Expr
				for _, m := range rateWindow.FindAllStringSubmatch(q.Expr, -1) {
					require.Equal(t, "$__rate_interval", m[1], name)
				}
				e, err := promql.ParseExpr(fill(q.Expr, values))
				require.NoError(t, err, name)
				_, err = namesIn(e)
				require.NoError(t, err, name)
				requireGuarded(t, name, e)
			}
		}
	}
}

// requireGuarded wants a denominator that can't be 0, and something in place of a quantile of nothing.
func requireGuarded(t *testing.T, name string, e parser.Expr) {
	t.Helper()
	parser.Inspect(e, func(node parser.Node, path []parser.Node) error {
		switch x := node.(type) {
		case *parser.BinaryExpr:
			if x.Op == parser.DIV {
				c, ok := x.RHS.(*parser.Call)
				require.True(t, ok && c.Func.Name == "clamp_min", "%s divides by what may be 0", name)
			}
		case *parser.Call:
			if x.Func.Name == "histogram_quantile" {
				require.GreaterOrEqual(t, len(path), 2, "%s is NaN when idle", name)
				compared, ok := path[len(path)-1].(*parser.BinaryExpr)
				require.True(t, ok && compared.Op == parser.GTE, "%s is NaN when idle", name)
				instead, ok := path[len(path)-2].(*parser.BinaryExpr)
				require.True(t, ok && instead.Op == parser.LOR, "%s is NaN when idle", name)
			}
		}
		return nil
	})
}

package grafana_test

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
)

// code is a span or a line of code in a document.
type code struct {
	where, text string
	// fenced is the language of the block that it is a line of, and "-" where that names none; empty for a span in a line.
	fenced string
}

var span = regexp.MustCompile("`([^`]+)`")

// codeIn returns what is code in a document in Markdown. A block of PromQL is one piece.
func codeIn(name, text string) ([]code, error) {
	var out []code
	fenced, paragraph := "", ""
	for i, line := range strings.Split(text, "\n") {
		where := fmt.Sprintf("%s:%d", name, i+1)
		lang, fence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case fenced == "" && (fence || strings.TrimSpace(line) == ""):
			spans, err := spansIn(where, paragraph)
			if err != nil {
				return nil, err
			}
			out, paragraph = append(out, spans...), ""
		default:
		}
		switch {
		case fence && fenced != "":
			fenced = ""
		case fence:
			fenced = lang
			if fenced == "" {
				fenced = "-"
			}
			if lang == "promql" {
				out = append(out, code{where: where, fenced: fenced})
			}
		case fenced == "promql":
			out[len(out)-1].text += line + "\n"
		case fenced != "":
			out = append(out, code{where, line, fenced})
		default:
			paragraph += line + " "
		}
	}
	spans, err := spansIn(name, paragraph)
	return append(out, spans...), err
}

// spansIn returns the spans of a paragraph that ends at a line.
func spansIn(where, paragraph string) ([]code, error) {
	if strings.Count(paragraph, "`")%2 != 0 {
		return nil, fmt.Errorf("%s: a span does not end in its paragraph", where)
	}
	var out []code
	for _, m := range span.FindAllStringSubmatch(paragraph, -1) {
		out = append(out, code{where: "before " + where, text: m[1]})
	}
	return out, nil
}

// documents are all that stand in the repository, by path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	out := make(map[string]string)
	require.NoError(t, filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == ".git" || d.Name() == "node_modules" || d.Name() == "bin") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			b, err := os.ReadFile(path)
			out[strings.TrimPrefix(path, "../")] = string(b)
			return err
		}
		return nil
	}))
	return out
}

var (
	// ours finds code that is about metrics, of nodes or of Go programs.
	ours = regexp.MustCompile(`\b(?:streamhouse|process|go)_[a-z]`)
	// listed is a metric with the names of its labels, as tables have them.
	listed = regexp.MustCompile(`^([a-z_][a-z0-9_]*)(?:\{([a-z_]+(?:, ?[a-z_]+)*)\})?$`)
	// grepped is what a shell looks for at the beginning of a line of /metrics.
	grepped = regexp.MustCompile(`\^((?:streamhouse|process|go)_[^' ]*)`)
	// short is the end of a name, after one that begins as it does.
	short = regexp.MustCompile(`^…(_[a-z0-9_]+)$`)
	// choice is a group of alternatives.
	choice = regexp.MustCompile(`\(([^()]*)\)`)
	// beginning is what of a pattern stands for itself.
	beginning = regexp.MustCompile(`^[a-z0-9_]+`)
)

// checkDocument checks all metrics and labels that a document names, and returns how many pieces of code name some.
func checkDocument(exported map[string]map[string]bool, name, text string) (found int, err error) {
	pieces, err := codeIn(name, text)
	if err != nil {
		return 0, err
	}
	before := ""
	for _, c := range pieces {
		if m := short.FindStringSubmatch(c.text); m != nil && before != "" {
			if !endsLike(exported, before, m[1]) {
				return 0, fmt.Errorf("%s: no metric begins as %s does and ends in %s", c.where, before, m[1])
			}
			found++
			continue
		}
		if !ours.MatchString(c.text) {
			continue
		}
		found++
		before = c.text
		if err := checkCode(exported, c); err != nil {
			return 0, fmt.Errorf("%s: %s: %w", c.where, c.text, err)
		}
	}
	return found, nil
}

// checkCode checks one piece: a metric as tables have them, an expression, or a command that looks for one.
func checkCode(exported map[string]map[string]bool, c code) error {
	if m := listed.FindStringSubmatch(c.text); m != nil {
		return checkListed(exported, m[1], m[2])
	}
	if c.fenced == "" || c.fenced == "promql" {
		return checkNames(exported, c.text)
	}
	patterns := grepped.FindAllStringSubmatch(c.text, -1)
	for _, m := range patterns {
		for _, one := range alternatives(m[1]) {
			if start := beginning.FindString(one); !startsLike(exported, start) {
				return fmt.Errorf("no metric begins with %s", start)
			}
		}
	}
	for _, m := range regexp.MustCompile(`\b(streamhouse_[a-z0-9_]+)`).FindAllString(grepped.ReplaceAllString(c.text, ""), -1) {
		if err := checkListed(exported, m, ""); err != nil {
			return err
		}
	}
	return nil
}

func checkListed(exported map[string]map[string]bool, metric, labels string) error {
	of := exported[metric]
	if of == nil {
		of = exported[metric+"_count"] // a histogram
	}
	if of == nil {
		return fmt.Errorf("nothing exports %s", metric)
	}
	for label := range strings.SplitSeq(labels, ",") {
		if label = strings.TrimSpace(label); label != "" && !of[label] {
			return fmt.Errorf("%s has no label %s", metric, label)
		}
	}
	return nil
}

func startsLike(exported map[string]map[string]bool, start string) bool {
	for name := range exported {
		if strings.HasPrefix(name, start) {
			return true
		}
	}
	return false
}

// endsLike reports whether a metric has all of another one's name but its last words, and this end.
func endsLike(exported map[string]map[string]bool, other, end string) bool {
	for {
		i := strings.LastIndexByte(other, '_')
		if i < 0 {
			return false
		}
		other = other[:i]
		if checkListed(exported, other+end, "") == nil {
			return true
		}
	}
}

// alternatives are all that a pattern with groups of them stands for.
func alternatives(pattern string) []string {
	at := choice.FindStringSubmatchIndex(pattern)
	if at == nil {
		return []string{pattern}
	}
	var out []string
	for one := range strings.SplitSeq(pattern[at[2]:at[3]], "|") {
		out = append(out, alternatives(pattern[:at[0]]+one+pattern[at[1]:])...)
	}
	return out
}

// described takes the names and labels of what is registered, without values.
type described struct {
	prometheus.Registerer

	labels map[string]map[string]bool
}

var desc = regexp.MustCompile(`fqName: "([^"]+)".*variableLabels: \{([^}]*)\}`)

// Register implements prometheus.Registerer.
func (d described) Register(c prometheus.Collector) error {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		c.Describe(ch)
	}()
	for one := range ch {
		m := desc.FindStringSubmatch(one.String())
		if m == nil {
			return fmt.Errorf("%s can't be read", one)
		}
		d.labels[m[1]] = make(map[string]bool)
		for label := range strings.SplitSeq(m[2], ",") {
			d.labels[m[1]][label] = true
		}
	}
	return d.Registerer.Register(c)
}

// clientMetrics are those of the Go client.
func clientMetrics(t *testing.T) map[string]map[string]bool {
	t.Helper()
	d := described{prometheus.NewRegistry(), make(map[string]map[string]bool)}
	c, err := client.New(client.Config{Registerer: d})
	require.NoError(t, err)
	require.NoError(t, c.Close())
	require.Contains(t, d.labels["streamhouse_client_produced_records_total"], "topic")
	return d.labels
}

func TestCodeInDocuments(t *testing.T) {
	exported := map[string]map[string]bool{
		"streamhouse_x_total": {"topic": true}, "streamhouse_x_seconds_count": {"le": true}, "streamhouse_x_seconds_sum": nil,
	}
	for _, good := range []string{
		"`streamhouse_x_total{topic}` and `streamhouse_x_seconds`, `…_total`", "`sum by (topic) (rate(streamhouse_x_total{topic=\"a\"}[1m]))`",
		"```sh\ncurl x | grep -E '^streamhouse_x_(total|seconds_(sum|count)).*y'\n```", "```promql\nstreamhouse_x_total\n  > 0\n```", "streamhouse_y",
	} {
		_, err := checkDocument(exported, "good", good)
		require.NoError(t, err, good)
	}
	for _, wrong := range []string{
		"`streamhouse_y`", "`streamhouse_x_total{y}`", "`streamhouse_x_total{y=\"a\"}`", "`sum by (y) (streamhouse_x_total)`", "`sum(streamhouse_x_total`",
		"`streamhouse_x_total`, `…_bytes`", "```sh\ngrep '^streamhouse_x_(total|bytes)'\n```", "```sh\ngrep streamhouse_y\n```", "```promql\nstreamhouse_x_total >\n```",
		"`a",
	} {
		_, err := checkDocument(exported, "wrong", wrong)
		require.Error(t, err, wrong)
	}
}

// testDocuments checks that all metrics and labels are there that any document names.
func (l *live) testDocuments(t *testing.T) {
	exported := l.exported(t)
	maps.Copy(exported, clientMetrics(t))
	found := make(map[string]int)
	for name, text := range documents(t) {
		n, err := checkDocument(exported, name, text)
		require.NoError(t, err)
		if n > 0 {
			found[name] = n
		}
	}
	for name, least := range map[string]int{
		"docs/metrics.md": 60, "docs/operations.md": 10, "docs/client.md": 10, "docs/runbooks/S3UploadFailed.md": 3,
	} {
		require.GreaterOrEqual(t, found[name], least, name)
	}
	t.Logf("pieces of code that name metrics: %v", found)
}

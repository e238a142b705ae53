package integration_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// ofLibraries are words of lines that hashicorp/raft writes.
var ofLibraries = []string{"heartbeat timeout", "failed to contact"}

// lookups are the patterns that a runbook looks for in a log, but not those of a field of each line.
func lookups(page string) []string {
	var out []string
	for _, m := range regexp.MustCompile(`grep (?:-E )?'([^']+)' LOG`).FindAllStringSubmatch(page, -1) {
		if !strings.Contains(m[1], `[=:]`) {
			out = append(out, m[1])
		}
	}
	return out
}

// apart are the alternatives of a pattern, outside of parentheses.
func apart(pattern string) []string {
	var out []string
	depth, from := 0, 0
	for i, c := range pattern {
		switch c {
		case '(':
			depth++
		case ')':
			depth--
		case '|':
			if depth == 0 {
				out = append(out, pattern[from:i])
				from = i + 1
			}
		}
	}
	return append(out, pattern[from:])
}

// sources is the code of a node.
func sources(t *testing.T, root string) string {
	t.Helper()
	var all strings.Builder
	for _, dir := range []string{"broker", "cluster", "internal", "observability", "storage", "api"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			b, err := os.ReadFile(path)
			all.Write(b)
			return err
		}))
	}
	return all.String()
}

// What runbooks look for in a log is what nodes write there.
func TestRunbooksLookForLinesThatNodesWrite(t *testing.T) {
	t.Parallel()
	root, err := harness.Root()
	require.NoError(t, err)
	code := sources(t, root) + strings.Join(ofLibraries, "\n")
	pages, err := filepath.Glob(filepath.Join(root, "docs", "runbooks", "*.md"))
	require.NoError(t, err)
	found := make(map[string][]string)
	for _, p := range pages {
		page, err := os.ReadFile(p)
		require.NoError(t, err)
		name := strings.TrimSuffix(filepath.Base(p), ".md")
		found[name] = lookups(string(page))
		for _, pattern := range found[name] {
			for _, one := range apart(pattern) {
				require.True(t, regexp.MustCompile(one).MatchString(code), "%s: no line of a log has %s", name, one)
			}
		}
	}
	// Every kind of upload that an alert is about.
	for _, name := range []string{"S3UploadFailed", "S3ErrorRatioHigh"} {
		for _, line := range []string{
			"upload failed, trying again", "metadata checkpoint failed, trying again", "committed offsets of groups are not in the object store yet",
		} {
			require.Positive(t, strings.Count(code, `"`+line+`"`), line)
			require.Regexp(t, found[name][0], line, name)
		}
	}
}

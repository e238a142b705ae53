package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = "../.."

// trap is a line of docs/traps.md.
type trap struct {
	key           string
	tests, guards []string
}

var quoted = regexp.MustCompile("`([^`]+)`")

func traps(t *testing.T) []trap {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "docs", "traps.md"))
	require.NoError(t, err)
	var all []trap
	for line := range strings.Lines(string(b)) {
		cells := strings.Split(line, "|")
		if !strings.HasPrefix(line, "| `") {
			continue
		}
		require.Len(t, cells, 6, line)
		unquote := func(cell string) (names []string) {
			for _, m := range quoted.FindAllStringSubmatch(cell, -1) {
				names = append(names, m[1])
			}
			return names
		}
		keys := unquote(cells[1])
		require.Len(t, keys, 1, line)
		all = append(all, trap{keys[0], unquote(cells[3]), unquote(cells[4])})
	}
	return all
}

// declares reports whether a Go file of a directory whose name ends so declares a function or method.
func declares(t *testing.T, dir, suffix, function string) bool {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*"+suffix))
	require.NoError(t, err)
	declaration := regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + function + `\(`)
	return slices.ContainsFunc(files, func(f string) bool {
		b, err := os.ReadFile(f)
		require.NoError(t, err)
		return declaration.Match(b)
	})
}

// mutated are the keys of which a mutant removes a guard.
func mutated(t *testing.T) map[string]bool {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(root, "tools", "mutate", "mutants", "index.txt"))
	require.NoError(t, err)
	keys := make(map[string]bool)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] != "#" {
			for key := range strings.SplitSeq(f[1], ",") {
				keys[key] = true
			}
		}
	}
	return keys
}

// Every trap has a test that is named after it; what the table names is there; and a guard has a mutant without it.
func TestTraps(t *testing.T) {
	all, mutants := traps(t), mutated(t)
	require.Greater(t, len(all), 30)
	delete(mutants, "planted")
	seen := make(map[string]bool)
	for _, tr := range all {
		t.Run(tr.key, func(t *testing.T) {
			require.False(t, seen[tr.key], "it is there twice")
			seen[tr.key] = true
			named := "test" + strings.ReplaceAll(tr.key, "-", "")
			require.True(t, slices.ContainsFunc(tr.tests, func(name string) bool {
				_, function, _ := strings.Cut(name, ".")
				return strings.HasPrefix(strings.ToLower(function), named)
			}), "no test is named after it: %v", tr.tests)
			for _, name := range tr.tests {
				dir, function, _ := strings.Cut(name, ".")
				require.True(t, declares(t, dir, "_test.go", function), "there is no %s", name)
			}
			for _, guard := range tr.guards {
				file, functions, _ := strings.Cut(guard, ": ")
				for function := range strings.SplitSeq(functions, ", ") {
					require.True(t, declares(t, filepath.Dir(file), filepath.Base(file), function), "there is no %s in %s", function, file)
				}
			}
			require.Equal(t, len(tr.guards) > 0, mutants[tr.key], "mutants remove what is a guard, and nothing else")
			delete(mutants, tr.key)
		})
	}
	require.Empty(t, mutants, "no trap has this key")
}

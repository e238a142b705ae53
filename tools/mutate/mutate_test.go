package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func index(t *testing.T) (root string, checks []check) {
	t.Helper()
	root, err := findRoot(".")
	require.NoError(t, err)
	checks, err = readIndex(root)
	require.NoError(t, err)
	require.NotEmpty(t, checks)
	return root, checks
}

// Every patch is in the index, says what it breaks, and fits the tree as it is now.
func TestMutantsApply(t *testing.T) {
	root, checks := index(t)
	indexed := make(map[string]bool)
	for _, c := range checks {
		indexed[c.mutant] = true
	}
	patches, err := filepath.Glob(filepath.Join(root, mutantsDir, "*"+patchSuffix))
	require.NoError(t, err)
	require.Len(t, indexed, len(patches), "an index line has no patch")
	for _, p := range patches {
		name := strings.TrimSuffix(filepath.Base(p), patchSuffix)
		t.Run(name, func(t *testing.T) {
			require.True(t, indexed[name], "it is not in the index")
			b, err := os.ReadFile(p)
			require.NoError(t, err)
			require.Regexp(t, `^[A-Z]`, string(b), "a sentence says what it breaks")
			_, err = overlay(t.Context(), root, name, t.TempDir())
			require.NoError(t, err)
			for _, file := range patched(string(b)) {
				require.NotContains(t, file, "_test.go", "a test is no guard")
			}
		})
	}
}

// Every test of the index is there.
func TestIndexNamesTests(t *testing.T) {
	root, checks := index(t)
	for _, c := range checks {
		files, err := filepath.Glob(filepath.Join(root, c.test.dir, "*_test.go"))
		require.NoError(t, err)
		found := false
		for _, f := range files {
			b, err := os.ReadFile(f)
			require.NoError(t, err)
			found = found || strings.Contains(string(b), "\nfunc "+c.test.name+"(t *testing.T)")
		}
		require.True(t, found, "%s: there is no %s", c.mutant, c.test)
	}
}

func TestParseIndexRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"too short":  "a bit-flip ./p",
		"no test":    "a bit-flip ./p Benchmark",
		"line twice": "a bit-flip ./p TestA\nb bit-flip p TestA\na planted p TestA",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parseIndex("# comment\n\n" + text)
			require.ErrorContains(t, err, "line")
		})
	}
}

// What a test's output says about it, and what is no catch.
func TestRan(t *testing.T) {
	const began = "=== RUN   TestA\n"
	for name, c := range map[string]struct {
		failed bool
		output string
		ok     bool
	}{
		"passed":              {false, began + "--- PASS: TestA (0.00s)\nPASS\n", true},
		"failed":              {true, began + "--- FAIL: TestA (0.00s)\nFAIL\n", true},
		"panicked":            {true, began + "panic: runtime error\n", true},
		"took too long":       {true, began + "panic: test timed out after 1s\n", true},
		"is not there":        {false, "testing: warning: no tests to run\nPASS\n", false},
		"was not begun":       {true, "flag provided but not defined: -x\n", false},
		"failed behind it":    {true, began + "--- PASS: TestA (0.00s)\ngoleak: Errors on successful test run\n", false},
		"another one of them": {true, "=== RUN   TestAB\n--- FAIL: TestAB (0.00s)\n", false},
		"was skipped":         {false, began + "--- SKIP: TestA (0.00s)\nPASS\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			err := ran(test{name: "TestA"}, outcome{failed: c.failed, output: c.output})
			require.Equal(t, c.ok, err == nil, "%v", err)
		})
	}
}

// A small module with a guard: its mutants are caught, survive, or are no mutants.
func TestMutateAModule(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{
		"go.mod":                "module example.com/m\n\ngo 1.24\n",
		"m.go":                  "package m\n\nfunc positive(n int) int {\n\tif n < 0 {\n\t\treturn 0\n\t}\n\treturn n\n}\n",
		"m_test.go":             "package m\n\nimport \"testing\"\n\nfunc TestPositive(t *testing.T) {\n\tif positive(-1) != 0 {\n\t\tt.Fatal(\"negative\")\n\t}\n}\n",
		mutantsDir + "/a.patch": patchOf("if n < 0 {", "if n < -1 {"),
		mutantsDir + "/b.patch": patchOf("if n < 0 {", "if n <= 0 {"),
		mutantsDir + "/c.patch": patchOf("if n < 0 {", "if m < 0 {"),
		mutantsDir + "/d.patch": patchOf("if n < 7 {", "if m < 7 {"),
	} {
		path := filepath.Join(root, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o750))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	t.Chdir(root)
	var index, out strings.Builder
	for _, mutant := range []string{"a", "b", "c", "d"} {
		index.WriteString(mutant + " planted . TestPositive\n")
	}
	require.NoError(t, os.WriteFile(filepath.Join(root, mutantsDir, indexName), []byte(index.String()), 0o600))
	err := run(t.Context(), nil, &out)
	for _, want := range []string{"b survives", "c: . does not build", "d.patch does not apply"} {
		require.ErrorContains(t, err, want)
	}
	for _, want := range []string{`^\(none\) +passes +\. TestPositive +\d+\.\ds`, `\na +caught by +\. TestPositive `, `\nb +SURVIVES +\. TestPositive `} {
		require.Regexp(t, want, out.String())
	}
	require.NoError(t, run(t.Context(), []string{"-run", "^a "}, &out))
	require.Error(t, run(t.Context(), []string{"-run", "nothing"}, &out))
}

func patchOf(from, to string) string {
	return "It breaks something.\n\n--- a/m.go\n+++ b/m.go\n@@ -3,3 +3,3 @@\n func positive(n int) int {\n-\t" + from + "\n+\t" + to + "\n \t\treturn 0\n"
}

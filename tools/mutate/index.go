package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Where the mutants are, from the root of the repository.
const (
	mutantsDir  = "tools/mutate/mutants"
	indexName   = "index.txt"
	patchSuffix = ".patch"
)

// check is one line of the index: a mutant, and a test that must fail with it.
type check struct {
	mutant string
	// kinds are keys of docs/traps.md, and "planted" for a bug that somebody could make, separated by commas.
	kinds string
	test  test
}

// test is one test function, and how it is run.
type test struct {
	// dir is the package's directory from the root of the repository, in any module.
	dir string
	// name is the function's.
	name string
	// args are passed to the test binary, separated by spaces.
	args string
}

// String names the test as a person would run it.
func (t test) String() string { return strings.TrimSpace(t.dir + " " + t.name + " " + t.args) }

// parseIndex reads an index: mutant, kinds, package directory, test, and arguments of the test, one line each. Empty lines
// and those that begin with # say nothing.
func parseIndex(text string) ([]check, error) {
	var checks []check
	var errs []error
	seen := make(map[[2]string]bool)
	lines := bufio.NewScanner(strings.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[3], "Test") {
			errs = append(errs, fmt.Errorf("line %d: want MUTANT KINDS DIRECTORY TEST [ARGUMENTS]: %s", n, line))
			continue
		}
		c := check{f[0], f[1], test{filepath.Clean(f[2]), f[3], strings.Join(f[4:], " ")}}
		key := [2]string{c.mutant, c.test.String()}
		if seen[key] {
			errs = append(errs, fmt.Errorf("line %d: is there twice: %s", n, line))
		}
		seen[key] = true
		checks = append(checks, c)
	}
	return checks, errors.Join(append(errs, lines.Err())...)
}

// readIndex reads the index of the repository at root.
func readIndex(root string) ([]check, error) {
	path := filepath.Join(root, mutantsDir, indexName)
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	checks, err := parseIndex(string(b))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return checks, nil
}

// findRoot returns the repository that dir is in: the first directory upwards that has the mutants.
func findRoot(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, mutantsDir)); err == nil {
			return dir, nil
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", fmt.Errorf("no directory upwards has %s", mutantsDir)
		}
		dir = parent
	}
	return "", err
}

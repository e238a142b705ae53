package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// overlay applies a mutant's patch to copies of the files that it changes, in the empty directory dir, and returns the
// path of a file for go build -overlay.
func overlay(ctx context.Context, root, mutant, dir string) (string, error) {
	patch := filepath.Join(root, mutantsDir, mutant+patchSuffix)
	b, err := os.ReadFile(patch)
	if err != nil {
		return "", err
	}
	files := patched(string(b))
	if len(files) == 0 {
		return "", fmt.Errorf("%s changes no file", patch)
	}
	replace := make(map[string]string, len(files))
	for _, name := range files {
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		if err := copyFile(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		replace[from] = to
	}
	if err := apply(ctx, patch, dir); err != nil {
		return "", err
	}
	out, err := json.Marshal(map[string]any{"Replace": replace})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, out, 0o600)
}

// patched returns the files that a patch changes or makes.
func patched(patch string) []string {
	var files []string
	for line := range strings.Lines(patch) {
		if name, ok := strings.CutPrefix(line, "+++ b/"); ok {
			files = append(files, strings.TrimSpace(name))
		}
	}
	return files
}

func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o750); err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o600)
}

// apply applies a patch below dir. One line of context is enough, so that a change nearby does not make it stale.
func apply(ctx context.Context, patch, dir string) error {
	cmd := exec.CommandContext(ctx, "git", "apply", "-C1", patch)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CEILING_DIRECTORIES="+filepath.Dir(dir), "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s does not apply: %w: %s", patch, err, strings.TrimSpace(string(out)))
	}
	return nil
}

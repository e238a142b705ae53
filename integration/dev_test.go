package integration_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// devAddrs is where `make dev` listens.
var devAddrs = []string{
	"127.0.0.1:50051", "127.0.0.1:50052", "127.0.0.1:50053", "127.0.0.1:8080", "127.0.0.1:8081", "127.0.0.1:8082",
	"127.0.0.1:7000", "127.0.0.1:7001", "127.0.0.1:7002", "127.0.0.1:7946", "127.0.0.1:7947", "127.0.0.1:7948",
}

// In a fresh clone `make dev` brings a cluster up, and real logs that are
// produced through its first node come back byte for byte from all three. Then
// the README's first five minutes are what it says.
func TestDevBringsRealLogsBack(t *testing.T) {
	logs := harness.TestData(t)
	harness.RequireFree(t, devAddrs...)
	clone := freshClone(t)
	dev := startDev(t, clone)
	bin := filepath.Join(clone, "bin", "streamhouse")

	for i, path := range logs {
		topic := strings.TrimSuffix(filepath.Base(path), ".log")
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		run(t, nil, bin, "topic", "create", topic, "--partitions", "1", "--addr", devAddrs[0])
		if i%2 == 0 {
			run(t, nil, bin, "produce", topic, "--file", path, "--addr", devAddrs[0])
		} else {
			run(t, want, bin, "produce", topic, "--addr", devAddrs[0])
		}
		for _, addr := range devAddrs[:3] {
			got := run(t, nil, bin, "consume", topic, "--from", "beginning", "-o", "value", "--addr", addr)
			require.Truef(t, bytes.Equal(want, got), "%s through %s: %d bytes came back of %d", topic, addr, len(got), len(want))
		}
	}

	runFirstFiveMinutes(t, clone)

	// Started again on its directory, it is the same cluster.
	stopDev(t, dev)
	dev = startDev(t, clone)
	for _, path := range logs {
		want, err := os.ReadFile(path)
		require.NoError(t, err)
		got := run(t, nil, bin, "consume", strings.TrimSuffix(filepath.Base(path), ".log"), "--from", "beginning", "-o", "value", "--addr", devAddrs[1])
		require.True(t, bytes.Equal(want, got), path)
	}
	stopDev(t, dev)
}

// runFirstFiveMinutes runs the commands of the README in a clone where `make dev` runs: five from nothing to the lag of a
// group.
func runFirstFiveMinutes(t *testing.T, clone string) {
	t.Helper()
	readme, err := os.ReadFile(filepath.Join(clone, "README.md"))
	require.NoError(t, err)
	_, text, found := strings.Cut(string(readme), "## The first five minutes\n")
	require.True(t, found)
	_, text, _ = strings.Cut(text, "```\n")
	block, _, _ := strings.Cut(text, "```\n")
	commands := strings.Split(strings.TrimSpace(block), "\n")
	require.Len(t, commands, 5)
	require.True(t, strings.HasPrefix(commands[0], "git clone "))
	require.Equal(t, "make dev", commands[1])
	var shown []byte
	for _, command := range commands[2:] {
		shown = run(t, nil, "bash", "-euo", "pipefail", "-c", "cd "+clone+" && "+command)
	}
	require.Contains(t, string(shown), "600", "what is left")
	described := run(t, nil, filepath.Join(clone, "bin", "streamhouse"), "group", "describe", "billing", "-o", "json")
	var group struct {
		Lag     int64 `json:"lag"`
		Members []any `json:"members"`
	}
	require.NoError(t, json.Unmarshal(described, &group))
	require.EqualValues(t, 600, group.Lag)
	require.Empty(t, group.Members, "the consumer has left")
}

// freshClone copies what a clone of the work tree as it is would have.
func freshClone(t *testing.T) string {
	t.Helper()
	root, err := harness.Root()
	require.NoError(t, err)
	dir := t.TempDir()
	list := exec.CommandContext(t.Context(), "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	out, err := list.Output()
	require.NoError(t, err)
	for name := range strings.SplitSeq(strings.TrimRight(string(out), "\x00"), "\x00") {
		from, to := filepath.Join(root, name), filepath.Join(dir, name)
		info, err := os.Stat(from)
		if errors.Is(err, os.ErrNotExist) {
			continue // removed and not committed yet
		}
		require.NoError(t, err)
		content, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o700))
		require.NoError(t, os.WriteFile(to, content, info.Mode()))
	}
	return dir
}

func startDev(t *testing.T, dir string) *harness.Process {
	t.Helper()
	p := harness.Start(t, harness.Command{
		Name: "make dev", Path: "make", Args: []string{"dev"}, Dir: dir, LogPath: filepath.Join(t.ArtifactDir(), "dev.log"),
	})
	said := len(p.Log())
	harness.Eventually(t, 3*time.Minute, "the cluster is ready", func(context.Context) error {
		if !p.Running() {
			t.Fatalf("make dev ended:\n%s", p.LogTail())
		}
		if log := p.Log(); !strings.Contains(log[min(said, len(log)):], "cluster ready") {
			return fmt.Errorf("it said:\n%s", p.LogTail())
		}
		return nil
	})
	return p
}

// stopDev does what Ctrl-C does, and waits until nobody listens any more.
func stopDev(t *testing.T, p *harness.Process) {
	t.Helper()
	require.NoError(t, syscall.Kill(-p.PID(), syscall.SIGINT))
	harness.Eventually(t, 40*time.Second, "make dev ends", func(context.Context) error {
		if p.Running() {
			return errors.New("it runs")
		}
		return nil
	})
	harness.RequireFree(t, devAddrs...)
}

// run runs a command that must succeed and returns what it wrote to stdout.
func run(t *testing.T, stdin []byte, path string, args ...string) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = harness.ChildEnv()
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoErrorf(t, cmd.Run(), "%s %s: %s", filepath.Base(path), strings.Join(args, " "), &stderr)
	return stdout.Bytes()
}

package integration_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// portRun returns the first of three free ports in a row, one for each node.
func portRun(t *testing.T) int {
	t.Helper()
	first, have := harness.FreePort(t), 1
	for have < 3 {
		if p := harness.FreePort(t); p == first+have {
			have++
		} else {
			first, have = p, 1
		}
	}
	return first
}

// What `make observe` runs: a cluster whose nodes Prometheus scrapes by the names of deploy/, with the rules, and with an
// Alertmanager. An interrupt ends all of it.
func TestObserveScript(t *testing.T) {
	t.Parallel()
	root, err := harness.Root()
	require.NoError(t, err)
	bin, dir := t.TempDir(), t.TempDir()
	for name, path := range map[string]string{
		"streamhouse": harness.Binary(t), "prometheus": harness.ToolPath(t, "prometheus"), "alertmanager": harness.ToolPath(t, "alertmanager"),
	} {
		require.NoError(t, os.Symlink(path, filepath.Join(bin, name)))
	}
	prometheus, alertmanager := harness.FreePort(t), harness.FreePort(t)
	flags := fmt.Sprintf("--grpc-port %d --http-port %d --raft-port %d --gossip-port %d", portRun(t), portRun(t), portRun(t), portRun(t))
	p := harness.Start(t, harness.Command{
		Name: "observe", Path: filepath.Join(root, "tools", "observe.sh"), Args: []string{dir}, Dir: dir,
		Env: []string{
			"BIN=" + bin, "DEV_ARGS=" + flags,
			"OBSERVE_PROMETHEUS=" + strconv.Itoa(prometheus), "OBSERVE_ALERTMANAGER=" + strconv.Itoa(alertmanager),
		},
		LogPath: filepath.Join(dir, "observe.log"),
	})
	interrupt := func() {
		_ = p.Signal(syscall.SIGINT)
		<-p.Done()
	}
	t.Cleanup(interrupt)

	query := harness.AtPrometheus(t, fmt.Sprintf("127.0.0.1:%d", prometheus))
	harness.Eventually(t, 2*time.Minute, "all nodes are scraped, and rules are evaluated", func(ctx context.Context) error {
		for q, want := range map[string]float64{
			`sum(up{job="streamhouse",node=~"n[123]"})`: 3, "job:streamhouse_cache_hits:ratio_rate5m": 1,
			"max(streamhouse_metadata_leader)": 1,
		} {
			got, err := query.Value(ctx, q)
			if err == nil && got != want {
				err = fmt.Errorf("%s is %v", q, got)
			}
			if err != nil {
				return err
			}
		}
		managers, err := query.AlertManagers(ctx)
		if err == nil && len(managers.Active) != 1 {
			err = fmt.Errorf("%d Alertmanagers", len(managers.Active))
		}
		return err
	})
	require.Contains(t, p.Log(), fmt.Sprintf("http://127.0.0.1:%d/alerts", prometheus))
	require.Contains(t, p.Log(), "cluster ready")

	interrupt()
	require.Equal(t, 130, p.ExitCode(), p.Log())
	for _, port := range []int{prometheus, alertmanager} {
		harness.RequireFree(t, fmt.Sprintf("127.0.0.1:%d", port))
	}
}

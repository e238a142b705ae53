package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// The test binary is also the node: it serves /ready until SIGTERM.
func TestMain(m *testing.M) {
	if mode := os.Getenv("DEV_TEST_NODE"); mode != "" {
		os.Exit(fakeNode(mode))
	}
	goleak.VerifyTestMain(m)
}

func flagValue(args []string, name string) string {
	if i := slices.Index(args, "--"+name); i >= 0 && i+1 < len(args) {
		return args[i+1]
	}
	return ""
}

func fakeNode(mode string) int {
	fmt.Println(strings.Join(os.Args[1:], " "))
	if mode == "broken" && flagValue(os.Args, "node-id") == "n2" {
		fmt.Println("this is why")
		return 3
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/ready", func(w http.ResponseWriter, _ *http.Request) {
		if mode == "unready" {
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprint(w, `{"status":"not_ready","reason":"no leader"}`)
		}
	})
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	if mode == "stubborn" {
		signal.Ignore(syscall.SIGTERM)
	}
	s := &http.Server{Addr: flagValue(os.Args, "http-addr"), Handler: mux}
	go func() {
		if err := s.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			fmt.Fprintln(os.Stderr, err)
		}
	}()
	<-ctx.Done()
	return 0
}

// freePorts returns the first of n free ports in a row.
func freePorts(t *testing.T, n int) int {
	t.Helper()
	for range 100 {
		first, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		held, base := []net.Listener{first}, first.Addr().(*net.TCPAddr).Port
		for i := 1; i < n && base+n < 65536; i++ {
			l, err := net.Listen("tcp", loopback(base+i))
			if err != nil {
				break
			}
			held = append(held, l)
		}
		for _, l := range held {
			require.NoError(t, l.Close())
		}
		if len(held) == n {
			return base
		}
	}
	t.Fatal("no free ports")
	return 0
}

// words collects what is said.
type words struct {
	mu    sync.Mutex
	lines []string
}

func (w *words) say(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *words) has(part string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.lines, func(l string) bool { return strings.Contains(l, part) })
}

func config(t *testing.T, mode string, w *words) Config {
	t.Helper()
	t.Setenv("DEV_TEST_NODE", mode)
	base := freePorts(t, 12)
	return Config{
		Binary: os.Args[0], Nodes: 3, Dir: t.TempDir(), GRPCPort: base, HTTPPort: base + 3, RaftPort: base + 6, GossipPort: base + 9,
		ReadyTimeout: 20 * time.Second, StopTimeout: 20 * time.Second, Say: w.say,
	}
}

func TestRunUntilToldToStop(t *testing.T) {
	var w words
	cfg := config(t, "ok", &w)
	cfg.ServerArgs = []string{"--log-level", "debug"}
	c, err := New(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pids []int
	err = c.Run(ctx, func(_ context.Context, nodes []*Node) error {
		for _, n := range nodes {
			pids = append(pids, n.PID)
		}
		cancel()
		return nil
	})
	require.NoError(t, err)
	require.Len(t, pids, 3)
	for _, pid := range pids {
		require.Error(t, syscall.Kill(pid, 0), "still runs")
	}
	log, err := os.ReadFile(filepath.Join(cfg.Dir, "n2.log"))
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("server --node-id n2 --data-dir %[1]s/n2 --grpc-addr %[2]s --http-addr %[3]s --raft-addr %[4]s --gossip-addr %[5]s"+
		" --object-store file://%[1]s/objects --bootstrap-expect 3 --join %[6]s,%[7]s --log-level debug\n",
		cfg.Dir, loopback(cfg.GRPCPort+1), loopback(cfg.HTTPPort+1), loopback(cfg.RaftPort+1), loopback(cfg.GossipPort+1),
		loopback(cfg.GossipPort), loopback(cfg.GossipPort+2)), string(log))
}

func TestKilledNodesStayDead(t *testing.T) {
	var w words
	c, err := New(config(t, "ok", &w))
	require.NoError(t, err)
	ready := make(chan []*Node, 1)
	done := make(chan error, 1)
	go func() {
		done <- c.Run(t.Context(), func(_ context.Context, nodes []*Node) error {
			ready <- nodes
			return nil
		})
	}()
	nodes := <-ready
	for i, n := range nodes {
		require.NoError(t, syscall.Kill(n.PID, syscall.SIGKILL))
		require.Eventually(t, func() bool {
			return w.has(fmt.Sprintf("node n%d (pid %d) has ended: signal: killed", i+1, n.PID))
		}, 10*time.Second, 10*time.Millisecond)
		if i < 2 {
			require.Empty(t, done, "the others go on")
		}
	}
	require.ErrorContains(t, <-done, "all nodes have ended")
}

func TestRunFails(t *testing.T) {
	never := func(context.Context, []*Node) error { return nil }
	t.Run("a node ends at once", func(t *testing.T) {
		c, err := New(config(t, "broken", new(words)))
		require.NoError(t, err)
		err = c.Run(t.Context(), never)
		require.ErrorContains(t, err, "node n2 ended before the cluster was ready: exit status 3")
		require.ErrorContains(t, err, "this is why")
	})
	t.Run("never ready", func(t *testing.T) {
		cfg := config(t, "unready", new(words))
		cfg.ReadyTimeout = 5 * time.Second
		c, err := New(cfg)
		require.NoError(t, err)
		require.ErrorContains(t, c.Run(t.Context(), never), "n3: no leader (log: ")
	})
	t.Run("does not stop", func(t *testing.T) {
		cfg := config(t, "stubborn", new(words))
		cfg.StopTimeout = 200 * time.Millisecond
		c, err := New(cfg)
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err = c.Run(ctx, func(context.Context, []*Node) error { cancel(); return nil })
		require.EqualError(t, err, "did not stop in 200ms and were killed: n1, n2, n3")
	})
	t.Run("a port is taken", func(t *testing.T) {
		cfg := config(t, "ok", new(words))
		l, err := net.Listen("tcp", loopback(cfg.RaftPort+1))
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close()) }()
		c, err := New(cfg)
		require.NoError(t, err)
		require.EqualError(t, c.Run(t.Context(), never), loopback(cfg.RaftPort+1)+", for node n2, is taken: stop what listens there, or give another --raft-port")
	})
	t.Run("a larger cluster is there", func(t *testing.T) {
		cfg := config(t, "ok", new(words))
		require.NoError(t, os.Mkdir(filepath.Join(cfg.Dir, "n4"), 0o755))
		c, err := New(cfg)
		require.NoError(t, err)
		require.ErrorContains(t, c.Run(t.Context(), never), "holds a cluster of more nodes")
	})
}

func TestValidate(t *testing.T) {
	ok := Config{Nodes: 3, Dir: "d", GRPCPort: 1000, HTTPPort: 2000, RaftPort: 3000, GossipPort: 4000}
	require.NoError(t, ok.Validate())
	for want, change := range map[string]func(*Config){
		"--nodes 0: must be 1 to 32":                               func(c *Config) { c.Nodes = 0 },
		"--data-dir: must not be empty":                            func(c *Config) { c.Dir = "" },
		"--http-port 65534: all ports must be 1 to 65535":          func(c *Config) { c.HTTPPort = 65534 },
		"--raft-port 1998: port 2000 is also one of --http-port":   func(c *Config) { c.RaftPort = 1998 },
		"--gossip-port 1002: port 1002 is also one of --grpc-port": func(c *Config) { c.GossipPort = 1002 },
	} {
		c := ok
		change(&c)
		require.EqualError(t, c.Validate(), want)
	}
}

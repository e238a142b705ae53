package harness

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// stopWithin bounds how long a node may take to stop after SIGTERM.
const stopWithin = 30 * time.Second

// Node is one node of a cluster: a server process, its addresses and its data directory. The process comes and goes.
type Node struct {
	*Client
	ID  string
	Dir string

	GRPCAddr, HTTPAddr, RaftAddr, GossipAddr string

	t       testing.TB
	cluster *Cluster
	joinAt  string // where others reach its gossip
	flags   map[string]string
	env     []string
	logDir  string
	starts  int
	proc    atomic.Pointer[Process] // of the last start; nil before the first
}

func newNode(tb testing.TB, c *Cluster, id string) *Node {
	tb.Helper()
	n := &Node{
		ID: id, Dir: filepath.Join(c.dir, id), t: tb, cluster: c, flags: maps.Clone(c.opts.Flags), logDir: c.logDir,
		env:      slices.Concat(S3Env(), c.opts.Env),
		GRPCAddr: FreeAddr(tb), HTTPAddr: FreeAddr(tb), RaftAddr: FreeAddr(tb), GossipAddr: FreeAddr(tb),
	}
	if n.flags == nil {
		n.flags = make(map[string]string)
	}
	n.joinAt = n.GossipAddr
	if c.opts.DataDir != nil {
		n.Dir = c.opts.DataDir(id)
	}
	if c.Network != nil {
		n.moveBehindRelay()
	}
	if c.Hosts != nil {
		n.moveToHost()
	}
	n.Client = Dial(tb, n.GRPCAddr)
	return n
}

// moveBehindRelay gives the node a host of its own, where relays listen instead of its listeners for Raft and gossip.
func (n *Node) moveBehindRelay() {
	n.t.Helper()
	host := fmt.Sprintf("127.0.0.%d", 9+n.cluster.added)
	at := func(addr string) string { return onHost(n.t, host, addr) }
	n.GRPCAddr, n.HTTPAddr, n.joinAt = at(n.GRPCAddr), at(n.HTTPAddr), at(n.GossipAddr)
	n.SetFlag("advertise-addr", host)
	n.cluster.Network.relay(n.t, n.ID, at(n.RaftAddr), n.RaftAddr, n.cluster.Network.wait)
	n.cluster.Network.relayGossip(n.t, n.ID, n.joinAt, n.GossipAddr)
}

// moveToHost gives the node a host of its own.
func (n *Node) moveToHost() {
	n.t.Helper()
	host := n.cluster.Hosts.add(n.ID)
	for _, addr := range []*string{&n.GRPCAddr, &n.HTTPAddr, &n.RaftAddr, &n.GossipAddr} {
		*addr = onHost(n.t, host, *addr)
	}
	n.joinAt = n.GossipAddr
	n.SetFlag("insecure", "true")
}

// onHost is an address with another host.
func onHost(tb testing.TB, host, addr string) string {
	tb.Helper()
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		tb.Fatal(err)
	}
	return net.JoinHostPort(host, port)
}

// host is where the node listens.
func (n *Node) host() string {
	host, _, _ := net.SplitHostPort(n.GRPCAddr) // it was joined
	return host
}

// SetFlag sets a flag, without dashes, for the next start. An empty value removes it.
func (n *Node) SetFlag(name, value string) {
	if value == "" {
		delete(n.flags, name)
		return
	}
	n.flags[name] = value
}

// Logs returns all that the node's processes wrote, from its first start on.
func (n *Node) Logs() string {
	var all strings.Builder
	for i := range n.starts {
		b, err := os.ReadFile(n.logPath(i + 1))
		if err != nil {
			n.t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

func (n *Node) logPath(start int) string {
	return filepath.Join(n.logDir, fmt.Sprintf("%s-%d.log", n.ID, start))
}

// Args is the command line of the node.
func (n *Node) Args() []string {
	flags := map[string]string{
		"node-id": n.ID, "data-dir": n.Dir,
		"grpc-addr": n.GRPCAddr, "http-addr": n.HTTPAddr, "raft-addr": n.RaftAddr, "gossip-addr": n.GossipAddr,
	}
	maps.Copy(flags, n.flags)
	args := []string{"server"}
	for _, name := range slices.Sorted(maps.Keys(flags)) {
		args = append(args, "--"+name+"="+flags[name])
	}
	return args
}

// Start starts the node's process. It does not wait until the node is ready.
func (n *Node) Start() {
	n.t.Helper()
	if n.Running() {
		n.t.Fatalf("node %s runs already", n.ID)
	}
	n.starts++
	path, args := Binary(n.t), n.Args()
	if n.cluster != nil && n.cluster.Hosts != nil {
		path, args = n.cluster.Hosts.within(n.ID, path, args)
	}
	n.proc.Store(Start(n.t, Command{Name: n.ID, Path: path, Args: args, Env: n.env, LogPath: n.logPath(n.starts)}))
	if n.cluster != nil && n.cluster.Network != nil {
		n.cluster.Network.started(n.ID, n.Process().PID())
	}
}

// Running reports whether the process runs.
func (n *Node) Running() bool {
	p := n.Process()
	return p != nil && p.Running()
}

// Process is the process of the last start, nil before the first. It may be called by any goroutine.
func (n *Node) Process() *Process { return n.proc.Load() }

// Kill ends the process as kill -9 does.
func (n *Node) Kill() {
	n.t.Helper()
	n.Process().Kill()
}

// Stop sends SIGTERM and waits for a clean end.
func (n *Node) Stop() {
	n.t.Helper()
	if err := n.Process().Terminate(stopWithin); err != nil {
		n.t.Fatalf("stop: %v", err)
	}
}

// Wipe removes the data directory of a stopped node.
func (n *Node) Wipe() {
	n.t.Helper()
	if n.Running() {
		n.t.Fatalf("node %s runs: stop it before its disk is wiped", n.ID)
	}
	if err := os.RemoveAll(n.Dir); err != nil {
		n.t.Fatal(err)
	}
}

// URL of a path of the node's HTTP listener.
func (n *Node) URL(path string) string { return "http://" + n.HTTPAddr + path }

// Readiness returns the status of /ready and the reason in its body.
func (n *Node) Readiness(ctx context.Context) (status int, reason string, err error) {
	status, body, err := get(ctx, n.URL("/ready"))
	if err != nil {
		return 0, "", err
	}
	var answer struct{ Status, Reason string }
	if err := json.Unmarshal(body, &answer); err != nil {
		return status, "", fmt.Errorf("/ready of %s says %q: %w", n.ID, body, err)
	}
	return status, answer.Reason, nil
}

// CheckLive returns nil when /live says 200.
func (n *Node) CheckLive(ctx context.Context) error {
	status, body, err := get(ctx, n.URL("/live"))
	if err == nil && status != http.StatusOK {
		err = fmt.Errorf("/live of %s says %d: %s", n.ID, status, body)
	}
	return err
}

// CheckReady returns nil when /ready says 200.
func (n *Node) CheckReady(ctx context.Context) error {
	status, reason, err := n.Readiness(ctx)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("node %s is not ready: %s", n.ID, reason)
	}
	return nil
}

// CheckNotReady returns nil when /ready says 503.
func (n *Node) CheckNotReady(ctx context.Context) error {
	status, _, err := n.Readiness(ctx)
	if err != nil {
		return err
	}
	if status != http.StatusServiceUnavailable {
		return fmt.Errorf("/ready of %s says %d", n.ID, status)
	}
	return nil
}

// ClusterStatus asks the node for the state of the cluster.
func (n *Node) ClusterStatus(ctx context.Context) (*streamhousev1.GetClusterStatusResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return n.GetClusterStatus(ctx, &streamhousev1.GetClusterStatusRequest{})
}

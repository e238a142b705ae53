package dev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// Config says which cluster to run.
type Config struct {
	// Binary is the program to run; its subcommand server is a node.
	Binary string
	// Nodes is the number of nodes.
	Nodes int
	// Dir has a directory and a log file for each node, and the default object store.
	Dir string
	// ObjectStore is a URL; empty means a directory below Dir.
	ObjectStore string
	// GRPCPort, HTTPPort, RaftPort and GossipPort are those of the first node; each next node has one more.
	GRPCPort, HTTPPort, RaftPort, GossipPort int
	// ServerArgs are more flags for each node.
	ServerArgs []string
	// ReadyTimeout is how long the nodes may take to be ready.
	ReadyTimeout time.Duration
	// StopTimeout is how long the nodes may take to stop; then they are killed.
	StopTimeout time.Duration
	// Say takes a line for people.
	Say func(format string, args ...any)
}

// MaxNodes keeps the ports of one kind apart from those of the next.
const MaxNodes = 32

// Validate returns an error that names the flag.
func (c *Config) Validate() error {
	if c.Nodes < 1 || c.Nodes > MaxNodes {
		return fmt.Errorf("--nodes %d: must be 1 to %d", c.Nodes, MaxNodes)
	}
	if c.Dir == "" {
		return errors.New("--data-dir: must not be empty")
	}
	taken := make(map[int]string)
	for _, p := range c.ports() {
		for i := range c.Nodes {
			port := p.first + i
			if port < 1 || port > 65535 {
				return fmt.Errorf("--%s %d: all ports must be 1 to 65535", p.flag, p.first)
			}
			if other, ok := taken[port]; ok {
				return fmt.Errorf("--%s %d: port %d is also one of --%s", p.flag, p.first, port, other)
			}
			taken[port] = p.flag
		}
	}
	return nil
}

type portFlag struct {
	flag  string
	first int
}

func (c *Config) ports() []portFlag {
	return []portFlag{{"grpc-port", c.GRPCPort}, {"http-port", c.HTTPPort}, {"raft-port", c.RaftPort}, {"gossip-port", c.GossipPort}}
}

// Node is one node of the cluster.
type Node struct {
	ID       string
	PID      int
	GRPCAddr string
	HTTPAddr string

	raftAddr, gossipAddr string
	dir, logPath         string
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func (c *Config) nodes() []*Node {
	nodes := make([]*Node, c.Nodes)
	for i := range nodes {
		id := "n" + strconv.Itoa(i+1)
		nodes[i] = &Node{
			ID: id, GRPCAddr: loopback(c.GRPCPort + i), HTTPAddr: loopback(c.HTTPPort + i),
			raftAddr: loopback(c.RaftPort + i), gossipAddr: loopback(c.GossipPort + i),
			dir: filepath.Join(c.Dir, id), logPath: filepath.Join(c.Dir, id+".log"),
		}
	}
	return nodes
}

// prepare makes the directory, and refuses one with another number of nodes, and ports that are taken.
func (c *Config) prepare(ctx context.Context, nodes []*Node) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	c.Dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("--data-dir: %w", err)
	}
	beyond := filepath.Join(dir, "n"+strconv.Itoa(c.Nodes+1))
	if _, err := os.Stat(beyond); err == nil {
		return fmt.Errorf("--nodes %d: %s holds a cluster of more nodes: give their number, or another --data-dir", c.Nodes, dir)
	}
	if c.ObjectStore == "" {
		c.ObjectStore = (&url.URL{Scheme: "file", Path: filepath.Join(dir, "objects")}).String()
	}
	for _, n := range nodes {
		for flag, addr := range map[string]string{"grpc-port": n.GRPCAddr, "http-port": n.HTTPAddr, "raft-port": n.raftAddr, "gossip-port": n.gossipAddr} {
			l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
			if err != nil {
				return fmt.Errorf("%s, for node %s, is taken: stop what listens there, or give another --%s", addr, n.ID, flag)
			}
			if err := l.Close(); err != nil {
				return fmt.Errorf("close %s: %w", addr, err)
			}
		}
	}
	return nil
}

// serverArgs returns the command line of a node.
func (c *Config) serverArgs(n *Node, all []*Node) []string {
	args := []string{
		"server",
		"--node-id", n.ID,
		"--data-dir", n.dir,
		"--grpc-addr", n.GRPCAddr,
		"--http-addr", n.HTTPAddr,
		"--raft-addr", n.raftAddr,
		"--gossip-addr", n.gossipAddr,
		"--object-store", c.ObjectStore,
		"--bootstrap-expect", strconv.Itoa(len(all)),
	}
	var others []string
	for _, o := range all {
		if o != n {
			others = append(others, o.gossipAddr)
		}
	}
	if len(others) > 0 {
		args = append(args, "--join", strings.Join(others, ","))
	}
	return append(args, c.ServerArgs...)
}

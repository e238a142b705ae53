package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/simulation/bucket"
	"github.com/streamhouse/streamhouse/simulation/disk"
	"github.com/streamhouse/streamhouse/simulation/wire"
)

// Config says what a cluster is made of.
type Config struct {
	// Dir takes the nodes' directories; in memory (/dev/shm) it is fastest.
	Dir string
	// Nodes is how many found the cluster.
	Nodes int
	Seed  uint64
	// Logs returns what takes a node's log. nil discards logs.
	Logs func(node string) io.Writer
	// Flags are settings of the nodes besides those that a simulation needs.
	Flags map[string]string
}

// Cluster is a running cluster. It belongs to the bubble that it was made in. Safe for concurrent use, but for crashes.
type Cluster struct {
	Net    *wire.Network
	Bucket *bucket.Bucket
	Nodes  []*Node

	cfg   Config
	mu    sync.Mutex
	lives []*life // guarded by mu; all of them
}

// Healthy are a network, a disk and an object store with nothing wrong with them.
var (
	HealthyLink   = wire.Link{Latency: 200 * time.Microsecond, Jitter: 300 * time.Microsecond}
	HealthyDisk   = disk.Mood{Sync: time.Millisecond}
	HealthyBucket = bucket.Mood{Latency: 20 * time.Millisecond}
)

// Start starts a cluster; it does not wait for it.
func Start(ctx context.Context, cfg Config) (*Cluster, error) {
	c := &Cluster{Net: wire.New(cfg.Seed, HealthyLink), Bucket: bucket.New(cfg.Seed, HealthyBucket), cfg: cfg}
	for i := range cfg.Nodes {
		c.add(i)
	}
	for _, n := range c.Nodes {
		if err := n.Start(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (c *Cluster) add(i int) *Node {
	n := &Node{ID: fmt.Sprintf("n%d", i+1), IP: fmt.Sprintf("127.0.0.%d", i+1), c: c}
	c.Nodes = append(c.Nodes, n)
	return n
}

// flags are a node's settings: small files and short times, so that uploads, checkpoints and expiries come within
// seconds.
func (c *Cluster) flags(n *Node, dir string) map[string]string {
	var seeds []string
	for _, other := range c.Nodes {
		seeds = append(seeds, other.at(gossipPort))
	}
	f := map[string]string{
		"node-id": n.ID, "data-dir": dir, "log-level": "info", "log-format": "text", "object-store": "s3://simulation/s?region=r",
		"grpc-addr": n.at(grpcPort), "http-addr": n.at(httpPort), "raft-addr": n.at(raftPort), "gossip-addr": n.at(gossipPort),
		"join": strings.Join(seeds, ","), "bootstrap-expect": fmt.Sprint(c.cfg.Nodes), "shards": "2",
		"upload-interval": "2s", "upload-bytes": "64KiB", "checkpoint-bytes": "64KiB", "log-retain-bytes": "32KiB",
		"disk-min-free": "0", "cache-bytes": "1MiB", "tail-bytes": "16KiB", "object-grace": "10s", "replace-after": "10m",
	}
	maps.Copy(f, c.cfg.Flags)
	return f
}

// Addrs are where clients reach the nodes.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.Addr())
	}
	return addrs
}

// Client returns a client on a host of its own, 1 to 99, that knows the nodes given, or all.
func (c *Cluster) Client(host int, log *slog.Logger, nodes ...*Node) (*client.Client, error) {
	addrs := c.Addrs()
	if len(nodes) > 0 {
		addrs = nil
		for _, n := range nodes {
			addrs = append(addrs, n.Addr())
		}
	}
	return client.New(client.Config{Addrs: addrs, Dial: c.Net.Host(ClientIP(host)).Dial, Logger: log, MetadataMaxAge: 5 * time.Second})
}

// ClientIP is the address of a client's host.
func ClientIP(host int) string { return fmt.Sprintf("127.0.1.%d", host) }

// WaitReady waits until all nodes that are up are ready.
func (c *Cluster) WaitReady(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := c.ready(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

func (c *Cluster) ready(ctx context.Context) error {
	var errs []error
	for _, n := range c.Nodes {
		if l := n.life(); l == nil {
			errs = append(errs, fmt.Errorf("%s is down", n.ID))
		} else if err := l.node.Ready(ctx); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", n.ID, err))
		}
	}
	return errors.Join(errs...)
}

// Close stops all nodes and waits for all lives to end.
func (c *Cluster) Close() error {
	var errs []error
	var wg sync.WaitGroup
	var mu sync.Mutex
	for _, n := range c.Nodes {
		wg.Go(func() {
			if err := n.Stop(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
		})
	}
	wg.Wait()
	c.mu.Lock()
	lives := c.lives
	c.mu.Unlock()
	for _, l := range lives {
		<-l.done
	}
	c.Bucket.Close()
	return errors.Join(errs...)
}

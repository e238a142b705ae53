package harness

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// Bucket is the bucket that clusters keep their objects in.
const Bucket = "streamhouse"

// Options describe a cluster.
type Options struct {
	// Nodes that found the cluster together; 0 is 3.
	Nodes int
	// Flags of every node, without dashes.
	Flags map[string]string
	// Env is added to the environment of every node.
	Env []string
	// Bootstrap is --bootstrap-expect of the first nodes; 0 is Nodes.
	Bootstrap int
	// Network puts one between the nodes, so that they can be cut off from each other.
	Network bool
	// Hosts gives each node a host of its own; not together with Network.
	Hosts bool
	// DataDir, where it is not nil, says where a node has its data.
	DataDir func(node string) string
}

// Cluster is a set of nodes, an S3 server, and a proxy between them.
type Cluster struct {
	Gateway *Gateway
	Proxy   *Proxy
	// Network is nil unless Options asked for it.
	Network *Network
	// Hosts is nil unless Options asked for it.
	Hosts *Hosts
	// Nodes in the order in which they were added; stopped ones too.
	Nodes []*Node

	t      testing.TB
	opts   Options
	dir    string
	logDir string
	store  string
	added  int // nodes so far
}

// NewCluster prepares a cluster; Start starts it.
func NewCluster(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	if opts.Nodes == 0 {
		opts.Nodes = 3
	}
	if opts.Bootstrap == 0 {
		opts.Bootstrap = opts.Nodes
	}
	c := &Cluster{t: tb, opts: opts, dir: tb.TempDir(), logDir: logDir(tb)}
	c.Gateway = StartGateway(tb)
	c.Gateway.CreateBucket(tb, Bucket)
	proxyAddr := FreeAddr(tb)
	if opts.Network {
		c.Network = newNetwork(tb)
	}
	if opts.Hosts {
		c.Hosts = newHosts(tb)
		proxyAddr = onHost(tb, c.Hosts.Gateway(), proxyAddr)
	}
	c.Proxy = startProxyAt(tb, proxyAddr, c.Gateway.Addr())
	c.store = StoreURL(c.Proxy.Addr(), Bucket, "test")
	for range opts.Nodes {
		c.Add()
	}
	for _, n := range c.Nodes {
		n.SetFlag("bootstrap-expect", strconv.Itoa(opts.Bootstrap))
		n.SetFlag("join", c.gossipAddrs(n))
	}
	return c
}

// StartCluster starts a cluster and waits until all is in sync.
func StartCluster(tb testing.TB, opts Options) *Cluster {
	tb.Helper()
	c := NewCluster(tb, opts)
	c.Start()
	c.WaitInSync(60 * time.Second)
	return c
}

// Add adds a node that joins the others. It is not started.
func (c *Cluster) Add() *Node {
	c.t.Helper()
	c.added++
	n := newNode(c.t, c, fmt.Sprintf("n%d", c.added))
	n.SetFlag("object-store", c.store)
	n.SetFlag("join", c.gossipAddrs(n))
	c.Nodes = append(c.Nodes, n)
	return n
}

// ObjectStore is the --object-store of the nodes.
func (c *Cluster) ObjectStore() string { return c.store }

func (c *Cluster) gossipAddrs(but *Node) string {
	var addrs []string
	for _, n := range c.Nodes {
		if n != but {
			addrs = append(addrs, n.joinAt)
		}
	}
	return strings.Join(addrs, ",")
}

// Start starts all nodes that do not run.
func (c *Cluster) Start() {
	c.t.Helper()
	for _, n := range c.Nodes {
		if !n.Running() {
			n.Start()
		}
	}
}

// KillAll ends all nodes at once, as a power cut does.
func (c *Cluster) KillAll() {
	c.t.Helper()
	for _, n := range c.Running() {
		if err := n.Process().Pause(); err != nil { // so that none sees another one's end
			c.t.Fatal(err)
		}
	}
	for _, n := range c.Running() {
		n.Kill()
	}
}

// Running returns the nodes whose process runs.
func (c *Cluster) Running() []*Node {
	var nodes []*Node
	for _, n := range c.Nodes {
		if n.Running() {
			nodes = append(nodes, n)
		}
	}
	return nodes
}

// Clients of all nodes, stopped ones too: they may come back.
func (c *Cluster) Clients() []*Client {
	clients := make([]*Client, 0, len(c.Nodes))
	for _, n := range c.Nodes {
		clients = append(clients, n.Client)
	}
	return clients
}

// Node returns the node of an id.
func (c *Cluster) Node(id string) *Node {
	c.t.Helper()
	for _, n := range c.Nodes {
		if n.ID == id {
			return n
		}
	}
	c.t.Fatalf("there is no node %q", id)
	return nil
}

// WaitReady waits until /ready of all running nodes says 200.
func (c *Cluster) WaitReady(within time.Duration) {
	c.t.Helper()
	Eventually(c.t, within, "all running nodes are ready", func(ctx context.Context) error {
		for _, n := range c.Running() {
			if err := n.CheckReady(ctx); err != nil {
				return err
			}
		}
		return nil
	})
}

// WaitInSync waits until all running nodes are ready and every shard has a
// leader and all its voters, of which there are three or as many as there are
// active nodes, each with all that was committed when it was looked at first.
func (c *Cluster) WaitInSync(within time.Duration) time.Duration {
	c.t.Helper()
	return c.waitInSync(within, func(*Node) error { return nil })
}

// WaitWhole is WaitInSync for all nodes: ended is called with each that does not run, and may start it.
func (c *Cluster) WaitWhole(within time.Duration, ended func(*Node)) time.Duration {
	c.t.Helper()
	return c.waitInSync(within, func(n *Node) error {
		ended(n)
		return fmt.Errorf("%s had ended", n.ID)
	})
}

// waitInSync waits; an error of ended says that it has to wait for the node.
func (c *Cluster) waitInSync(within time.Duration, ended func(*Node) error) time.Duration {
	c.t.Helper()
	var seen map[uint32]uint64
	return Eventually(c.t, within, "the cluster is in sync", func(ctx context.Context) error {
		for _, n := range c.Nodes {
			if n.Running() {
				continue
			}
			if err := ended(n); err != nil {
				return err
			}
		}
		running := c.Running()
		if len(running) == 0 {
			return errors.New("no node runs")
		}
		for _, n := range running {
			if err := n.CheckReady(ctx); err != nil {
				return err
			}
		}
		st, err := running[0].ClusterStatus(ctx)
		if err != nil {
			return err
		}
		if err := checkPlaced(st, len(running)); err != nil {
			return err
		}
		if seen == nil {
			seen = make(map[uint32]uint64)
			for _, s := range st.GetShards() {
				seen[s.GetShard()] = s.GetCommitIndex()
			}
		}
		return checkApplied(st, seen)
	})
}

// checkPlaced holds a status against what a healthy cluster of so many running nodes has.
func checkPlaced(st *streamhousev1.GetClusterStatusResponse, running int) error {
	alive, active := 0, 0
	for _, n := range st.GetNodes() {
		if n.GetAlive() {
			alive++
			if n.GetState() == streamhousev1.NodeState_NODE_STATE_ACTIVE {
				active++
			}
		}
	}
	if alive != running {
		return fmt.Errorf("%s sees %d nodes alive, %d run", st.GetNodeId(), alive, running)
	}
	if st.GetMetadataLeader() == "" || len(st.GetShards()) == 0 {
		return errors.New("no metadata leader, or no shards")
	}
	want := min(3, active)
	for _, s := range st.GetShards() {
		if s.GetLeader() == "" {
			return fmt.Errorf("shard %d has no leader", s.GetShard())
		}
		if len(s.GetReplicas()) != want {
			return fmt.Errorf("shard %d has %d replicas, not %d: %v", s.GetShard(), len(s.GetReplicas()), want, s.GetReplicas())
		}
		for _, r := range s.GetReplicas() {
			if r.GetRole() != "voter" {
				return fmt.Errorf("shard %d: replica %s is %q", s.GetShard(), r.GetReplicaId(), r.GetRole())
			}
		}
	}
	return nil
}

func checkApplied(st *streamhousev1.GetClusterStatusResponse, atLeast map[uint32]uint64) error {
	for _, s := range st.GetShards() {
		for _, r := range s.GetReplicas() {
			if r.GetAppliedIndex() < max(1, atLeast[s.GetShard()]) {
				return fmt.Errorf("shard %d: replica %s has applied %d of %d", s.GetShard(), r.GetReplicaId(), r.GetAppliedIndex(), atLeast[s.GetShard()])
			}
		}
	}
	return nil
}

// Status asks the first running node that answers.
func (c *Cluster) Status() *streamhousev1.GetClusterStatusResponse {
	c.t.Helper()
	var st *streamhousev1.GetClusterStatusResponse
	Eventually(c.t, time.Minute, "a node tells the cluster's status", func(ctx context.Context) (err error) {
		st, err = c.AskStatus(ctx)
		return err
	})
	return st
}

// AskStatus asks the running nodes until one answers.
func (c *Cluster) AskStatus(ctx context.Context) (*streamhousev1.GetClusterStatusResponse, error) {
	errs := []error{errors.New("no node answers")}
	for _, n := range c.Running() {
		st, err := n.ClusterStatus(ctx)
		if err == nil {
			return st, nil
		}
		errs = append(errs, err)
	}
	return nil, errors.Join(errs...)
}

// MetadataLeader waits for one and returns it.
func (c *Cluster) MetadataLeader() *Node {
	c.t.Helper()
	return c.leader("the metadata group", func(st *streamhousev1.GetClusterStatusResponse) string { return st.GetMetadataLeader() })
}

// ShardLeader waits for a leader of the shard and returns it.
func (c *Cluster) ShardLeader(shard uint32) *Node {
	c.t.Helper()
	return c.leader(fmt.Sprintf("shard %d", shard), func(st *streamhousev1.GetClusterStatusResponse) string {
		for _, s := range st.GetShards() {
			if s.GetShard() == shard {
				return s.GetLeader()
			}
		}
		return ""
	})
}

// leader waits for a leader that runs.
func (c *Cluster) leader(what string, of func(*streamhousev1.GetClusterStatusResponse) string) *Node {
	c.t.Helper()
	var leader *Node
	Eventually(c.t, time.Minute, what+" has a leader", func(ctx context.Context) error {
		st, err := c.AskStatus(ctx)
		if err != nil {
			return err
		}
		id := of(st)
		if id == "" {
			return errors.New("none is known")
		}
		if leader = c.Node(id); !leader.Running() {
			return fmt.Errorf("%s, which does not run", id)
		}
		return nil
	})
	return leader
}

// Others returns the nodes but this one.
func (c *Cluster) Others(but *Node) []*Node {
	return slices.DeleteFunc(slices.Clone(c.Nodes), func(n *Node) bool { return n == but })
}

// CreateTopic creates a topic and returns it; it retries as a user does while there is no leader.
func (c *Cluster) CreateTopic(name string, partitions int32, config map[string]string) *streamhousev1.Topic {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 30*time.Second)
	defer cancel()
	err := Retry(ctx, c.Clients(), func(ctx context.Context, cl *Client) error {
		_, err := cl.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: name, Partitions: partitions, Config: maps.Clone(config)})
		if Reason(err) == "TOPIC_EXISTS" {
			return nil // an earlier try
		}
		return err
	})
	if err != nil {
		c.t.Fatalf("create topic %s: %s", name, Describe(err))
	}
	return c.Topic(name)
}

// Topic describes a topic; it retries while there is no leader.
func (c *Cluster) Topic(name string) *streamhousev1.Topic {
	c.t.Helper()
	var topic *streamhousev1.Topic
	Eventually(c.t, time.Minute, "a node describes topic "+name, func(ctx context.Context) (err error) {
		topic, err = c.AskTopic(ctx, name)
		return err
	})
	return topic
}

// AskTopic asks the running nodes until one describes the topic with a leader for every partition.
func (c *Cluster) AskTopic(ctx context.Context, name string) (*streamhousev1.Topic, error) {
	errs := []error{errors.New("no node answers")}
	for _, n := range c.Running() {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		resp, err := n.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: name})
		cancel()
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, p := range resp.GetTopic().GetPartitions() {
			if p.GetLeader() == "" {
				return nil, fmt.Errorf("partition %d has no leader", p.GetPartition())
			}
		}
		return resp.GetTopic(), nil
	}
	return nil, errors.Join(errs...)
}

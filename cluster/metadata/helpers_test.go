package metadata

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/cluster/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	wait = 30 * time.Second
	tick = 10 * time.Millisecond

	testCluster = "01JTESTCLUSTER0000000000000"
)

// cluster is a metadata group of several nodes in one process, over loopback.
type cluster struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[string]*testNode // guarded by mu; running ones
}

type testNode struct {
	id        string
	dir       string
	addr      string
	transport *transport.Transport
	group     *Group
	cancel    context.CancelFunc
	done      chan struct{}
	fatal     atomic.Pointer[error]
	change    func(*Config)
}

func (n *testNode) replicaID() string { return n.id + "/01JTESTREPLICA0000000000000" }

func newCluster(t *testing.T, size int, change func(*Config)) (*cluster, []*testNode) {
	t.Helper()
	c := &cluster{t: t, nodes: make(map[string]*testNode)}
	dir := t.TempDir() // before the cleanup, so that it is removed after the nodes have stopped
	t.Cleanup(c.stopAll)
	var nodes []*testNode
	for i := range size {
		id := fmt.Sprintf("n%d", i+1)
		n := &testNode{id: id, dir: filepath.Join(dir, id), change: change}
		require.NoError(t, replica.Create(n.dir))
		c.start(n)
		nodes = append(nodes, n)
	}
	require.NoError(t, nodes[0].group.Replica().Bootstrap())
	require.Eventually(t, nodes[0].group.IsLeader, wait, tick)
	for _, n := range nodes[1:] {
		f := nodes[0].group.Replica().Raft().AddVoter(raft.ServerID(n.replicaID()), raft.ServerAddress(n.addr), 0, wait)
		require.NoError(t, f.Error())
	}
	return c, nodes
}

// RaftAddr makes the cluster the resolver of all its transports.
func (c *cluster) RaftAddr(nodeID string) (string, bool) {
	n, ok := c.node(nodeID)
	if !ok {
		return "", false
	}
	return n.addr, true
}

func (c *cluster) node(id string) (*testNode, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[id]
	return n, ok
}

// Client makes the cluster the peers of all its groups.
func (c *cluster) Client(nodeID string) (nodev1.NodeServiceClient, error) {
	if _, ok := c.node(nodeID); !ok {
		return nil, errors.New("unknown node")
	}
	return &fakeClient{cluster: c, nodeID: nodeID}, nil
}

func (c *cluster) start(n *testNode) {
	t := c.t
	t.Helper()
	addr := n.addr
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	tr, err := transport.Listen(t.Context(), transport.Config{
		Addr: addr, Resolver: c, Logger: slog.New(slog.DiscardHandler),
	})
	require.NoError(t, err)
	tr.SetClusterID(testCluster)
	n.transport, n.addr = tr, tr.Addr().String()
	cfg := Config{
		Replica: replica.Config{
			Dir: n.dir, Group: transport.Metadata, ID: n.replicaID(), Addr: n.addr,
			Store: replica.Bolt, Transport: tr, LogCacheBytes: 1 << 20,
			Timeouts: replica.Timeouts{Heartbeat: 300 * time.Millisecond, Election: 300 * time.Millisecond, Lease: 150 * time.Millisecond, Commit: 50 * time.Millisecond},
		},
		Peers: c,
		Fatal: func(err error) { n.fatal.CompareAndSwap(nil, &err) },
	}
	if n.change != nil {
		n.change(&cfg)
	}
	n.group, err = Open(cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel, n.done = cancel, make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { _ = tr.Run(ctx) })
	wg.Go(func() { _ = n.group.Run(ctx) })
	go func() { wg.Wait(); close(n.done) }()
	c.mu.Lock()
	c.nodes[n.id] = n
	c.mu.Unlock()
}

// stop takes a node away without a word to the others.
func (c *cluster) stop(n *testNode) {
	c.mu.Lock()
	_, runs := c.nodes[n.id]
	delete(c.nodes, n.id)
	c.mu.Unlock()
	if !runs {
		return
	}
	n.cancel()
	if err := n.group.Close(); err != nil {
		c.t.Errorf("close %s: %v", n.id, err)
	}
	if err := n.transport.Close(); err != nil {
		c.t.Errorf("close transport of %s: %v", n.id, err)
	}
	<-n.done
}

func (c *cluster) stopAll() {
	c.mu.Lock()
	var all []*testNode
	for _, n := range c.nodes {
		all = append(all, n)
	}
	c.mu.Unlock()
	for _, n := range all {
		c.stop(n)
	}
}

// fakeClient calls another node's group directly, as the RPC handlers do.
type fakeClient struct {
	nodev1.NodeServiceClient
	cluster *cluster
	nodeID  string
}

func (f *fakeClient) group() (*Group, error) {
	n, ok := f.cluster.node(f.nodeID)
	if !ok {
		return nil, status.Error(codes.Unavailable, "connection refused")
	}
	return n.group, nil
}

func (f *fakeClient) ProposeMetadata(ctx context.Context, req *nodev1.ProposeMetadataRequest, _ ...grpc.CallOption) (*nodev1.ProposeMetadataResponse, error) {
	g, err := f.group()
	if err != nil {
		return nil, err
	}
	index, result, err := g.ProposeLocal(ctx, req.GetCommand())
	if err != nil {
		return nil, toStatus(err)
	}
	return &nodev1.ProposeMetadataResponse{Index: index, Result: result}, nil
}

func (f *fakeClient) ReadMetadataIndex(ctx context.Context, _ *nodev1.ReadMetadataIndexRequest, _ ...grpc.CallOption) (*nodev1.ReadMetadataIndexResponse, error) {
	g, err := f.group()
	if err != nil {
		return nil, err
	}
	index, err := g.ReadIndexLocal(ctx)
	if err != nil {
		return nil, toStatus(err)
	}
	return &nodev1.ReadMetadataIndexResponse{Index: index}, nil
}

func toStatus(err error) error {
	if errors.Is(err, ErrBadCommand) {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	return status.Error(codes.Unavailable, err.Error())
}

func initCluster() *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
		ClusterId: testCluster, ClusterName: "test", Shards: 6, ObjectStore: "file:///x", TimeMs: 1,
	}}}
}

func registerNode(id string) *metav1.Command {
	return &metav1.Command{Command: &metav1.Command_RegisterNode{RegisterNode: &metav1.RegisterNode{
		NodeId: id, Incarnation: "01JINCARNATION0000000000000", MetadataReplicaId: id + "/01JTESTREPLICA0000000000000",
		RaftAddr: id + ":7000", GrpcAddr: id + ":50051", HttpAddr: id + ":8080", GossipAddr: id + ":7946",
		FeatureLevel: 1, TimeMs: 1,
	}}}
}

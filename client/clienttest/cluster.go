// Package clienttest is a cluster in memory for tests of programs that use package client: several
// gRPC servers over one state, with hooks that make them fail.
package clienttest

import (
	"context"
	"net"
	"slices"
	"strconv"
	"sync"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// Cluster is the state that all nodes share.
type Cluster struct {
	mu        sync.Mutex
	topics    map[string]*topic
	offsets   map[offsetKey]*streamhousev1.CommittedOffset
	groups    map[string]*group
	nodes     []*Node
	producers int64
	// partitions counts all that ever were: each has an id of its own.
	partitions uint64
	nodeState  map[string]streamhousev1.NodeState
	calls      []string
}

type topic struct {
	info       *streamhousev1.Topic
	partitions []*partition
}

type partition struct {
	start   int64
	records []*streamhousev1.ConsumedRecord
	// sessions are what is remembered of producers, by id.
	sessions map[int64]*session
}

func newPartition() *partition { return &partition{sessions: make(map[int64]*session)} }

// createdMs is when everything was created: the beginning of 2026.
const createdMs = 1767225600000

// New returns a cluster without topics.
func New() *Cluster {
	return &Cluster{
		topics: make(map[string]*topic), offsets: make(map[offsetKey]*streamhousev1.CommittedOffset), groups: make(map[string]*group),
		nodeState: map[string]streamhousev1.NodeState{
			"n1": streamhousev1.NodeState_NODE_STATE_ACTIVE,
			"n2": streamhousev1.NodeState_NODE_STATE_ACTIVE,
		},
	}
}

// Node is one gRPC server.
type Node struct {
	streamhousev1.UnimplementedStreamHouseServiceServer
	streamhousev1.UnimplementedClusterServiceServer
	c *Cluster
	// Before runs before each call and each write of a stream; an error is the answer.
	Before func(method string) error
	// Appended runs behind each write; an error is the answer, although the write has happened.
	Appended func() error
	// Answering runs when a heartbeat or a commit was taken or refused, before it is answered.
	Answering func(method string)

	addr   string
	server *grpc.Server
	served chan struct{} // closed when the server has ended
}

// Start listens on loopback until the test ends.
func (c *Cluster) Start(tb testing.TB) *Node {
	tb.Helper()
	n, err := c.start(tb.Context())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(n.Kill)
	return n
}

// Run starts a cluster of one node, for examples. It panics where it can't listen on loopback.
func Run() (n *Node, stop func()) {
	n, err := New().start(context.Background())
	if err != nil {
		panic(err)
	}
	return n, n.Kill
}

func (c *Cluster) start(ctx context.Context) (*Node, error) {
	n := &Node{c: c, served: make(chan struct{})}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	n.addr = l.Addr().String()
	n.server = grpc.NewServer(grpc.MaxRecvMsgSize(64 << 20))
	streamhousev1.RegisterStreamHouseServiceServer(n.server, n)
	streamhousev1.RegisterClusterServiceServer(n.server, n)
	go func() { // joined by Kill
		defer close(n.served)
		_ = n.server.Serve(l) // ends with Stop
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, n)
	return n, nil
}

// addressesLocked names the nodes n1, n2 and so on, in the order of their start.
func (c *Cluster) addressesLocked() []*streamhousev1.NodeAddress {
	var out []*streamhousev1.NodeAddress
	for i, n := range c.nodes {
		out = append(out, &streamhousev1.NodeAddress{NodeId: "n" + strconv.Itoa(i+1), GrpcAddr: n.addr})
	}
	return out
}

func (n *Node) idLocked() string { return "n" + strconv.Itoa(slices.Index(n.c.nodes, n)+1) }

// Lead makes a node, counted from 0 in the order of their start, known as the leader of a partition.
func (c *Cluster) Lead(name string, p, node int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.topics[name].info.Partitions[p].Leader = "n" + strconv.Itoa(node+1)
}

// Addr is where the node listens.
func (n *Node) Addr() string { return n.addr }

// Kill breaks all connections and stops listening.
func (n *Node) Kill() {
	n.server.Stop()
	<-n.served // before Serve has begun, Stop does not close the listener
}

// Calls returns the names of all calls so far.
func (c *Cluster) Calls() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.calls)
}

// Values returns the values of a partition.
func (c *Cluster) Values(name string, p int) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, r := range c.topics[name].partitions[p].records {
		out = append(out, string(r.GetValue()))
	}
	return out
}

// Trim deletes the records of a partition below an offset.
func (c *Cluster) Trim(name string, p int, offset int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	part := c.topics[name].partitions[p]
	part.records = part.records[offset-part.start:]
	part.start = offset
}

// Offset returns what a group has committed, -1 for nothing.
func (c *Cluster) Offset(group, name string, p int) int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	if o, ok := c.offsets[offsetKey{group, name, int32(p)}]; ok {
		return o.GetOffset()
	}
	return -1
}

type offsetKey struct {
	group, topic string
	partition    int32
}

// Error is an answer with a reason, as servers give it.
func Error(code codes.Code, reason streamhousev1.ErrorReason, message string, metadata map[string]string) error {
	st, err := status.New(code, message).WithDetails(&errdetails.ErrorInfo{
		Reason: reason.Name(), Domain: streamhousev1.ErrorDomain, Metadata: metadata,
	})
	if err != nil {
		return err
	}
	return st.Err()
}

// enter notes a call, runs the hook and locks the state.
func (n *Node) enter(method string) (unlock func(), err error) {
	n.c.mu.Lock()
	n.c.calls = append(n.c.calls, method)
	n.c.mu.Unlock()
	if n.Before != nil {
		if err := n.Before(method); err != nil {
			return nil, err
		}
	}
	n.c.mu.Lock()
	return n.c.mu.Unlock, nil
}

func (c *Cluster) topicLocked(name string) (*topic, error) {
	t, ok := c.topics[name]
	if !ok {
		return nil, Error(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND, "topic "+strconv.Quote(name)+" does not exist", nil)
	}
	return t, nil
}

// GetClusterStatus shows two nodes and a shard.
func (n *Node) GetClusterStatus(context.Context, *streamhousev1.GetClusterStatusRequest) (*streamhousev1.GetClusterStatusResponse, error) {
	unlock, err := n.enter("GetClusterStatus")
	if err != nil {
		return nil, err
	}
	defer unlock()
	resp := &streamhousev1.GetClusterStatusResponse{
		ClusterId: "01J0000000000000000000000C", ClusterName: "test", NodeId: "n1", MetadataLeader: "n1", ObjectStore: "file:///store",
		Shards: []*streamhousev1.ShardStatus{{
			Shard: 0, Leader: "n1", Term: 3, CommitIndex: 17, LogBytes: 2048, UploadBacklogBytes: 1024,
			Replicas: []*streamhousev1.ReplicaStatus{{ReplicaId: "n1/01J1", NodeId: "n1", Role: "voter", AppliedIndex: 17}},
		}},
	}
	for i, id := range []string{"n1", "n2"} {
		st, ok := n.c.nodeState[id]
		if !ok {
			continue
		}
		replicas := int32(1)
		if st == streamhousev1.NodeState_NODE_STATE_DRAINING {
			replicas = 0
		}
		if st == streamhousev1.NodeState_NODE_STATE_ACTIVE && id == "n2" {
			resp.Shards[0].Replicas = append(resp.Shards[0].Replicas, &streamhousev1.ReplicaStatus{ReplicaId: "n2/01J2", NodeId: "n2", Role: "non-voter", AppliedIndex: 12})
		}
		resp.Nodes = append(resp.Nodes, &streamhousev1.NodeStatus{
			NodeId: id, Zone: "", State: st, Alive: i == 0, MetadataRole: "voter", GrpcAddr: "127.0.0.1:5005" + strconv.Itoa(i+1),
			HttpAddr: "127.0.0.1:808" + strconv.Itoa(i), RaftAddr: "127.0.0.1:700" + strconv.Itoa(i), Replicas: replicas, Leaders: int32(1 - i),
		})
	}
	return resp, nil
}

func (n *Node) setState(method, id string, st streamhousev1.NodeState) error {
	unlock, err := n.enter(method)
	if err != nil {
		return err
	}
	defer unlock()
	if _, ok := n.c.nodeState[id]; !ok {
		return Error(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_NODE_NOT_FOUND, "node "+strconv.Quote(id)+" does not exist", nil)
	}
	n.c.nodeState[id] = st
	if st == streamhousev1.NodeState_NODE_STATE_DECOMMISSIONING {
		delete(n.c.nodeState, id)
	}
	return nil
}

// DrainNode drains at once.
func (n *Node) DrainNode(_ context.Context, r *streamhousev1.DrainNodeRequest) (*streamhousev1.DrainNodeResponse, error) {
	return &streamhousev1.DrainNodeResponse{}, n.setState("DrainNode", r.GetNodeId(), streamhousev1.NodeState_NODE_STATE_DRAINING)
}

// UndrainNode makes a node active.
func (n *Node) UndrainNode(_ context.Context, r *streamhousev1.UndrainNodeRequest) (*streamhousev1.UndrainNodeResponse, error) {
	return &streamhousev1.UndrainNodeResponse{}, n.setState("UndrainNode", r.GetNodeId(), streamhousev1.NodeState_NODE_STATE_ACTIVE)
}

// DecommissionNode removes a node at once.
func (n *Node) DecommissionNode(_ context.Context, r *streamhousev1.DecommissionNodeRequest) (*streamhousev1.DecommissionNodeResponse, error) {
	return &streamhousev1.DecommissionNodeResponse{}, n.setState("DecommissionNode", r.GetNodeId(), streamhousev1.NodeState_NODE_STATE_DECOMMISSIONING)
}

// TransferLeader knows shard 0.
func (n *Node) TransferLeader(_ context.Context, r *streamhousev1.TransferLeaderRequest) (*streamhousev1.TransferLeaderResponse, error) {
	unlock, err := n.enter("TransferLeader")
	if err != nil {
		return nil, err
	}
	defer unlock()
	if r.GetShard() != 0 {
		return nil, Error(codes.NotFound, streamhousev1.ErrorReason_ERROR_REASON_SHARD_NOT_FOUND, "there is no shard "+strconv.Itoa(int(r.GetShard())), nil)
	}
	return &streamhousev1.TransferLeaderResponse{}, nil
}

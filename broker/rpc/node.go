package rpc

import (
	"context"
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// nodeMessageOverhead is what a message between nodes may have beside a client's request.
const nodeMessageOverhead = 1 << 20

// MetadataGroup is the metadata group as other nodes use it. *metadata.Group is one. Safe for concurrent use.
type MetadataGroup interface {
	// ProposeLocal writes an encoded command on the leader and returns its index and its encoded result.
	ProposeLocal(ctx context.Context, cmd []byte) (index uint64, result []byte, err error)
	// ReadIndexLocal returns an index that covers all that was committed before the call, on the leader.
	ReadIndexLocal(ctx context.Context) (uint64, error)
}

// Joiner takes nodes into the cluster, on the metadata leader. Safe for concurrent use.
type Joiner interface {
	// Join registers a node. A refusal is a *fsm.Rejection.
	Join(ctx context.Context, req *nodev1.JoinRequest) (*nodev1.JoinResponse, error)
}

// Digests sums up logs of this node's replicas. *scrub.Scrubber is one. Safe for concurrent use.
type Digests interface {
	// DigestLog answers the RPC. It waits until it may read.
	DigestLog(ctx context.Context, req *nodev1.DigestLogRequest) (*nodev1.DigestLogResponse, error)
}

// NodeConfig sets up the service for other nodes.
type NodeConfig struct {
	// Shards are this node's replicas.
	Shards broker.LocalShards
	// Groups describes and changes this node's replicas of Raft groups.
	Groups   broker.Groups
	Metadata MetadataGroup
	Joiner   Joiner
	Digests  Digests
	// MaxInflightBytes bounds the bytes of other nodes' requests that are under way, apart from those of clients.
	// Default 64 MiB.
	MaxInflightBytes int64
	// MaxRequestBytes bounds a client's request; what nodes say to each other may be a little longer. Default 16 MiB.
	MaxRequestBytes int
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// TracerProvider, where it is not nil, gets the spans of calls that belong to a request.
	TracerProvider trace.TracerProvider
}

// NodeServer is NodeService on one node.
type NodeServer struct {
	options []grpc.ServerOption
	handler *nodeHandler
}

// NewNodeServer returns the service for other nodes. It starts nothing: make a grpc.Server with Options, and Register.
func NewNodeServer(cfg NodeConfig) (*NodeServer, error) {
	switch {
	case cfg.Shards == nil:
		return nil, errors.New("rpc: Shards must be set")
	case cfg.Groups == nil:
		return nil, errors.New("rpc: Groups must be set")
	case cfg.Metadata == nil:
		return nil, errors.New("rpc: Metadata must be set")
	case cfg.Joiner == nil:
		return nil, errors.New("rpc: Joiner must be set")
	case cfg.Digests == nil:
		return nil, errors.New("rpc: Digests must be set")
	}
	if cfg.MaxInflightBytes <= 0 {
		cfg.MaxInflightBytes = defaultMaxInflightBytes
	}
	if cfg.MaxRequestBytes <= 0 {
		cfg.MaxRequestBytes = defaultMaxRequestBytes
	}
	maxBytes := cfg.MaxRequestBytes + nodeMessageOverhead
	g := newGuard(cfg.MaxInflightBytes, maxBytes, named(cfg.Logger, "node_rpc"))
	g.limiter.export(cfg.Registerer, "nodes")
	s := &NodeServer{
		options: []grpc.ServerOption{
			grpc.MaxRecvMsgSize(maxBytes),
			grpc.ForceServerCodecV2(g.codec),
			grpc.InTapHandle(tracing.Take),
			grpc.ChainUnaryInterceptor(g.unary),
			grpc.ChainStreamInterceptor(g.stream),
		},
		handler: &nodeHandler{
			shards: cfg.Shards, groups: cfg.Groups, metadata: cfg.Metadata, joiner: cfg.Joiner, digests: cfg.Digests,
			pollsEnd: make(chan struct{}),
		},
	}
	if cfg.TracerProvider != nil {
		s.options = append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(tracing.ChildUnaryServer(cfg.TracerProvider))}, s.options...)
	}
	return s, nil
}

// Options returns the options that the grpc.Server must have, to come behind those of the caller.
func (s *NodeServer) Options() []grpc.ServerOption { return s.options }

// Register registers the service.
func (s *NodeServer) Register(r grpc.ServiceRegistrar) {
	nodev1.RegisterNodeServiceServer(r, s.handler)
}

// EndPolls ends the Fetch calls that wait, now and from now on. It is idempotent.
func (s *NodeServer) EndPolls() { s.handler.endOnce.Do(func() { close(s.handler.pollsEnd) }) }

package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/transport"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

var (
	// ErrUnknownNode says that nobody knows where the node listens.
	ErrUnknownNode = errors.New("address of the node is not known")
	// ErrClosed says that the pool is closed.
	ErrClosed = errors.New("peer pool is closed")
)

// maxMessageBytes bounds a message between nodes: a request of the largest size and what is around it.
const maxMessageBytes = 64 << 20

// Config sets up a Pool.
type Config struct {
	// Transport dials. Required.
	Transport *transport.Transport
	// Resolver finds nodes. Required.
	Resolver transport.Resolver
	// TracerProvider, where it is not nil, gets spans of calls that are made for a request.
	TracerProvider trace.TracerProvider
}

// Pool has one gRPC connection for each node and address. Safe for concurrent use.
type Pool struct {
	cfg Config

	mu     sync.Mutex
	conns  map[string]*grpc.ClientConn // by address
	closed bool
}

// New returns an empty pool.
func New(cfg Config) *Pool {
	return &Pool{cfg: cfg, conns: make(map[string]*grpc.ClientConn)}
}

// Client returns a client of a node by its id. It does not block; the connection is made by the first call.
func (p *Pool) Client(nodeID string) (nodev1.NodeServiceClient, error) {
	addr, ok := p.cfg.Resolver.RaftAddr(nodeID)
	if !ok {
		return nil, fmt.Errorf("node %s: %w", nodeID, ErrUnknownNode)
	}
	return p.ClientAt(addr)
}

// ClientAt returns a client of the node that listens for other nodes at addr.
func (p *Pool) ClientAt(addr string) (nodev1.NodeServiceClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
	}
	conn := p.conns[addr]
	if conn == nil {
		var err error
		if conn, err = p.dial(addr); err != nil {
			return nil, fmt.Errorf("node at %s: %w", addr, err)
		}
		p.conns[addr] = conn
	}
	return nodev1.NewNodeServiceClient(conn), nil
}

func (p *Pool) dial(addr string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return p.cfg.Transport.DialRPC(ctx, addr) }),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.5, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithInitialWindowSize(8<<20), grpc.WithInitialConnWindowSize(16<<20), grpc.WithReadBufferSize(128<<10), grpc.WithWriteBufferSize(128<<10),
		grpc.WithUnaryInterceptor(tracing.ChildUnaryClient(p.cfg.TracerProvider)),
	)
}

// Close closes the connections; calls under way fail. It is idempotent.
func (p *Pool) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	var err error
	for _, c := range p.conns {
		err = errors.Join(err, c.Close())
	}
	clear(p.conns)
	return err
}

package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// maxMessageBytes bounds what is received at once: a read returns one record however large it is.
const maxMessageBytes = 64 << 20

// A connection with calls on it that has been silent for keepaliveAfter is asked whether it lives, and ends where that is
// not answered within keepaliveTimeout. Nodes allow a question every 5 s.
const (
	keepaliveAfter   = 10 * time.Second
	keepaliveTimeout = 5 * time.Second
)

// conn is a connection to one node. It connects when it is used.
type conn struct {
	addr string
	grpc *grpc.ClientConn
	// connect is Config.Dial.
	connect func(ctx context.Context, addr string) (net.Conn, error)

	mu      sync.Mutex
	dialErr error // guarded by mu; of the last dial
}

func newConn(addr string, cfg Config) (*conn, error) {
	n := &conn{addr: addr, connect: cfg.Dial}
	creds := insecure.NewCredentials()
	if cfg.TLS != nil {
		creds = credentials.NewTLS(cfg.TLS)
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(n.dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: cfg.DialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: keepaliveAfter, Timeout: keepaliveTimeout}),
		grpc.WithUnaryInterceptor(n.unary),
		grpc.WithStreamInterceptor(n.stream),
	}
	if cfg.TracerProvider != nil {
		opts = append(opts, grpc.WithStatsHandler(
			tracing.ClientHandler(cfg.TracerProvider, cfg.Propagator, streamhousev1.StreamHouseService_ProduceStream_FullMethodName)))
	}
	cc, err := grpc.NewClient("passthrough:///"+addr, opts...)
	n.grpc = cc
	return n, err
}

// api returns the node's log service. Errors of its calls are *Error.
func (n *conn) api() streamhousev1.StreamHouseServiceClient {
	return streamhousev1.NewStreamHouseServiceClient(n.grpc)
}

func (n *conn) dial(ctx context.Context, addr string) (net.Conn, error) {
	c, err := n.connect(ctx, addr)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dialErr = err
	if op, ok := errors.AsType[*net.OpError](err); ok {
		n.dialErr = op.Err // without the address, which is told anyway
	}
	return c, err
}

func (n *conn) lastDialErr() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialErr
}

func (n *conn) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var at peer.Peer // filled in only where the call got as far as a connection
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Peer(&at))...)
	return fromStatus(err, n.addr, at.Addr != nil, n.lastDialErr())
}

func (n *conn) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, fromStatus(err, n.addr, false, n.lastDialErr())
	}
	return &clientStream{s, n}, nil
}

// clientStream turns the errors of a stream into *Error.
type clientStream struct {
	grpc.ClientStream

	conn *conn
}

// SendMsg implements grpc.ClientStream.
func (s *clientStream) SendMsg(m any) error {
	return fromStatus(s.ClientStream.SendMsg(m), s.conn.addr, true, nil)
}

// RecvMsg implements grpc.ClientStream.
func (s *clientStream) RecvMsg(m any) error {
	return fromStatus(s.ClientStream.RecvMsg(m), s.conn.addr, true, nil)
}

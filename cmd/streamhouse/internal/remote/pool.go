package remote

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/peer"
)

const (
	// DefaultAddr is where a node listens that was started without settings.
	DefaultAddr = "127.0.0.1:50051"

	maxMessageBytes = 64 << 20
	dialTimeout     = 3 * time.Second
	attemptTimeout  = 10 * time.Second
	firstBackoff    = 50 * time.Millisecond
	maxBackoff      = time.Second
	// While nothing works, people are told why after noticeAfter, and again every noticeEvery.
	noticeAfter = 3 * time.Second
	noticeEvery = 15 * time.Second
)

// Pool is a list of nodes of one cluster, of which one is used until it fails.
// Safe for concurrent use.
type Pool struct {
	nodes []*Node
	// Notice is told, now and then, why calls are tried again. Set it before the first call; it may be nil.
	Notice func(error)

	mu           sync.Mutex
	current      int
	failingSince time.Time
	noticed      time.Time
}

// Node is a connection to one address. It connects when it is used.
type Node struct {
	addr string
	conn *grpc.ClientConn

	mu      sync.Mutex
	dialErr error
}

// Open returns a pool of addresses, HOST:PORT separated by commas. It connects to none yet.
func Open(addrs string) (*Pool, error) {
	p := &Pool{}
	for addr := range strings.SplitSeq(addrs, ",") {
		if addr = strings.TrimSpace(addr); addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return nil, errors.Join(fmt.Errorf("--addr: %q must be HOST:PORT", addr), p.Close())
		}
		n, err := newNode(addr)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("--addr: %q: %w", addr, err), p.Close())
		}
		p.nodes = append(p.nodes, n)
	}
	if len(p.nodes) == 0 {
		return nil, errors.New("--addr: is empty: give HOST:PORT of one or more nodes")
	}
	return p, nil
}

func newNode(addr string) (*Node, error) {
	n := &Node{addr: addr}
	conn, err := grpc.NewClient("passthrough:///"+addr,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(n.dial),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: firstBackoff, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff},
			MinConnectTimeout: dialTimeout,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes), grpc.MaxCallSendMsgSize(maxMessageBytes)),
		grpc.WithUnaryInterceptor(n.unary),
		grpc.WithStreamInterceptor(n.stream),
	)
	n.conn = conn
	return n, err
}

// Close closes all connections; calls that go on fail.
func (p *Pool) Close() error {
	var errs []error
	for _, n := range p.nodes {
		errs = append(errs, n.conn.Close())
	}
	return errors.Join(errs...)
}

// Len returns the number of addresses.
func (p *Pool) Len() int { return len(p.nodes) }

// Node returns the node to use now.
func (p *Pool) Node() *Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.nodes[p.current]
}

// Failed moves on to the next node, unless somebody else has done so since n was current.
func (p *Pool) Failed(n *Node, err error) {
	p.mu.Lock()
	if p.nodes[p.current] == n {
		p.current = (p.current + 1) % len(p.nodes)
	}
	now := time.Now()
	if p.failingSince.IsZero() {
		p.failingSince = now
	}
	tell := p.Notice != nil && now.Sub(p.failingSince) > noticeAfter && now.Sub(p.noticed) > noticeEvery
	if tell {
		p.noticed = now
	}
	p.mu.Unlock()
	if tell {
		p.Notice(err)
	}
}

// Worked says that a call succeeded.
func (p *Pool) Worked() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.failingSince = time.Time{}
}

// Addr returns the node's address.
func (n *Node) Addr() string { return n.addr }

// Conn returns the connection; errors of its calls are *Error.
func (n *Node) Conn() grpc.ClientConnInterface { return n.conn }

func (n *Node) dial(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	n.mu.Lock()
	n.dialErr = cause(err)
	n.mu.Unlock()
	return conn, err
}

// cause takes off what repeats the address.
func cause(err error) error {
	if op, ok := errors.AsType[*net.OpError](err); ok {
		return op.Err
	}
	return err
}

func (n *Node) lastDialErr() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dialErr
}

func (n *Node) unary(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	var at peer.Peer // filled in only where the call got as far as a connection
	err := invoke(ctx, method, req, reply, cc, append(opts, grpc.Peer(&at))...)
	return fromStatus(err, n.addr, at.Addr != nil, n.lastDialErr())
}

func (n *Node) stream(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, open grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	s, err := open(ctx, desc, cc, method, opts...)
	if err != nil {
		return nil, fromStatus(err, n.addr, false, n.lastDialErr())
	}
	return &clientStream{s, n}, nil
}

// clientStream turns the errors of a stream into *Error.
type clientStream struct {
	grpc.ClientStream
	node *Node
}

func (s *clientStream) SendMsg(m any) error {
	return fromStatus(s.ClientStream.SendMsg(m), s.node.addr, true, nil)
}

func (s *clientStream) RecvMsg(m any) error {
	return fromStatus(s.ClientStream.RecvMsg(m), s.node.addr, true, nil)
}

// Backoff returns how long to wait before try number n, from 0, with jitter.
func Backoff(n int) time.Duration {
	d := min(firstBackoff<<min(n, 10), maxBackoff)
	return d/2 + rand.N(d/2+1)
}

// Wait sleeps; it returns early with the context's error.
func Wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Call runs fn on the current node of the pool. Where that failed and may be
// tried again it goes on with the next node, until ctx ends or no node at all
// can be reached. It returns the last error of fn, where there is a choice one
// that a node gave.
func Call[T any](ctx context.Context, p *Pool, s Safety, fn func(context.Context, grpc.ClientConnInterface) (T, error)) (T, error) {
	var answer error // the last that came from a node
	for try, unreachable := 0, 0; ; try++ {
		node := p.Node()
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout)
		out, err := fn(attempt, node.Conn())
		cancel()
		if err == nil {
			p.Worked()
			return out, nil
		}
		e, ok := errors.AsType[*Error](err)
		again := Retryable(err, s)
		unreachable++
		if !ok || !e.NotSent {
			unreachable = 0
		}
		if answer == nil || (ok && e.Reason != 0) {
			answer = err
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return out, ctx.Err()
		}
		if !again && ctx.Err() == nil {
			return out, err
		}
		if ctx.Err() != nil || unreachable >= p.Len() {
			return out, answer
		}
		p.Failed(node, err)
		delay := time.Duration(0)
		if (try+1)%p.Len() == 0 {
			delay = Backoff((try + 1) / p.Len())
		}
		if Wait(ctx, max(delay, e.RetryDelay)) != nil {
			return out, answer
		}
	}
}

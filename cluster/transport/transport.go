package transport

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
)

// Group names a Raft group.
type Group struct{ number int64 }

// Metadata is the metadata group.
var Metadata = Group{-1}

// Shard returns the group of a shard.
func Shard(n uint32) Group { return Group{int64(n)} }

// String returns "metadata" or "shard-N".
func (g Group) String() string {
	if g == Metadata {
		return "metadata"
	}
	return "shard-" + strconv.FormatInt(g.number, 10)
}

// Resolver finds where a node listens now. Safe for concurrent use.
type Resolver interface {
	// RaftAddr returns the node's Raft address, host:port; ok is false when it is not known.
	RaftAddr(nodeID string) (addr string, ok bool)
}

const (
	// prefaceTimeout bounds the exchange at the beginning of a connection.
	prefaceTimeout = 5 * time.Second
	// dialTimeout bounds the connecting of a node-to-node call.
	dialTimeout = 5 * time.Second
	// acceptPause is after a connection that could not be accepted, as a rule since the node is out of files.
	acceptPause = 50 * time.Millisecond
)

// Config sets up a Transport.
type Config struct {
	// Addr is where to listen, host:port.
	Addr string
	// Resolver finds other nodes. Required.
	Resolver Resolver
	// Listen and Dial make the connections, over TCP; nil is the operating system's network.
	Listen func(ctx context.Context, addr string) (net.Listener, error)
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	// Logger may be nil.
	Logger *slog.Logger
}

func (c *Config) setDefaults() {
	if c.Listen == nil {
		c.Listen = func(ctx context.Context, addr string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(ctx, "tcp", addr)
		}
	}
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
}

// Transport is a node's listener and dialer for other nodes. Safe for concurrent use.
type Transport struct {
	cfg Config
	log *slog.Logger
	lis net.Listener
	rpc *connListener

	mu        sync.Mutex
	clusterID string
	streams   map[Group]*stream
	open      map[net.Conn]struct{} // in the exchange of their preface
	closed    bool
	wg        sync.WaitGroup
}

// Listen opens the listener; Run accepts from it.
func Listen(ctx context.Context, cfg Config) (*Transport, error) {
	if cfg.Resolver == nil {
		return nil, errors.New("transport: Resolver is required")
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	cfg.setDefaults()
	lis, err := cfg.Listen(ctx, cfg.Addr)
	if err != nil {
		return nil, fmt.Errorf("listen for other nodes: %w", err)
	}
	return &Transport{
		cfg: cfg, log: log.With("logger", "transport"), lis: lis, rpc: newConnListener(lis.Addr(), nil),
		streams: make(map[Group]*stream), open: make(map[net.Conn]struct{}),
	}, nil
}

// Addr returns the address of the listener.
func (t *Transport) Addr() net.Addr { return t.lis.Addr() }

// SetClusterID sets the cluster that this node belongs to. Until then only calls of nodes without a cluster, and to
// such, are accepted.
func (t *Transport) SetClusterID(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.clusterID = id
}

// RPCListener returns the listener that takes the connections of node-to-node calls.
func (t *Transport) RPCListener() net.Listener { return t.rpc }

// Run accepts connections until ctx ends or Close is called.
func (t *Transport) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { _ = t.Close() })
	defer stop()
	defer t.wg.Wait()
	for {
		conn, err := t.lis.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			t.log.Warn("connection was not accepted", "error", err)
			_ = pause.For(ctx, acceptPause)
			continue
		}
		if !t.track(conn) {
			_ = conn.Close()
			continue
		}
		t.wg.Go(func() { t.welcome(conn) })
	}
}

// Close closes the listener and every connection. It is idempotent.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	streams := t.streams
	t.streams = map[Group]*stream{}
	for c := range t.open {
		_ = c.Close()
	}
	t.mu.Unlock()
	err := t.lis.Close()
	for _, s := range streams {
		_ = s.Close()
	}
	_ = t.rpc.Close()
	return err
}

func (t *Transport) track(c net.Conn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.open[c] = struct{}{}
	return true
}

func (t *Transport) untrack(c net.Conn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
}

// welcome reads the preface of a connection and hands it on, or refuses it.
func (t *Transport) welcome(conn net.Conn) {
	defer t.untrack(conn)
	_ = conn.SetDeadline(time.Now().Add(prefaceTimeout))
	p, err := readPreface(conn)
	answer := refusedVersion
	var to *connListener
	if err == nil {
		to, answer = t.receiver(p)
	} else if !errors.Is(err, ErrVersion) {
		_ = conn.Close()
		return
	}
	_, err = conn.Write([]byte{byte(answer)})
	_ = conn.SetDeadline(time.Time{})
	if err != nil || to == nil || !to.deliver(conn) {
		_ = conn.Close()
	}
}

// receiver finds who takes a connection.
func (t *Transport) receiver(p preface) (*connListener, refusal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if p.clusterID != t.clusterID && (p.kind != kindRPC || (p.clusterID != "" && t.clusterID != "")) {
		return nil, refusedCluster
	}
	if p.kind == kindRPC {
		return t.rpc, accepted
	}
	s := t.streams[p.group]
	if s == nil {
		return nil, refusedGroup
	}
	if s.replicaID != p.replicaID {
		return nil, refusedReplica
	}
	return s.in, accepted
}

// DialRPC opens a connection for node-to-node calls.
func (t *Transport) DialRPC(ctx context.Context, addr string) (net.Conn, error) {
	return t.dial(ctx, addr, preface{kind: kindRPC, group: Metadata})
}

// dial connects and exchanges prefaces. The address may be a name; it is resolved on every call.
func (t *Transport) dial(ctx context.Context, addr string, p preface) (net.Conn, error) {
	t.mu.Lock()
	p.clusterID = t.clusterID
	t.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := t.cfg.Dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	if err := greet(ctx, conn, p); err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("connect to %s at %s: %w", p.group, addr, err)
	}
	return conn, nil
}

func greet(ctx context.Context, conn net.Conn, p preface) error {
	b, err := p.encode()
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	if _, err := conn.Write(b); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := conn.Read(answer[:]); err != nil {
		return err
	}
	if err := refusal(answer[0]).err(); err != nil {
		return err
	}
	return conn.SetDeadline(time.Time{})
}

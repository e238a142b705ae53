package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
)

// Client is what producers, consumers and admins of one cluster share: connections, and what is known of topics and
// leaders. It is safe for concurrent use.
type Client struct {
	cfg     Config
	metrics *metrics
	// ctx ends with Close. It bounds calls that run in the background for the whole client.
	ctx    context.Context //nolint:containedctx // the life of the client, not of a call
	cancel context.CancelFunc
	wg     sync.WaitGroup // what background has started

	mu      sync.Mutex
	closed  bool
	conns   map[string]*conn       // by address
	order   []*conn                // all of conns, in order of their making
	current int                    // index in order of the node for calls that any node may answer
	addrs   map[string]string      // addresses by node id
	topics  map[string]*topicMeta  // what is known; values never change
	asking  map[string]*refreshing // topics that are being asked for
	leaders map[uint32]string      // node ids by shard
	failing time.Time              // since when no call has succeeded; zero where the last one has
	noticed time.Time              // when that was logged last
}

// New returns a client of the cluster that the nodes of cfg.Addrs belong to. It connects when it is used: a cluster that
// can't be reached shows in the first call. The error names a bad field of cfg. Close frees what the client holds.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("client config: %w", err)
	}
	cfg = cfg.withDefaults()
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, fmt.Errorf("client metrics: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Client{
		cfg: cfg, metrics: m, ctx: ctx, cancel: cancel, conns: make(map[string]*conn), addrs: make(map[string]string),
		topics: make(map[string]*topicMeta), leaders: make(map[uint32]string), asking: make(map[string]*refreshing),
	}
	for _, addr := range cfg.Addrs {
		if _, err := c.connLocked(addr); err != nil {
			return nil, errors.Join(fmt.Errorf("client config: Addrs: %q: %w", addr, err), c.Close())
		}
	}
	return c, nil
}

// Close closes all connections. Calls that are under way fail; producers and consumers should be closed before. Closing
// twice does nothing more.
func (c *Client) Close() error {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil
	}
	c.closed = true
	conns := c.order
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	c.metrics.unregister()
	var errs []error
	for _, n := range conns {
		errs = append(errs, n.grpc.Close())
	}
	return errors.Join(errs...)
}

// connLocked returns the connection to an address, which it makes where there is none. c.mu is held, or c is not shared.
func (c *Client) connLocked(addr string) (*conn, error) {
	if c.closed {
		return nil, ErrClosed
	}
	if n, ok := c.conns[addr]; ok {
		return n, nil
	}
	n, err := newConn(addr, c.cfg)
	if err != nil {
		return nil, err
	}
	c.conns[addr] = n
	c.order = append(c.order, n)
	return n, nil
}

// backgroundLocked runs fn in a goroutine that Close waits for; fn ends with c.ctx. c.mu is held.
func (c *Client) backgroundLocked(fn func()) error {
	if c.closed {
		return ErrClosed
	}
	c.wg.Go(fn)
	return nil
}

// anyNode returns the node to use for calls that every node answers.
func (c *Client) anyNode() (*conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	return c.order[c.current], nil
}

// nodes returns how many addresses are known.
func (c *Client) nodes() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.order)
}

const (
	// While nothing works, the log says why after noticeAfter, and again every noticeEvery.
	noticeAfter = 3 * time.Second
	noticeEvery = 15 * time.Second
)

// failed moves on to the next node, unless somebody else has done so since n was current.
func (c *Client) failed(n *conn, err error) {
	c.metrics.retries.Inc()
	c.mu.Lock()
	c.leaveLocked(n)
	now := time.Now()
	if c.failing.IsZero() {
		c.failing = now
	}
	tell := now.Sub(c.failing) > noticeAfter && now.Sub(c.noticed) > noticeEvery
	if tell {
		c.noticed = now
	}
	c.mu.Unlock()
	if tell {
		c.cfg.Logger.Warn("still trying", "node", n.addr, "err", err)
	}
}

// leaveLocked goes on with the next node where n is the current one. c.mu is held.
func (c *Client) leaveLocked(n *conn) {
	if c.order[c.current] == n {
		c.current = (c.current + 1) % len(c.order)
	}
}

// leave goes on with the next node where n is the current one.
func (c *Client) leave(n *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaveLocked(n)
}

// worked says that a call succeeded.
func (c *Client) worked() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing = time.Time{}
}

const (
	firstBackoff = 50 * time.Millisecond
	maxBackoff   = time.Second
	// One attempt takes at most maxAttempt, and at most half of the time that is left, so that a node which is silent
	// leaves time to ask another.
	maxAttempt = 10 * time.Second
	minAttempt = 500 * time.Millisecond
)

// attemptTimeout bounds the next attempt of a call that ends in left. One that must not be repeated gets all of it.
func attemptTimeout(left time.Duration, s safety) time.Duration {
	if s == once {
		return left
	}
	return min(maxAttempt, max(left/2, minAttempt))
}

// backoffAfter returns how long to wait before try number n, from 0, with jitter.
func backoffAfter(n int) time.Duration {
	d := min(firstBackoff<<min(n, 10), maxBackoff)
	return d/2 + rand.N(d/2+1)
}

// call runs fn on one node, and where that failed and may be tried again on the next, until ctx ends or no node at all
// can be reached. It returns the last error of fn, where there is a choice one that a node gave.
func call[T any](ctx context.Context, c *Client, s safety, fn func(context.Context, *conn) (T, error)) (T, error) {
	deadline, ok := ctx.Deadline()
	if !ok {
		var cancel context.CancelFunc
		deadline = time.Now().Add(c.cfg.RequestTimeout)
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	var none T
	var answer error // the last that came from a node
	for try, unreachable := 0, 0; ; try++ {
		node, err := c.anyNode()
		if err != nil {
			return none, err
		}
		attempt, cancel := context.WithTimeout(ctx, attemptTimeout(time.Until(deadline), s))
		out, err := fn(attempt, node)
		cancel()
		if err == nil {
			c.worked()
			return out, nil
		}
		e, ok := errors.AsType[*Error](err)
		unreachable++
		if !ok || !e.NotSent {
			unreachable = 0
		}
		if answer == nil || (ok && e.Reason != "") {
			answer = err
		}
		if errors.Is(ctx.Err(), context.Canceled) {
			return none, ctx.Err()
		}
		if !retryable(err, s) && ctx.Err() == nil {
			return none, err
		}
		c.failed(node, err) // also where the time is over: the next call begins with another node
		nodes := c.nodes()
		if ctx.Err() != nil || unreachable >= nodes {
			return none, answer
		}
		delay := time.Duration(0)
		if (try+1)%nodes == 0 {
			delay = backoffAfter((try + 1) / nodes)
		}
		if pause.For(ctx, max(delay, e.delay())) != nil {
			return none, answer
		}
	}
}

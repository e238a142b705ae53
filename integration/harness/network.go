package harness

import (
	"context"
	"errors"
	"maps"
	"net"
	"sync"
	"testing"
	"time"
)

// Network stands between the nodes of a cluster: before each node's listeners for gossip and for Raft, which takes all else
// that nodes say to each other, there are relays. Clients go by it, so that a node can be cut off from its peers and still be
// spoken to. Its methods are safe for concurrent use.
type Network struct {
	mu      sync.Mutex
	pids    map[int]string           // guarded by mu; ids of nodes by process
	cut     map[link]bool            // guarded by mu
	slow    map[string]time.Duration // guarded by mu; delays by the node that is dialled
	changed chan struct{}            // guarded by mu; closed and replaced with every change of cut
	conns   map[net.Conn]bool        // guarded by mu

	cutGossip map[link]bool     // guarded by mu
	senders   map[string]string // guarded by mu; ids of nodes by the address that they send gossip from

	wg sync.WaitGroup
}

// link is the pair of two nodes, in order.
type link [2]string

func between(a, b string) link {
	if a > b {
		a, b = b, a
	}
	return link{a, b}
}

func newNetwork(tb testing.TB) *Network {
	tb.Helper()
	w := &Network{
		pids: make(map[int]string), cut: make(map[link]bool), slow: make(map[string]time.Duration), changed: make(chan struct{}),
		conns: make(map[net.Conn]bool), cutGossip: make(map[link]bool), senders: make(map[string]string),
	}
	tb.Cleanup(func() {
		w.mu.Lock()
		for c := range w.conns {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.Heal()
		w.wg.Wait()
	})
	return w
}

// started notes which process a node is.
func (w *Network) started(node string, pid int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pids[pid] = node
}

// Isolate cuts a node off from these others, but for gossip: no byte passes any more, in either direction, and no connection ends. What
// was on its way arrives after Heal, as with a cable that was pulled.
func (w *Network) Isolate(n *Node, from ...*Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range from {
		w.cut[between(n.ID, other.ID)] = true
	}
	w.changedLocked()
}

// Rejoin ends what Isolate has done.
func (w *Network) Rejoin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cut)
	w.changedLocked()
}

// Heal lets all nodes speak to each other again, in all ways.
func (w *Network) Heal() {
	w.Rejoin()
	w.HealGossip()
}

// Slow delays all that is sent to a node, and what it answers: every read of up to 64 KiB by so much. 0 ends it. Rejoin and
// Heal do not.
func (w *Network) Slow(n *Node, by time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.slow[n.ID] = by
}

func (w *Network) delay(node string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.slow[node]
}

func (w *Network) changedLocked() {
	close(w.changed)
	w.changed = make(chan struct{})
}

// relay passes on what is sent to a node, each time once pass returns nil for the link. An error of pass ends the connection.
func (w *Network) relay(tb testing.TB, node, listen, backend string, pass func(context.Context, link) error) {
	tb.Helper()
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", listen)
	if err != nil {
		tb.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	tb.Cleanup(func() {
		cancel()
		_ = l.Close()
	})
	w.wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			w.wg.Go(func() { w.serve(ctx, node, from, backend, pass) })
		}
	})
}

// serve passes on one connection until it ends.
func (w *Network) serve(ctx context.Context, node string, from net.Conn, backend string, pass func(context.Context, link) error) {
	defer w.forget(from)
	w.mu.Lock()
	w.conns[from] = true
	pids := maps.Clone(w.pids)
	w.mu.Unlock()
	dialer, err := ownerOf(from.RemoteAddr().String(), from.LocalAddr().String(), pids)
	if err != nil {
		return // it has died meanwhile
	}
	to, err := new(net.Dialer).DialContext(ctx, "tcp", backend)
	if err != nil {
		return
	}
	defer w.forget(to)
	w.mu.Lock()
	w.conns[to] = true
	w.mu.Unlock()
	may := func() error {
		if d := w.delay(node); d > 0 {
			wait(ctx, nil, d)
		}
		return pass(ctx, between(dialer, node))
	}
	var both sync.WaitGroup
	both.Go(func() { copyWhile(may, to, from) })
	both.Go(func() { copyWhile(may, from, to) })
	both.Wait()
}

// copyWhile copies what comes from src to dst, each time once may returns nil. Then it ends both.
func copyWhile(may func() error, dst, src net.Conn) {
	defer func() {
		_ = dst.Close()
		_ = src.Close()
	}()
	buf := make([]byte, 64<<10)
	for {
		n, err := src.Read(buf)
		if may() != nil {
			return
		}
		if n > 0 {
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// wait returns when the link is not cut.
func (w *Network) wait(ctx context.Context, l link) error {
	for {
		w.mu.Lock()
		cut, changed := w.cut[l], w.changed
		w.mu.Unlock()
		if !cut {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *Network) forget(c net.Conn) {
	_ = c.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
}

var errNoOwner = errors.New("no process of the cluster has this connection")

package harness

import (
	"context"
	"errors"
	"net"
	"testing"
)

// CutGossip lets no gossip pass between a node and these others, until Heal or HealGossip. What is sent is lost.
func (w *Network) CutGossip(n *Node, from ...*Node) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, other := range from {
		w.cutGossip[between(n.ID, other.ID)] = true
	}
}

// HealGossip ends what CutGossip has done.
func (w *Network) HealGossip() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.cutGossip)
}

// relayGossip passes on what is sent to a node's gossip, by UDP and TCP.
func (w *Network) relayGossip(tb testing.TB, node, listen, backend string) {
	tb.Helper()
	var lc net.ListenConfig
	packets, err := lc.ListenPacket(tb.Context(), "udp", listen)
	if err != nil {
		tb.Fatal(err)
	}
	to, err := net.ResolveUDPAddr("udp", backend)
	if err != nil {
		tb.Fatal(err)
	}
	w.mu.Lock()
	w.senders[to.String()] = node
	w.mu.Unlock()
	tb.Cleanup(func() { _ = packets.Close() })
	w.wg.Go(func() { w.passPackets(packets, node, to) })
	w.relay(tb, node, listen, backend, func(ctx context.Context, l link) error {
		if w.gossipIsCut(l) {
			return errCut
		}
		return ctx.Err()
	})
}

// passPackets passes on packets, whose senders are known by their addresses, until the connection is closed.
func (w *Network) passPackets(packets net.PacketConn, node string, to net.Addr) {
	buf := make([]byte, 64<<10)
	for {
		n, from, err := packets.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			continue // a node that is down
		}
		w.mu.Lock()
		sender := w.senders[from.String()]
		w.mu.Unlock()
		if !w.gossipIsCut(between(sender, node)) {
			_, _ = packets.WriteTo(buf[:n], to)
		}
	}
}

func (w *Network) gossipIsCut(l link) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cutGossip[l]
}

var errCut = errors.New("the link is cut")

package replica

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/cluster/transport"
)

// wires carry the connections from each member of a group to each other one, so that they can be cut.
type wires struct {
	t     *testing.T
	group *group
	wg    sync.WaitGroup

	mu    sync.Mutex // guards what follows
	wires map[[2]string]net.Listener
	conns map[net.Conn][2]string
	cut   map[string]bool // by node
	mute  map[string]bool // by node
	ended bool
}

// newWires returns wires that end with the test.
func newWires(t *testing.T, g *group) *wires {
	t.Helper()
	w := &wires{t: t, group: g, wires: make(map[[2]string]net.Listener), conns: make(map[net.Conn][2]string), cut: make(map[string]bool), mute: make(map[string]bool)}
	t.Cleanup(func() {
		w.mu.Lock()
		w.ended = true
		for _, l := range w.wires {
			_ = l.Close()
		}
		for c := range w.conns {
			_ = c.Close()
		}
		w.mu.Unlock()
		w.wg.Wait()
	})
	return w
}

// isolate cuts a member off from all others.
func (w *wires) isolate(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut[m.node()] = true
	w.closeLocked(m)
}

// silence keeps a member's connections, and swallows what goes through them: so is a process that was stopped.
func (w *wires) silence(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.mute[m.node()] = true
}

func (w *wires) closeLocked(m *member) {
	for c, ends := range w.conns {
		if ends[0] == m.node() || ends[1] == m.node() {
			_ = c.Close()
		}
	}
}

// heal ends isolate and silence.
func (w *wires) heal(m *member) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.cut, m.node())
	if w.mute[m.node()] {
		delete(w.mute, m.node())
		w.closeLocked(m) // something is missing in what it says
	}
}

// wire writes what it is given to one end, as long as no end is silent.
type wire struct {
	net.Conn
	wires *wires
	ends  [2]string
}

func (c wire) Write(p []byte) (int, error) {
	c.wires.mu.Lock()
	silent := c.wires.mute[c.ends[0]] || c.wires.mute[c.ends[1]]
	c.wires.mu.Unlock()
	if silent {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// end is where one member sees the others.
type end struct {
	wires *wires
	node  string
}

func (m *member) resolver() transport.Resolver {
	if m.group.wires == nil {
		return m.group
	}
	return end{m.group.wires, m.node()}
}

// RaftAddr implements transport.Resolver by this end of a wire.
func (e end) RaftAddr(nodeID string) (string, bool) {
	w, ends := e.wires, [2]string{e.node, nodeID}
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.wires[ends]
	if l == nil && !w.ended {
		var err error
		l, err = net.Listen("tcp", "127.0.0.1:0")
		require.NoError(w.t, err)
		w.wires[ends] = l
		w.wg.Go(func() { w.serve(l, ends) })
	}
	if l == nil {
		return "", false
	}
	return l.Addr().String(), true
}

func (w *wires) serve(l net.Listener, ends [2]string) {
	for {
		from, err := l.Accept()
		if err != nil {
			return
		}
		addr, _ := w.group.RaftAddr(ends[1])
		to, err := net.Dial("tcp", addr)
		if err != nil {
			_ = from.Close()
			continue
		}
		w.connect(from, to, ends)
	}
}

// connect carries bytes both ways until one side closes or the wire is cut.
func (w *wires) connect(from, to net.Conn, ends [2]string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended || w.cut[ends[0]] || w.cut[ends[1]] {
		_, _ = from.Close(), to.Close()
		return
	}
	w.conns[from], w.conns[to] = ends, ends
	for _, c := range [][2]net.Conn{{from, to}, {to, from}} {
		w.wg.Go(func() {
			_, _ = io.Copy(wire{c[0], w, ends}, c[1])
			_, _ = from.Close(), to.Close()
			w.mu.Lock()
			defer w.mu.Unlock()
			delete(w.conns, c[1])
		})
	}
}

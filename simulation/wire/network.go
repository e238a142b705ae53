package wire

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Link is how one host reaches another.
type Link struct {
	// Cut keeps everything off.
	Cut bool
	// Latency of what is sent, and up to Jitter more. Connections and datagrams overtake each other by their jitter.
	Latency, Jitter time.Duration
	// Loss and Repeat are the shares of datagrams, 0 to 1, that are lost and that come twice.
	Loss, Repeat float64
}

// Network connects hosts by their IP addresses. Safe for concurrent use.
type Network struct {
	mu        sync.Mutex
	rand      *rand.Rand         // guarded by mu
	normal    Link               // guarded by mu
	links     map[[2]string]Link // guarded by mu; from and to
	down      map[string]bool    // guarded by mu; hosts without power
	listeners map[string]*listener
	packets   map[string]*packets
	conns     map[*conn]struct{} // guarded by mu; both ends
	ports     int
}

// New returns a network whose links are all alike at first.
func New(seed uint64, normal Link) *Network {
	return &Network{
		rand: rand.New(rand.NewPCG(seed, 1)), normal: normal, links: make(map[[2]string]Link), down: make(map[string]bool),
		listeners: make(map[string]*listener), packets: make(map[string]*packets), conns: make(map[*conn]struct{}), ports: 40000,
	}
}

// Set changes the link from one host to another, in this direction only. What a cut has held back goes on.
func (n *Network) Set(from, to string, l Link) {
	n.mu.Lock()
	n.links[[2]string{from, to}] = l
	n.mu.Unlock()
	n.wakeAll()
}

// Heal makes all links alike again.
func (n *Network) Heal() {
	n.mu.Lock()
	clear(n.links)
	n.mu.Unlock()
	n.wakeAll()
}

func (n *Network) wakeAll() {
	n.mu.Lock()
	conns := make([]*conn, 0, len(n.conns))
	for c := range n.conns {
		conns = append(conns, c)
	}
	n.mu.Unlock()
	for _, c := range conns {
		c.in.wake()
	}
}

// link returns how from reaches to now, and a delay by it.
func (n *Network) link(from, to string) (Link, time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkLocked(from, to)
}

func (n *Network) linkLocked(from, to string) (Link, time.Duration) {
	l, ok := n.links[[2]string{from, to}]
	if !ok {
		l = n.normal
	}
	if n.down[from] || n.down[to] {
		l.Cut = true
	}
	d := l.Latency
	if l.Jitter > 0 {
		d += time.Duration(n.rand.Int64N(int64(l.Jitter)))
	}
	return l, d
}

// PowerOff takes a host off the network without a word: its listeners are gone, and connections hang on the other side
// until the host is back, which knows nothing of them.
func (n *Network) PowerOff(host string) {
	n.mu.Lock()
	n.down[host] = true
	var own []*conn
	for c := range n.conns {
		if c.host == host {
			own = append(own, c)
		}
	}
	for addr, l := range n.listeners {
		if l.host == host {
			l.closeLocked()
			delete(n.listeners, addr)
		}
	}
	for addr, p := range n.packets {
		if p.host == host {
			delete(n.packets, addr)
		}
	}
	n.mu.Unlock()
	for _, c := range own {
		c.kill(syscall.ENETDOWN)
	}
}

// Reset ends the other sides of a host's connections, as a host does whose kernel outlives the process, or one that is
// back and gets a segment that it does not know.
func (n *Network) Reset(host string) {
	n.mu.Lock()
	var others []*conn
	for c := range n.conns {
		if c.peer == host {
			others = append(others, c)
		}
	}
	n.mu.Unlock()
	for _, c := range others {
		c.kill(syscall.ECONNRESET)
	}
}

// PowerOn brings a host back.
func (n *Network) PowerOn(host string) {
	n.mu.Lock()
	delete(n.down, host)
	n.mu.Unlock()
	n.Reset(host)
}

// Host returns the network as a host sees it.
func (n *Network) Host(ip string) *Host { return &Host{n: n, ip: ip} }

// Host listens and dials from one address. Once its power is off it stays off the network for good: a host that is back
// is another Host.
type Host struct {
	n  *Network
	ip string

	mu   sync.Mutex
	dead bool // guarded by mu
}

// Kill takes this life of the host off the network, see PowerOff.
func (h *Host) Kill() {
	h.mu.Lock()
	h.dead = true
	h.mu.Unlock()
	h.n.PowerOff(h.ip)
}

// IP is the address.
func (h *Host) IP() string { return h.ip }

func (h *Host) alive() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return syscall.ENETDOWN
	}
	return nil
}

// Listen takes an address of this host.
func (h *Host) Listen(_ context.Context, addr string) (net.Listener, error) {
	if err := h.alive(); err != nil {
		return nil, opErr("listen", addr, err)
	}
	h.n.mu.Lock()
	defer h.n.mu.Unlock()
	if h.n.listeners[addr] != nil {
		return nil, opErr("listen", addr, syscall.EADDRINUSE)
	}
	l := &listener{n: h.n, host: h.ip, addr: tcpAddr(addr), queue: make(chan net.Conn, 128), closed: make(chan struct{})}
	h.n.listeners[addr] = l
	return l, nil
}

// Dial connects to an address. It takes a round trip; nobody there refuses, and a cut lets it wait until ctx ends.
func (h *Host) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := h.alive(); err != nil {
		return nil, opErr("dial", addr, err)
	}
	to, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, opErr("dial", addr, err)
	}
	for {
		out, there := h.n.link(h.ip, to)
		back, andBack := h.n.link(to, h.ip)
		if out.Cut || back.Cut {
			there, andBack = 200*time.Millisecond, 0 // until the next try of the handshake
		}
		timer := time.NewTimer(there + andBack)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, opErr("dial", addr, os.ErrDeadlineExceeded)
		case <-timer.C:
		}
		if !out.Cut && !back.Cut {
			break
		}
	}
	if err := h.alive(); err != nil {
		return nil, opErr("dial", addr, err)
	}
	return h.n.connect(h.ip, to, addr)
}

func (n *Network) connect(from, to, addr string) (net.Conn, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.listeners[addr]
	if l == nil {
		return nil, opErr("dial", addr, syscall.ECONNREFUSED)
	}
	n.ports++
	local := tcpAddr(net.JoinHostPort(from, strconv.Itoa(20000+n.ports%40000)))
	near, far := newPair(n, from, to, local, l.addr)
	select {
	case l.queue <- far:
	default:
		return nil, opErr("dial", addr, syscall.ECONNREFUSED)
	}
	n.conns[near], n.conns[far] = struct{}{}, struct{}{}
	return near, nil
}

func tcpAddr(addr string) *net.TCPAddr {
	host, port, _ := net.SplitHostPort(addr)
	p, _ := strconv.Atoi(port)
	return &net.TCPAddr{IP: net.ParseIP(host), Port: p}
}

func opErr(op, addr string, err error) error {
	if no, ok := errors.AsType[syscall.Errno](err); ok {
		err = os.NewSyscallError(op, no)
	}
	return &net.OpError{Op: op, Net: "tcp", Addr: tcpAddr(addr), Err: err}
}

// listener is a net.Listener.
type listener struct {
	n      *Network
	host   string
	addr   *net.TCPAddr
	queue  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	select {
	case <-l.closed:
		return nil, fmt.Errorf("accept on %s: %w", l.addr, net.ErrClosed)
	case c := <-l.queue:
		return c, nil
	}
}

// Close implements net.Listener.
func (l *listener) Close() error {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if l.n.listeners[l.addr.String()] == l {
		delete(l.n.listeners, l.addr.String())
	}
	l.closeLocked()
	return nil
}

// closeLocked ends Accept, and resets what nobody has accepted.
func (l *listener) closeLocked() {
	l.once.Do(func() {
		close(l.closed)
		for {
			select {
			case c := <-l.queue:
				go c.(*conn).kill(syscall.ECONNRESET) // it takes the network's lock, and ends at once
			default:
				return
			}
		}
	})
}

// Addr implements net.Listener.
func (l *listener) Addr() net.Addr { return l.addr }

// DialTimeout is Dial within a time.
func (h *Host) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return h.Dial(ctx, addr)
}

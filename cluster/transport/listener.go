package transport

import (
	"errors"
	"net"
	"sync"
)

// connListener is a net.Listener of connections that were accepted elsewhere. Closing it closes them too.
type connListener struct {
	addr  net.Addr
	conns chan net.Conn
	// lost is called when the other side has closed an accepted connection that it had used. It may be nil and must not
	// block.
	lost func()

	mu     sync.Mutex
	open   map[*ownedConn]struct{}
	closed chan struct{}
	once   sync.Once
}

var _ net.Listener = (*connListener)(nil)

func newConnListener(addr net.Addr, lost func()) *connListener {
	return &connListener{
		addr: addr, conns: make(chan net.Conn), lost: lost, open: make(map[*ownedConn]struct{}), closed: make(chan struct{}),
	}
}

// deliver gives a connection to Accept; false says that the listener is closed and the connection the caller's.
func (l *connListener) deliver(c net.Conn) bool {
	owned := l.own(c)
	if owned == nil {
		return false
	}
	owned.lost = l.lost
	select {
	case l.conns <- owned:
		return true
	case <-l.closed:
		_ = owned.Close()
		return true
	}
}

// own makes a connection close with the listener; nil when it is closed already.
func (l *connListener) own(c net.Conn) *ownedConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	select {
	case <-l.closed:
		return nil
	default:
	}
	owned := &ownedConn{Conn: c, owner: l}
	l.open[owned] = struct{}{}
	return owned
}

// Accept implements net.Listener.
func (l *connListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener.
func (l *connListener) Addr() net.Addr { return l.addr }

// Close ends Accept and closes the connections. It is idempotent.
func (l *connListener) Close() error {
	l.once.Do(func() {
		l.mu.Lock()
		close(l.closed)
		open := l.open
		l.open = make(map[*ownedConn]struct{})
		l.mu.Unlock()
		for c := range open {
			_ = c.Conn.Close()
		}
	})
	return nil
}

// ownedConn tells its listener when it closes.
type ownedConn struct {
	net.Conn
	owner *connListener
	lost  func()
	used  bool // belongs to the one reader
}

// Read implements net.Conn.
func (c *ownedConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.used = c.used || n > 0
	if err != nil && c.used && c.lost != nil && !errors.Is(err, net.ErrClosed) {
		c.lost()
	}
	return n, err
}

// Close closes the connection.
func (c *ownedConn) Close() error {
	c.owner.mu.Lock()
	delete(c.owner.open, c)
	c.owner.mu.Unlock()
	return c.Conn.Close()
}

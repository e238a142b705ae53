package wire

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// windowBytes is what may be under way in one direction before a write blocks.
const windowBytes = 256 << 10

// conn is one end of a connection.
type conn struct {
	n             *Network
	host, peer    string
	local, remote *net.TCPAddr
	in, out       *pipe
	once          sync.Once
}

var _ net.Conn = (*conn)(nil)

func newPair(n *Network, from, to string, local, remote *net.TCPAddr) (near, far *conn) {
	there, back := newPipe(n, from, to), newPipe(n, to, from)
	near = &conn{n: n, host: from, peer: to, local: local, remote: remote, in: back, out: there}
	far = &conn{n: n, host: to, peer: from, local: remote, remote: local, in: there, out: back}
	return near, far
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) { return c.in.read(b) }

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b) }

// Close implements net.Conn. The other side reads what was written, and then the end.
func (c *conn) Close() error {
	c.gone()
	c.in.endRead(net.ErrClosed)
	c.out.endWrite(net.ErrClosed)
	return nil
}

// kill ends both directions of this end at once, and tells the other side nothing.
func (c *conn) kill(err error) {
	c.gone()
	c.in.endRead(err)
	c.out.breakWrite(err)
}

func (c *conn) gone() {
	c.once.Do(func() {
		c.n.mu.Lock()
		defer c.n.mu.Unlock()
		delete(c.n.conns, c)
	})
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.in.setReadDeadline(t)
	c.out.setWriteDeadline(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { c.in.setReadDeadline(t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { c.out.setWriteDeadline(t); return nil }

// segment is what one write has sent.
type segment struct {
	data []byte
	at   time.Time // when it arrives, unless the link is cut then
}

// pipe is one direction of a connection.
type pipe struct {
	n        *Network
	from, to string

	mu            sync.Mutex
	changed       chan struct{} // closed at the next change, if somebody waits for it
	waiting       int           // reads and writes that do
	queue         []segment
	bytes         int
	last          time.Time // arrival of the newest segment
	ended         bool      // nothing more is written; the end is read behind the queue
	unread        bool      // nobody reads what is written: the writer learns of it by what it reads, never before
	readErr       error
	writeErr      error
	readDeadline  time.Time
	writeDeadline time.Time
}

func newPipe(n *Network, from, to string) *pipe {
	return &pipe{n: n, from: from, to: to, changed: make(chan struct{})}
}

func (p *pipe) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wakeLocked()
}

func (p *pipe) wakeLocked() {
	if p.waiting == 0 {
		return
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *pipe) update(f func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f()
	p.wakeLocked()
}

func (p *pipe) setReadDeadline(t time.Time)  { p.update(func() { p.readDeadline = t }) }
func (p *pipe) setWriteDeadline(t time.Time) { p.update(func() { p.writeDeadline = t }) }

func (p *pipe) endRead(err error) {
	p.update(func() {
		if p.readErr == nil {
			p.readErr = err
		}
		p.queue, p.bytes, p.unread = nil, 0, true
	})
}

func (p *pipe) endWrite(err error) {
	p.update(func() {
		p.ended = true
		p.writeErr = err
	})
}

// breakWrite ends writing; the other side does not learn of it.
func (p *pipe) breakWrite(err error) { p.update(func() { p.writeErr = err }) }

// await waits for a change, a point in time, or a deadline; it returns os.ErrDeadlineExceeded after the latter. p.mu is
// held at the call and at the return, not between.
func (p *pipe) await(until time.Time, deadline func() time.Time) error {
	changed := p.changed
	end := deadline()
	if !end.IsZero() && !end.After(time.Now()) {
		return os.ErrDeadlineExceeded
	}
	if until.IsZero() || (!end.IsZero() && end.Before(until)) {
		until = end
	}
	p.waiting++
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		p.waiting--
	}()
	if until.IsZero() {
		<-changed
		return nil
	}
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	}
	return nil
}

func (p *pipe) read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.readErr != nil {
			return 0, p.readErr
		}
		if !p.readDeadline.IsZero() && !p.readDeadline.After(time.Now()) {
			return 0, os.ErrDeadlineExceeded
		}
		until := time.Time{}
		if len(p.queue) > 0 || p.ended {
			l, _ := p.n.link(p.from, p.to)
			var at time.Time
			if len(p.queue) > 0 {
				at = p.queue[0].at
			} else {
				at = p.last
			}
			switch {
			case l.Cut: // Set and Heal wake it
			case at.After(time.Now()):
				until = at
			case len(p.queue) == 0:
				return 0, io.EOF
			default:
				return p.takeLocked(b), nil
			}
		}
		if err := p.await(until, func() time.Time { return p.readDeadline }); err != nil {
			return 0, err
		}
	}
}

func (p *pipe) takeLocked(b []byte) int {
	s := &p.queue[0]
	n := copy(b, s.data)
	s.data = s.data[n:]
	if len(s.data) == 0 {
		p.queue = p.queue[1:]
	}
	p.bytes -= n
	p.wakeLocked()
	return n
}

func (p *pipe) write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.writeErr != nil {
			return 0, p.writeErr
		}
		if p.bytes < windowBytes {
			break
		}
		if err := p.await(time.Time{}, func() time.Time { return p.writeDeadline }); err != nil {
			return 0, err
		}
	}
	if !p.writeDeadline.IsZero() && !p.writeDeadline.After(time.Now()) {
		return 0, os.ErrDeadlineExceeded
	}
	if p.unread {
		return len(b), nil
	}
	_, delay := p.n.link(p.from, p.to)
	at := time.Now().Add(delay)
	if at.Before(p.last) {
		at = p.last
	}
	p.last = at
	p.queue = append(p.queue, segment{append([]byte(nil), b...), at})
	p.bytes += len(b)
	p.wakeLocked()
	return len(b), nil
}

package wire

import (
	"context"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/memberlist"
)

// packets is memberlist's transport.
type packets struct {
	h        *Host
	host     string
	addr     *net.TCPAddr
	listener net.Listener
	in       chan *memberlist.Packet
	streams  chan net.Conn
	closed   chan struct{}
	once     sync.Once
	wg       sync.WaitGroup
}

var _ memberlist.Transport = (*packets)(nil)

// Gossip returns memberlist's transport on an address of the host.
func (h *Host) Gossip(addr string) (memberlist.Transport, error) {
	l, err := h.Listen(context.Background(), addr)
	if err != nil {
		return nil, err
	}
	p := &packets{
		h: h, host: h.ip, addr: tcpAddr(addr), listener: l, in: make(chan *memberlist.Packet, 1024), streams: make(chan net.Conn),
		closed: make(chan struct{}),
	}
	h.n.mu.Lock()
	h.n.packets[addr] = p
	h.n.mu.Unlock()
	p.wg.Go(p.accept)
	return p, nil
}

func (p *packets) accept() {
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return
		}
		select {
		case p.streams <- c:
		case <-p.closed:
			_ = c.Close()
		}
	}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (p *packets) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return p.addr.IP, p.addr.Port, nil
}

// WriteTo implements memberlist.Transport. A datagram that nobody takes is lost.
func (p *packets) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	if p.h.alive() != nil {
		return now, syscall.ENETDOWN
	}
	to, _, err := net.SplitHostPort(addr)
	if err != nil {
		return now, err
	}
	n := p.h.n
	n.mu.Lock()
	defer n.mu.Unlock()
	times := 1
	if l, _ := n.linkLocked(p.host, to); l.Cut || n.rand.Float64() < l.Loss {
		return now, nil
	} else if n.rand.Float64() < l.Repeat {
		times = 2
	}
	data := append([]byte(nil), b...)
	for range times {
		_, delay := n.linkLocked(p.host, to)
		time.AfterFunc(delay, func() { n.deliver(p.addr, addr, data) })
	}
	return now, nil
}

func (n *Network) deliver(from net.Addr, addr string, data []byte) {
	n.mu.Lock()
	to := n.packets[addr]
	n.mu.Unlock()
	if to == nil {
		return
	}
	select {
	case to.in <- &memberlist.Packet{Buf: append([]byte(nil), data...), From: from, Timestamp: time.Now()}:
	default:
	}
}

// PacketCh implements memberlist.Transport.
func (p *packets) PacketCh() <-chan *memberlist.Packet { return p.in }

// StreamCh implements memberlist.Transport.
func (p *packets) StreamCh() <-chan net.Conn { return p.streams }

// DialTimeout implements memberlist.Transport.
func (p *packets) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return p.h.DialTimeout(addr, timeout)
}

// Shutdown implements memberlist.Transport.
func (p *packets) Shutdown() error {
	p.once.Do(func() {
		close(p.closed)
		p.h.n.mu.Lock()
		if p.h.n.packets[p.addr.String()] == p {
			delete(p.h.n.packets, p.addr.String())
		}
		p.h.n.mu.Unlock()
		_ = p.listener.Close()
		p.wg.Wait()
	})
	return nil
}

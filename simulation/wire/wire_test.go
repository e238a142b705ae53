package wire

import (
	"context"
	"io"
	"net"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	a, b = "127.0.0.1", "127.0.0.2"
	addr = b + ":1"
)

var link = Link{Latency: 10 * time.Millisecond}

// pair returns both ends of a connection from a to b.
func pair(t *testing.T, n *Network) (near, far net.Conn) {
	t.Helper()
	l, err := n.Host(b).Listen(t.Context(), addr)
	require.NoError(t, err)
	near, err = n.Host(a).Dial(t.Context(), addr)
	require.NoError(t, err)
	far, err = l.Accept()
	require.NoError(t, err)
	require.NoError(t, l.Close())
	return near, far
}

func send(t *testing.T, c net.Conn, text string) {
	t.Helper()
	n, err := c.Write([]byte(text))
	require.NoError(t, err)
	require.Len(t, text, n)
}

func receive(t *testing.T, c net.Conn, bytes int) string {
	t.Helper()
	buf := make([]byte, bytes)
	_, err := io.ReadFull(c, buf)
	require.NoError(t, err)
	return string(buf)
}

func TestConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := pair(t, New(1, link))
		begin := time.Now()
		send(t, near, "one")
		send(t, near, "two")
		require.Equal(t, "onetwo", receive(t, far, 6))
		require.Equal(t, link.Latency, time.Since(begin))
		send(t, far, "back")
		require.NoError(t, far.Close())
		require.Equal(t, "back", receive(t, near, 4))
		_, err := near.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		_, err = far.Read(make([]byte, 1))
		require.ErrorIs(t, err, net.ErrClosed)
		send(t, near, "to nobody") // as into a socket's buffer
	})
}

func TestDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, _ := pair(t, New(1, link))
		begin := time.Now()
		require.NoError(t, near.SetDeadline(begin.Add(time.Second)))
		_, err := near.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		require.Equal(t, time.Second, time.Since(begin))
		require.NoError(t, near.SetDeadline(time.Now().Add(time.Second)))
		send(t, near, string(make([]byte, windowBytes)))
		_, err = near.Write([]byte("x"))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the window is full")
		require.NoError(t, near.SetReadDeadline(time.Now().Add(time.Hour)))
		time.AfterFunc(time.Second, func() { _ = near.SetReadDeadline(time.Now()) })
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "a new deadline wakes a reader")
	})
}

func TestCutHoldsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, link)
		near, far := pair(t, n)
		n.Set(a, b, Link{Cut: true})
		send(t, near, "late")
		send(t, far, "through") // the other direction works
		require.Equal(t, "through", receive(t, near, 7))
		time.AfterFunc(5*time.Second, n.Heal)
		begin := time.Now()
		require.Equal(t, "late", receive(t, far, 4))
		require.Equal(t, 5*time.Second, time.Since(begin))

		n.Set(b, a, Link{Cut: true})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := n.Host(a).Dial(ctx, addr)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	})
}

func TestPower(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, link)
		near, far := pair(t, n)
		n.PowerOff(b)
		_, err := far.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ENETDOWN)
		require.NoError(t, near.SetReadDeadline(time.Now().Add(time.Minute)))
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, os.ErrDeadlineExceeded, "the other side hears nothing")
		n.PowerOn(b)
		_, err = near.Read(make([]byte, 1))
		require.ErrorIs(t, err, syscall.ECONNRESET, "until the host is back")
		_, err = n.Host(a).Dial(t.Context(), addr)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)

		dead := n.Host(a)
		dead.Kill()
		n.PowerOn(a)
		_, err = dead.Dial(t.Context(), addr)
		require.ErrorIs(t, err, syscall.ENETDOWN, "a life that has ended stays off the network")
	})
}

func TestDatagrams(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1, Link{Latency: time.Millisecond, Loss: 0.5})
		from, err := n.Host(a).Gossip(a + ":2")
		require.NoError(t, err)
		to, err := n.Host(b).Gossip(b + ":2")
		require.NoError(t, err)
		count := func() int {
			for range 100 {
				_, err := from.WriteTo([]byte("x"), b+":2")
				require.NoError(t, err)
			}
			<-time.After(time.Second)
			got := len(to.PacketCh())
			for range got {
				<-to.PacketCh()
			}
			return got
		}
		require.InDelta(t, 50, count(), 25, "lost")
		n.Set(a, b, Link{Repeat: 0.5})
		require.InDelta(t, 150, count(), 25, "repeated")
		n.Set(a, b, Link{Cut: true})
		require.Zero(t, count())
		require.NoError(t, from.Shutdown())
		require.NoError(t, to.Shutdown())
		require.NoError(t, to.Shutdown())
	})
}

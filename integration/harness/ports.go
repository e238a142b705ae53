package harness

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Ports are taken from below the range that the kernel gives to outgoing connections, so that a stopped node finds its
// ports free when it starts again. For the same reason each test process has a lane of its own: tests of several modules
// run at once.
const (
	firstPort = 12000
	lanes     = 8
	laneWidth = 2500
)

var ports struct {
	sync.Mutex
	// mine is the listener on the first port of the lane that makes it this process's as long as it lives.
	mine        net.Listener
	first, next int
}

// FreePort returns a port of 127.0.0.1 that nobody listens on by TCP or UDP.
// This process does not hand it out again.
func FreePort(tb testing.TB) int {
	tb.Helper()
	ports.Lock()
	defer ports.Unlock()
	if ports.mine == nil && !takeLane() {
		tb.Fatalf("other tests use all ports from %d to %d", firstPort, firstPort+lanes*laneWidth-1)
	}
	for range laneWidth {
		ports.next = ports.first + (ports.next-ports.first+1)%laneWidth
		if isFree(tb.Context(), ports.next) {
			return ports.next
		}
	}
	tb.Fatalf("no free port between %d and %d", ports.first, ports.first+laneWidth-1)
	return 0
}

// takeLane takes the first lane that no other process has.
func takeLane() bool {
	for lane := range lanes {
		first := firstPort + lane*laneWidth
		l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", loopback(first))
		if err == nil {
			ports.mine, ports.first, ports.next = l, first, first
			return true
		}
	}
	return false
}

// FreeAddr is 127.0.0.1 with a free port.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return loopback(FreePort(tb))
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// isFree tries. No process is started in between: until it has its program it would have these sockets too, and the port be
// in use for a moment after they are closed here.
func isFree(ctx context.Context, port int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", loopback(port))
	if err != nil {
		return false
	}
	defer func() { _ = l.Close() }()
	u, err := lc.ListenPacket(ctx, "udp", loopback(port))
	if err != nil {
		return false
	}
	return u.Close() == nil
}

// RequireFree ends the test when somebody goes on listening on one of the addresses. A port that some connection has taken
// for its own end is waited for.
func RequireFree(tb testing.TB, addrs ...string) {
	tb.Helper()
	for _, a := range addrs {
		_, p, err := net.SplitHostPort(a)
		if err != nil {
			tb.Fatalf("address %s: %v", a, err)
		}
		port, err := strconv.Atoi(p)
		if err != nil {
			tb.Fatalf("address %s: %v", a, err)
		}
		Eventually(tb, time.Minute, a+" is free", func(ctx context.Context) error {
			if !isFree(ctx, port) {
				return fmt.Errorf("port %d is in use: end what listens there", port)
			}
			return nil
		})
	}
}

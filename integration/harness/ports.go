package harness

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Ports are taken from below the range that the kernel gives to outgoing
// connections, so that a stopped node finds its ports free when it starts again.
const (
	firstPort = 12000
	lastPort  = 32000
)

var ports = struct {
	sync.Mutex
	next int // guarded by Mutex
}{next: firstPort + rand.IntN(lastPort-firstPort)}

// FreePort returns a port of 127.0.0.1 that nobody listens on by TCP or UDP.
// This process does not hand it out again.
func FreePort(tb testing.TB) int {
	tb.Helper()
	for range lastPort - firstPort {
		if p := nextPort(); isFree(tb.Context(), p) {
			return p
		}
	}
	tb.Fatalf("no free port between %d and %d", firstPort, lastPort)
	return 0
}

// FreeAddr is 127.0.0.1 with a free port.
func FreeAddr(tb testing.TB) string {
	tb.Helper()
	return loopback(FreePort(tb))
}

func nextPort() int {
	ports.Lock()
	defer ports.Unlock()
	p := ports.next
	ports.next++
	if ports.next > lastPort {
		ports.next = firstPort
	}
	return p
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

func isFree(ctx context.Context, port int) bool {
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

package harness

import (
	"net"
	"os"
	"testing"
)

// A connection is known to belong to the process that dialed it.
func TestOwnerOfConnection(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := new(net.Dialer).DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	local, remote := c.LocalAddr().String(), c.RemoteAddr().String()
	if owner, err := ownerOf(local, remote, map[int]string{os.Getpid(): "this", 1: "init"}); err != nil || owner != "this" {
		t.Fatalf("%q, %v", owner, err)
	}
	if owner, err := ownerOf(local, remote, map[int]string{1: "init"}); err == nil {
		t.Fatalf("%q", owner)
	}
	if owner, err := ownerOf(local, "127.0.0.1:1", map[int]string{os.Getpid(): "this"}); err == nil {
		t.Fatalf("%q", owner)
	}
}

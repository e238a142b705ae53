package node

import (
	"context"
	"io"
	"net"
	"os"

	"github.com/hashicorp/memberlist"

	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/storage/object"
)

// Edges are where a node meets the world. What is nil is the real one; a simulation gives its own.
type Edges struct {
	// Listen and Dial make connections between nodes and with clients.
	Listen func(ctx context.Context, addr string) (net.Listener, error)
	Dial   func(ctx context.Context, addr string) (net.Conn, error)
	// Gossip returns what carries gossip, bound to an address.
	Gossip func(addr string) (memberlist.Transport, error)
	// Bucket is the object store in place of what --object-store names.
	Bucket object.Bucket
	// Disk is what the logs of the Raft groups are written through.
	Disk logstore.Disk
	// Logs takes the node's log.
	Logs io.Writer
}

func (e *Edges) setDefaults() {
	if e.Listen == nil {
		e.Listen = func(ctx context.Context, addr string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(ctx, "tcp", addr)
		}
	}
	if e.Gossip == nil {
		e.Gossip = func(string) (memberlist.Transport, error) { return nil, nil } // memberlist makes its own
	}
	if e.Logs == nil {
		e.Logs = os.Stderr
	}
}

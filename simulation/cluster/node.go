package cluster

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"testing/synctest"

	"github.com/streamhouse/streamhouse/internal/node"
	"github.com/streamhouse/streamhouse/simulation/disk"
	"github.com/streamhouse/streamhouse/simulation/wire"
)

// Node is one node of a Cluster, over all its lives.
type Node struct {
	// ID is n1, n2 and so on; IP its address for life.
	ID, IP string

	c       *Cluster
	current *life  // guarded by c.mu; nil while the node is down
	last    *life  // guarded by c.mu; the newest, up or not
	dir     string // guarded by c.mu; of the next life
	lives   int    // guarded by c.mu
}

// life is a node from a start to its end.
type life struct {
	dir    string
	disk   *disk.Disk
	host   *wire.Host
	node   *node.Node
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid once done is closed
}

const (
	grpcPort, httpPort, raftPort, gossipPort = 50051, 8080, 7000, 7946
)

// Addr is where clients reach the node.
func (n *Node) Addr() string { return n.at(grpcPort) }

func (n *Node) at(port int) string { return fmt.Sprintf("%s:%d", n.IP, port) }

func (n *Node) life() *life {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	return n.current
}

// Up reports whether the node was started and has not ended.
func (n *Node) Up() bool { return n.life() != nil }

// Disk is the disk of the node's present life; nil while it is down.
func (n *Node) Disk() *disk.Disk {
	if l := n.life(); l != nil {
		return l.disk
	}
	return nil
}

// Start starts the node, on what its last life has left.
func (n *Node) Start(ctx context.Context) error {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	if n.current != nil {
		return fmt.Errorf("%s is up", n.ID)
	}
	if n.dir == "" {
		n.dir = n.nextDirLocked()
	}
	l := &life{dir: n.dir, host: n.c.Net.Host(n.IP), done: make(chan struct{})}
	l.disk = disk.New(l.dir, n.c.cfg.Seed+uint64(n.lives), HealthyDisk)
	cfg, err := node.Load(node.Sources{Flags: n.c.flags(n, l.dir)})
	if err != nil {
		return err
	}
	logs := io.Discard
	if n.c.cfg.Logs != nil {
		logs = n.c.cfg.Logs(n.ID)
	}
	l.node, err = node.NewWithEdges(cfg, node.Edges{
		Listen: l.host.Listen, Dial: l.host.Dial, Gossip: l.host.Gossip, Bucket: n.c.Bucket, Disk: l.disk, Logs: logs,
	})
	if err != nil {
		return err
	}
	n.c.Net.PowerOn(n.IP)
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	l.cancel = cancel
	n.current, n.last = l, l
	n.c.lives = append(n.c.lives, l)
	go func() { // joined by Cluster.Close
		defer close(l.done)
		l.err = l.node.Run(ctx)
		n.ended(l)
	}()
	return nil
}

func (n *Node) nextDirLocked() string {
	n.lives++
	return filepath.Join(n.c.cfg.Dir, fmt.Sprintf("%s-%d", n.ID, n.lives))
}

// ended notes that a life has ended by itself, or was stopped: the kernel closes its connections.
func (n *Node) ended(l *life) {
	n.c.mu.Lock()
	current := n.current == l
	if current {
		n.current = nil
	}
	n.c.mu.Unlock()
	if current {
		l.host.Kill()
		n.c.Net.Reset(n.IP)
	}
}

// Ended returns whether the newest life has ended, and how: nil for a clean stop.
func (n *Node) Ended() (bool, error) {
	n.c.mu.Lock()
	l := n.last
	n.c.mu.Unlock()
	select {
	case <-l.done:
		return true, l.err
	default:
		return false, nil
	}
}

// Stop stops the node as SIGTERM does, and waits for its end.
func (n *Node) Stop() error {
	l := n.life()
	if l == nil {
		return nil
	}
	l.cancel()
	<-l.done
	if l.err != nil {
		return fmt.Errorf("%s: %w", n.ID, l.err)
	}
	return nil
}

// Crash ends the node as kill -9 does (disk.Kept: its connections are reset), or a power cut, which costs what was not
// synced even where the node had ended before. It stays down until Start. It returns how many writes were lost. No other
// goroutine may crash a node at the same time.
func (n *Node) Crash(loss disk.Loss) (int, error) {
	synctest.Wait()
	n.c.mu.Lock()
	l := n.last
	n.current = nil
	if n.dir != l.dir { // it has crashed already
		n.c.mu.Unlock()
		return 0, nil
	}
	n.dir = n.nextDirLocked()
	dir := n.dir
	n.c.mu.Unlock()
	lost, err := l.disk.Crash(dir, loss)
	l.host.Kill()
	if loss == disk.Kept {
		n.c.Net.Reset(n.IP)
	}
	l.cancel() // what is left of it ends on its own, without a network and a disk
	return lost, err
}

// Wipe gives the node an empty directory for its next life. It must be down.
func (n *Node) Wipe() {
	n.c.mu.Lock()
	defer n.c.mu.Unlock()
	n.dir = n.nextDirLocked()
}

// FlipBit flips one bit of what a file of the node's next life has written, by draw, and returns the file. Files whose
// name has the suffix are chosen from; "" where there is none. The node must be down.
func (n *Node) FlipBit(suffix string, draw uint64) (string, error) {
	n.c.mu.Lock()
	dir := n.dir
	n.c.mu.Unlock()
	return disk.FlipBit(dir, suffix, draw)
}

// FlipBitOf flips a bit in every place of the node's files where the text is first, in files whose name has the suffix,
// under a node that runs or before its next life. It returns how many files have the text.
func (n *Node) FlipBitOf(suffix, text string) (int, error) {
	n.c.mu.Lock()
	dir := n.dir
	n.c.mu.Unlock()
	return disk.FlipBitOf(dir, suffix, text)
}

// SetDisk changes how the disk of the node behaves, in this life.
func (n *Node) SetDisk(m disk.Mood) {
	if l := n.life(); l != nil {
		l.disk.Set(m)
	}
}

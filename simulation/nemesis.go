package simulation

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"sync"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/simulation/bucket"
	"github.com/streamhouse/streamhouse/simulation/cluster"
	"github.com/streamhouse/streamhouse/simulation/disk"
	"github.com/streamhouse/streamhouse/simulation/wire"
)

// nemesis lets the faults of a plan happen. Faults of links, disks and the object store are set again with every change,
// from those that last: so they overlap, and end for themselves.
type nemesis struct {
	s *sim

	// crash lets one crash happen at a time. It is no mutex: who waits for one keeps the bubble's clock from going on.
	crash chan struct{}

	mu     sync.Mutex
	active map[*Fault]bool // guarded by mu
}

func newNemesis(s *sim) *nemesis {
	return &nemesis{s: s, crash: make(chan struct{}, 1), active: make(map[*Fault]bool)}
}

// run returns when all faults have ended; the nodes that they hit are up again.
func (n *nemesis) run(ctx context.Context, faults []Fault) error {
	begin := time.Now()
	var wg sync.WaitGroup
	errs := make([]error, len(faults))
	for i := range faults {
		if err := pause.For(ctx, faults[i].At-time.Since(begin)); err != nil {
			errs[i] = err
			break
		}
		wg.Go(func() { errs[i] = n.happen(ctx, &faults[i]) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (n *nemesis) happen(ctx context.Context, f *Fault) error {
	n.s.trace.Event("nemesis", "%s of n%d (n%d) begins", f.Kind, f.Node+1, f.Other+1)
	defer n.s.trace.Event("nemesis", "%s of n%d ends", f.Kind, f.Node+1)
	switch f.Kind {
	case KillNode:
		return n.down(ctx, f, disk.Kept, nil)
	case PowerCut, DiskFails:
		return n.down(ctx, f, loss(f), nil)
	case WipeNode:
		return n.down(ctx, f, disk.Kept, func(nd *cluster.Node) error { nd.Wipe(); return nil })
	case FlipBit:
		return n.down(ctx, f, disk.Kept, n.flip(f))
	case PowerCutAll:
		return n.allDown(ctx, f)
	case Restart:
		return n.restart(ctx, f)
	case LyingDisks:
		for _, nd := range n.s.c.Nodes {
			nd.Disk().Lie()
		}
		return nil
	case MoveLeader:
		return n.moveLeader(ctx, f)
	case DamageObject:
		return n.damageObject(ctx, f)
	default:
		n.set(f, true)
		err := pause.For(ctx, f.For)
		n.set(f, false)
		return err
	}
}

func loss(f *Fault) disk.Loss {
	if f.Draw%2 == 0 {
		return disk.All
	}
	return disk.Torn
}

// set begins or ends a fault that is a state of links, disks or the object store.
func (n *nemesis) set(f *Fault, on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if on {
		n.active[f] = true
	} else {
		delete(n.active, f)
	}
	n.applyLocked()
}

// applyLocked makes links, disks and the object store as the active faults have them.
func (n *nemesis) applyLocked() {
	c := n.s.c
	links := make(map[[2]string]wire.Link)
	store := cluster.HealthyBucket
	disks := make([]disk.Mood, len(c.Nodes))
	for i := range disks {
		disks[i] = cluster.HealthyDisk
	}
	for f := range n.active {
		cutLinks(c, links, f)
		storeMood(&store, f)
		diskMood(disks, f)
	}
	c.Net.Heal()
	for l, link := range links {
		c.Net.Set(l[0], l[1], link)
	}
	c.Bucket.Set(store)
	for i, nd := range c.Nodes {
		nd.SetDisk(disks[i])
	}
}

func cutLinks(c *cluster.Cluster, links map[[2]string]wire.Link, f *Fault) {
	node, other := c.Nodes[f.Node].IP, c.Nodes[f.Other].IP
	cut := wire.Link{Cut: true}
	for _, nd := range c.Nodes {
		if nd.IP == node {
			continue
		}
		switch f.Kind {
		case Partition:
			links[[2]string{node, nd.IP}], links[[2]string{nd.IP, node}] = cut, cut
		case OneWay:
			if f.Draw%2 == 0 {
				links[[2]string{node, nd.IP}] = cut
			} else {
				links[[2]string{nd.IP, node}] = cut
			}
		case BrokenLink:
			if nd.IP == other {
				links[[2]string{node, nd.IP}], links[[2]string{nd.IP, node}] = cut, cut
			}
		case SlowNetwork:
			slow := wire.Link{Latency: time.Duration(f.Draw%80) * time.Millisecond, Jitter: 200 * time.Millisecond, Loss: 0.3, Repeat: 0.2}
			for _, l := range [][2]string{{node, nd.IP}, {nd.IP, node}} {
				if _, is := links[l]; !is {
					links[l] = slow
				}
			}
		default:
		}
	}
}

func storeMood(m *bucket.Mood, f *Fault) {
	share := 0.2 + float64(f.Draw%5)*0.2
	switch f.Kind {
	case StoreFails:
		m.Refuse = share
	case StoreForgets:
		m.Forget = min(share, 0.8)
	case StoreHangs:
		m.Hang, m.Late = share/2, time.Duration(f.Draw%8000)*time.Millisecond
	default:
	}
}

func diskMood(disks []disk.Mood, f *Fault) {
	m := &disks[f.Node]
	switch f.Kind {
	case SlowDisk:
		m.Sync = 20*time.Millisecond + time.Duration(f.Draw%300)*time.Millisecond
	case DiskFails:
		m.Err = disk.Broken
		if f.Draw%3 == 0 {
			m.Err = disk.Full
		}
	default:
	}
}

// down takes a node down, for as long as the fault lasts, and starts it on what is left.
func (n *nemesis) down(ctx context.Context, f *Fault, loss disk.Loss, damage func(*cluster.Node) error) error {
	nd := n.s.c.Nodes[f.Node]
	if f.Kind == DiskFails { // the node ends itself; what it had not synced is gone
		if err := n.failDisk(ctx, f, nd); err != nil {
			return err
		}
	}
	if err := n.takeDown(nd, loss); err != nil {
		return err
	}
	if damage != nil {
		if err := damage(nd); err != nil {
			return err
		}
	}
	if err := pause.For(ctx, f.For); err != nil {
		return err
	}
	return n.s.start(ctx, nd)
}

// endsWithin is how long a node may take to end when a write of its disk has failed.
const endsWithin = 15 * time.Second

// failDisk lets a disk fail for a second. A node that has seen it must end, though the disk is well again.
func (n *nemesis) failDisk(ctx context.Context, f *Fault, nd *cluster.Node) error {
	d := nd.Disk()
	n.set(f, true)
	err := pause.For(ctx, time.Second)
	n.set(f, false)
	for since := time.Now(); err == nil && d != nil && d.Failed() > 0 && nd.Disk() == d; err = pause.For(ctx, 10*time.Millisecond) {
		if time.Since(since) > endsWithin {
			return fmt.Errorf("%s goes on %s after %d writes or syncs of its disk have failed", nd.ID, endsWithin, d.Failed())
		}
	}
	return err
}

func (n *nemesis) takeDown(nd *cluster.Node, loss disk.Loss) error {
	n.crash <- struct{}{}
	defer func() { <-n.crash }()
	lost, err := nd.Crash(loss)
	n.s.trace.Event(nd.ID, "is down: unsynced writes are %s (%d)", loss, lost)
	if err != nil {
		return fmt.Errorf("crash %s: %w", nd.ID, err)
	}
	return nil
}

// flipped are the files of which a bit is flipped, by the ends of their names: Raft's logs, terms and votes, the durable
// index, and snapshots.
var flipped = [...]string{"raft.db", "durable", "wal-meta.db", "state.bin", "raft.db", ".wal", ".wal", ".wal"}

func (n *nemesis) flip(f *Fault) func(*cluster.Node) error {
	return func(nd *cluster.Node) error {
		for _, suffix := range []string{flipped[f.Draw%uint64(len(flipped))], ".wal"} { // there may be no snapshot yet
			file, err := nd.FlipBit(suffix, f.Draw)
			if file != "" || err != nil {
				n.s.trace.Event(nd.ID, "a bit of %s is flipped", file)
				return err
			}
		}
		return nil
	}
}

func (n *nemesis) allDown(ctx context.Context, f *Fault) error {
	for _, nd := range n.s.c.Nodes {
		if err := n.takeDown(nd, loss(f)); err != nil {
			return err
		}
	}
	if err := pause.For(ctx, f.For); err != nil {
		return err
	}
	var errs []error
	for _, nd := range n.s.c.Nodes {
		errs = append(errs, n.s.start(ctx, nd))
	}
	return errors.Join(errs...)
}

func (n *nemesis) restart(ctx context.Context, f *Fault) error {
	nd := n.s.c.Nodes[f.Node]
	if err := nd.Stop(); err != nil {
		n.s.trace.Event(nd.ID, "stopped: %v", err)
	}
	if err := pause.For(ctx, f.For/2); err != nil {
		return err
	}
	return n.s.start(ctx, nd)
}

// damageObject damages one of the objects with records, if there is one.
func (n *nemesis) damageObject(ctx context.Context, f *Fault) error {
	names, err := n.s.c.Bucket.Names(ctx, ".seg")
	if err != nil || len(names) == 0 {
		return err
	}
	name := names[f.Draw>>1%uint64(len(names))]
	if f.Draw%2 == 0 {
		n.s.trace.Event("nemesis", "object %s is gone", name)
		return n.s.c.Bucket.Remove(ctx, name)
	}
	n.s.trace.Event("nemesis", "a bit of object %s is flipped", name)
	return n.s.c.Bucket.FlipBit(ctx, name, bits.Reverse64(f.Draw))
}

// moveLeader asks for it, through the node, and does not mind a refusal.
func (n *nemesis) moveLeader(ctx context.Context, f *Fault) error {
	a := n.s.apis[f.Node]
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := a.cluster.TransferLeader(call, &streamhousev1.TransferLeaderRequest{
		Shard: uint32(f.Draw % 2), NodeId: n.s.c.Nodes[f.Other].ID,
	})
	n.s.trace.Event("nemesis", "leadership of shard %d goes to n%d: %v", f.Draw%2, f.Other+1, err)
	return nil
}

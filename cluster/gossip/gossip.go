package gossip

import (
	"context"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	// streamTimeout bounds one connection to a peer, and with it how long Run takes to end.
	streamTimeout = 2 * time.Second
	// updateTimeout bounds the wait for a change of self to be spread. It is spread anyway, soon.
	updateTimeout = time.Millisecond
	// duplicatePings is how often a node with this node's id is asked whether it lives.
	duplicatePings = 3
)

// Gossip tells who is alive. Its methods are safe for concurrent use.
type Gossip struct {
	cfg   Config
	table *table
	list  *memberlist.Memberlist

	closeOnce sync.Once
}

// New binds the gossip address and starts to listen; it contacts nobody. The
// context bounds the looking up of names. Close or Leave ends what New began.
func New(ctx context.Context, cfg Config) (*Gossip, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	self := cfg.Self
	self.Fresh = self.ClusterID == ""
	t, err := newTable(self)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	mc, err := listConfig(ctx, &cfg, t)
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	list, err := memberlist.Create(mc)
	if err != nil {
		return nil, fmt.Errorf("gossip on %s: %w", cfg.BindAddr, err)
	}
	g := &Gossip{cfg: cfg, table: t, list: list}
	if self.GossipAddr == "" {
		addr := nodeAddr(list.LocalNode())
		if err := g.change(func(m *Member) { m.GossipAddr = addr }); err != nil {
			return nil, errors.Join(err, list.Shutdown())
		}
	}
	return g, nil
}

func listConfig(ctx context.Context, cfg *Config, t *table) (*memberlist.Config, error) {
	d := &delegate{t: t, log: cfg.Logger}
	mc := memberlist.DefaultLANConfig()
	mc.Name = cfg.Self.name()
	mc.Label = cfg.ClusterName
	mc.Logger = log.New(logWriter{cfg.Logger}, "", 0)
	mc.Delegate, mc.Events, mc.Alive, mc.Merge, mc.Conflict = d, d, d, d, d
	mc.Transport = cfg.Transport
	mc.TCPTimeout = streamTimeout
	mc.ProbeInterval = cfg.ProbeInterval
	mc.ProbeTimeout = cfg.ProbeInterval / 2
	// A dead node is seen within suspicion (3 probes) and at most the round of probes before.
	mc.SuspicionMult = 3
	mc.SuspicionMaxTimeoutMult = 3
	mc.PushPullInterval = 15 * cfg.ProbeInterval
	mc.DeadNodeReclaimTime = time.Nanosecond // a node that died may come back at another address at once
	mc.GossipToTheDeadTime = 30 * cfg.ProbeInterval

	host, port, err := splitHostPort(cfg.BindAddr)
	if err != nil {
		return nil, fmt.Errorf("bind address %q: %w", cfg.BindAddr, err)
	}
	ip, err := resolveOne(ctx, host)
	if err != nil {
		return nil, fmt.Errorf("bind address %q: %w", cfg.BindAddr, err)
	}
	mc.BindAddr, mc.BindPort = ip, port
	mc.AdvertiseAddr, mc.AdvertisePort = "", port
	if cfg.Self.GossipAddr != "" {
		host, port, err := splitHostPort(cfg.Self.GossipAddr)
		if err != nil {
			return nil, fmt.Errorf("advertised gossip address %q: %w", cfg.Self.GossipAddr, err)
		}
		ip, err := resolveOne(ctx, host)
		if err != nil {
			return nil, fmt.Errorf("advertised gossip address %q: %w", cfg.Self.GossipAddr, err)
		}
		mc.AdvertiseAddr, mc.AdvertisePort = ip, port
	}
	return mc, nil
}

func splitHostPort(addr string) (string, int, error) {
	host, p, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(p, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port %q is no number from 0 to 65535", p)
	}
	return host, int(port), nil
}

// resolveOne returns the first IP of a host, preferring IPv4; "" is every address.
func resolveOne(ctx context.Context, host string) (string, error) {
	if host == "" {
		return "0.0.0.0", nil
	}
	if net.ParseIP(host) != nil {
		return host, nil
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		return "", err
	}
	for _, ip := range ips {
		if ip.To4() != nil {
			return ip.String(), nil
		}
	}
	return ips[0].String(), nil
}

// Run looks for missing nodes until ctx ends, then returns nil. It returns a
// *DuplicateError when a live node has this node's id and goes before it.
func (g *Gossip) Run(ctx context.Context) error {
	for ctx.Err() == nil {
		g.rejoin(ctx)
		if err := g.pause(ctx); err != nil {
			return err
		}
	}
	return nil
}

// pause waits for the next look, and looks at nodes with this node's id as they appear.
func (g *Gossip) pause(ctx context.Context) error {
	wait := g.cfg.RejoinInterval/2 + rand.N(g.cfg.RejoinInterval)
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		changed := g.table.watch()
		if err := g.checkDuplicates(ctx); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			return nil
		case <-changed:
		}
	}
}

// rejoin asks all seeds and known peers that are not seen alive.
func (g *Gossip) rejoin(ctx context.Context) {
	missing := g.missing(ctx)
	var wg sync.WaitGroup
	for _, addr := range missing {
		wg.Go(func() {
			if _, err := g.list.Join([]string{addr}); err != nil {
				g.cfg.Logger.Debug("peer does not answer", "addr", addr, "error", err)
			}
		})
	}
	wg.Wait()
}

// missing returns the addresses of seeds and known peers without a live member.
func (g *Gossip) missing(ctx context.Context) []string {
	entries := g.table.entries()
	seen := map[string]bool{nodeAddr(g.list.LocalNode()): true, g.table.selfMember().GossipAddr: true}
	for i := range entries {
		seen[entries[i].addr] = true
		seen[entries[i].GossipAddr] = true
	}
	var out []string
	for _, list := range [][]string{g.cfg.Seeds, g.cfg.KnownPeers()} {
		for _, addr := range list {
			if seen[addr] {
				continue
			}
			for _, a := range g.resolve(ctx, addr) {
				if !seen[a] {
					seen[a], seen[addr] = true, true
					out = append(out, a)
				}
			}
			if ctx.Err() != nil {
				return nil
			}
		}
	}
	return out
}

// resolve returns all IP addresses of a host:port.
func (g *Gossip) resolve(ctx context.Context, addr string) []string {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		g.cfg.Logger.Warn("bad gossip address", "addr", addr, "error", err)
		return nil
	}
	if ip := net.ParseIP(host); ip != nil {
		return []string{net.JoinHostPort(ip.String(), port)}
	}
	ctx, cancel := context.WithTimeout(ctx, streamTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupIP(ctx, "ip", host)
	if err != nil {
		g.cfg.Logger.Debug("gossip address does not resolve", "addr", addr, "error", err)
		return nil
	}
	out := make([]string, 0, len(ips))
	for _, ip := range ips {
		out = append(out, net.JoinHostPort(ip.String(), port))
	}
	return out
}

// checkDuplicates asks every other node with this node's id whether it lives.
// A stale entry, left by a process that is gone, does not answer.
func (g *Gossip) checkDuplicates(ctx context.Context) error {
	self := g.table.selfMember()
	for _, other := range g.table.takeSuspects() {
		if other.addr == nodeAddr(g.list.LocalNode()) || !g.lives(ctx, &other) {
			continue
		}
		if goesBefore(&self, &other.Member) {
			g.cfg.Logger.Warn("another live node has this node's id", "addr", other.addr, "incarnation", other.Incarnation)
			continue
		}
		return &DuplicateError{NodeID: self.NodeID, Addr: other.addr}
	}
	return nil
}

func (g *Gossip) lives(ctx context.Context, e *entry) bool {
	addr, err := net.ResolveUDPAddr("udp", e.addr)
	if err != nil {
		return false
	}
	for range duplicatePings {
		if ctx.Err() != nil {
			return false
		}
		if _, err := g.list.Ping(e.name(), addr); err == nil {
			return true
		}
	}
	return false
}

// goesBefore reports whether self keeps its id against other: a node that is
// registered in this run before one that is not, one of a cluster before a fresh
// one, then the older data directory. Both sides decide alike.
func goesBefore(self, other *Member) bool {
	if self.Settled != other.Settled {
		return self.Settled
	}
	if self.Fresh != other.Fresh {
		return !self.Fresh
	}
	if self.Settled {
		return true
	}
	return self.Incarnation < other.Incarnation
}

// Members returns all live nodes of this cluster and fresh ones, this node too,
// in order of their ids. After a crash a node may appear twice for some seconds,
// with its old incarnation and its new one.
func (g *Gossip) Members() []Member { return g.table.alive() }

// Member returns the live node with this id; of two incarnations the newer one.
func (g *Gossip) Member(nodeID string) (Member, bool) {
	var found Member
	ok := false
	for _, m := range g.table.alive() {
		if m.NodeID == nodeID {
			found, ok = m, true
		}
	}
	return found, ok
}

// IncarnationAlive reports whether this very incarnation of a node is seen alive.
func (g *Gossip) IncarnationAlive(nodeID, incarnation string) bool {
	for _, m := range g.table.alive() {
		if m.NodeID == nodeID && m.Incarnation == incarnation {
			return true
		}
	}
	return false
}

// Changed returns a channel that is closed at the next change of Members.
func (g *Gossip) Changed() <-chan struct{} { return g.table.watch() }

// Self returns this node as the others see it.
func (g *Gossip) Self() Member { return g.table.selfMember() }

// Addr returns the address that others reach this node's gossip at.
func (g *Gossip) Addr() string { return g.table.selfMember().GossipAddr }

// SetClusterID notes the cluster that this node belongs to and tells the others.
func (g *Gossip) SetClusterID(id string) error {
	return g.change(func(m *Member) { m.ClusterID, m.Fresh = id, id == "" })
}

// SetSettled tells the others that this node is registered with its cluster.
func (g *Gossip) SetSettled() error {
	return g.change(func(m *Member) { m.Settled = true })
}

// SetLeaving tells the others that this node stops and wants no more leaderships.
func (g *Gossip) SetLeaving() error {
	return g.change(func(m *Member) { m.Leaving = true })
}

func (g *Gossip) change(f func(*Member)) error {
	changed, err := g.table.updateSelf(f)
	if err != nil || !changed {
		return err
	}
	if err := g.list.UpdateNode(updateTimeout); err != nil {
		g.cfg.Logger.Debug("change is queued to be spread", "error", err)
	}
	return nil
}

// Leave tells the others that this node goes, waits at most timeout, and closes gossip.
func (g *Gossip) Leave(timeout time.Duration) error {
	var err error
	g.closeOnce.Do(func() {
		if e := g.list.Leave(timeout); e != nil {
			g.cfg.Logger.Debug("nobody heard that this node leaves", "error", e)
		}
		err = g.list.Shutdown()
	})
	return err
}

// Close closes gossip without a word to the others, who will see this node dead. It is idempotent.
func (g *Gossip) Close() error {
	var err error
	g.closeOnce.Do(func() { err = g.list.Shutdown() })
	return err
}

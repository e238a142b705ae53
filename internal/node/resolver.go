package node

import (
	"sync/atomic"

	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/metadata"
)

// resolver finds the Raft address of a node: what gossip says now, else what the
// metadata says, else what node.json remembers.
type resolver struct {
	identity *identityFile
	gossip   atomic.Pointer[gossip.Gossip]
	group    atomic.Pointer[metadata.Group]
}

// RaftAddr returns a host:port whose host may be a name.
func (r *resolver) RaftAddr(nodeID string) (string, bool) {
	if g := r.gossip.Load(); g != nil {
		if m, ok := g.Member(nodeID); ok && m.RaftAddr != "" {
			return m.RaftAddr, true
		}
	}
	if g := r.group.Load(); g != nil {
		if n, ok := g.View().Node(nodeID); ok && n.RaftAddr != "" {
			return n.RaftAddr, true
		}
	}
	for _, p := range r.identity.get().Peers {
		if p.NodeID == nodeID && p.RaftAddr != "" {
			return p.RaftAddr, true
		}
	}
	return "", false
}

// gossipAddrs returns where the nodes of the cluster gossip, as the metadata and
// node.json have it.
func (r *resolver) gossipAddrs() []string {
	seen := make(map[string]bool)
	var addrs []string
	add := func(nodeID, addr string) {
		if nodeID != r.identity.get().NodeID && addr != "" && !seen[addr] {
			seen[addr] = true
			addrs = append(addrs, addr)
		}
	}
	if g := r.group.Load(); g != nil {
		for _, n := range g.View().Nodes() {
			add(n.ID, n.GossipAddr)
		}
	}
	for _, p := range r.identity.get().Peers {
		add(p.NodeID, p.GossipAddr)
	}
	return addrs
}

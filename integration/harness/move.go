package harness

import "slices"

// Forget takes a node that has left for good, and does not run, off the list of nodes.
func (c *Cluster) Forget(n *Node) {
	c.t.Helper()
	if n.Running() {
		c.t.Fatalf("%s runs", n.ID)
	}
	c.Nodes = slices.DeleteFunc(c.Nodes, func(other *Node) bool { return other == n })
}

// Move gives all nodes other addresses, as when all of them come up on other machines. None may run; clients that were
// made before do not find them any more.
func (c *Cluster) Move() {
	c.t.Helper()
	for _, n := range c.Nodes {
		if n.Running() {
			c.t.Fatalf("%s runs: it can't be moved", n.ID)
		}
		n.GRPCAddr, n.HTTPAddr, n.RaftAddr, n.GossipAddr = FreeAddr(c.t), FreeAddr(c.t), FreeAddr(c.t), FreeAddr(c.t)
		n.joinAt = n.GossipAddr
		n.Client = Dial(c.t, n.GRPCAddr)
	}
	for _, n := range c.Nodes {
		n.SetFlag("join", c.gossipAddrs(n))
	}
}

//go:build root

package integration_test

import (
	"testing"
	"time"

	"github.com/streamhouse/streamhouse/integration/harness"
)

// machines are a cluster whose nodes have hosts and disks of their own.
type machines struct {
	*harness.Cluster

	disks map[string]*harness.PowerDisk
}

// diskBytes is the size of a machine's disk.
const diskBytes = 1 << 30

// startMachines starts a cluster of machines.
func startMachines(t *testing.T, nodes int, flags map[string]string) *machines {
	t.Helper()
	m := &machines{disks: make(map[string]*harness.PowerDisk)}
	m.Cluster = harness.StartCluster(t, harness.Options{Nodes: nodes, Flags: flags, Hosts: true, DataDir: func(id string) string {
		m.disks[id] = harness.NewPowerDisk(t, diskBytes)
		return m.disks[id].Dir
	}})
	return m
}

// powerCut is the harm of cutting the power of these nodes.
func (m *machines) powerCut(nodes ...*harness.Node) harness.Harm {
	h := &harness.PowerCut{Nodes: nodes}
	for _, n := range nodes {
		h.Disks = append(h.Disks, m.disks[n.ID])
	}
	return h
}

// Everything at once, by chance, for a while, on nodes with hosts and disks of their own: nothing that was acknowledged is
// lost, doubled or moved, and no node uses more memory than it may.
func TestFaults(t *testing.T) {
	t.Parallel()
	c := startMachines(t, 4, early())
	m := watchMemory(t, c.Cluster)
	l := startLoad(t, c.Cluster, loadConfig{partitions: 3, every: 25 * time.Millisecond, hurried: true, topics: true})
	n := newNemesis(t, c.Cluster)
	n.kinds["power cut"] = func() choice { return n.about(func(v *harness.Node) harness.Harm { return c.powerCut(v) }) }
	n.kinds["power cut of all"] = func() choice { return choice{c.powerCut(c.Running()...), everything} }
	n.kinds["full disk"] = func() choice {
		return n.about(func(v *harness.Node) harness.Harm {
			return &harness.FullDisk{Node: v, Disk: c.disks[v.ID], Leave: n.rnd.Int64N(4 << 20)}
		})
	}
	n.kinds["partition"] = func() choice {
		v := n.node()
		return choice{&harness.Partition{Hosts: c.Hosts, Node: v, From: n.some(c.Others(v))}, "network"}
	}
	n.kinds["one-way cut"] = func() choice {
		v := n.node()
		return choice{&harness.OneWay{Hosts: c.Hosts, Node: v, To: n.some(c.Others(v))}, "network"}
	}
	n.kinds["packet loss"] = func() choice {
		return choice{&harness.PacketLoss{Hosts: c.Hosts, Nodes: n.some(c.Nodes), Part: 0.3 * n.rnd.Float64()}, "network"}
	}
	n.run(faultsFor(25*time.Second, 30*time.Minute), l)
	waitUploaded(t, c.Cluster, loadTopic)
	l.finish()
	m.stop()
}

// some returns at least one of the nodes, by chance.
func (n *nemesis) some(nodes []*harness.Node) []*harness.Node {
	return nodes[:1+n.rnd.IntN(len(nodes))]
}

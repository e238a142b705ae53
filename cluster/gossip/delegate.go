package gossip

import (
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"github.com/hashicorp/memberlist"
)

var (
	_ memberlist.Delegate         = (*delegate)(nil)
	_ memberlist.EventDelegate    = (*delegate)(nil)
	_ memberlist.AliveDelegate    = (*delegate)(nil)
	_ memberlist.MergeDelegate    = (*delegate)(nil)
	_ memberlist.ConflictDelegate = (*delegate)(nil)
)

// delegate is what memberlist calls. Its methods run under memberlist's own
// lock, so they only touch the table.
type delegate struct {
	t   *table
	log *slog.Logger
}

// NodeMeta returns what the others shall know about this node.
func (d *delegate) NodeMeta(int) []byte { return d.t.selfMeta() }

// NotifyMsg ignores user messages: there are none.
func (d *delegate) NotifyMsg([]byte) {}

// GetBroadcasts returns nothing: there are no user messages.
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState returns nothing: the members' metadata is all there is.
func (d *delegate) LocalState(bool) []byte { return nil }

// MergeRemoteState ignores what a peer sends.
func (d *delegate) MergeRemoteState([]byte, bool) {}

// NotifyAlive refuses a member that does not belong here.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	_, err := d.t.check(n)
	return err
}

// NotifyMerge refuses to merge with a cluster of another id.
func (d *delegate) NotifyMerge(peers []*memberlist.Node) error {
	for _, p := range peers {
		if _, err := d.t.check(p); err != nil {
			return err
		}
	}
	return nil
}

// NotifyJoin notes a member that is alive.
func (d *delegate) NotifyJoin(n *memberlist.Node) {
	d.t.put(n)
	if n.Name != d.t.selfName() {
		d.log.Info("node is alive", "node", n.Name, "addr", nodeAddr(n))
	}
}

// NotifyUpdate notes what changed about a member.
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.t.put(n) }

// NotifyLeave notes that a member is dead or has left.
func (d *delegate) NotifyLeave(n *memberlist.Node) {
	d.t.remove(n.Name)
	if n.Name != d.t.selfName() {
		d.log.Info("node is gone", "node", n.Name, "addr", nodeAddr(n), "left", n.State == memberlist.StateLeft)
	}
}

// NotifyConflict notes another node of the same name: the same data directory, copied.
func (d *delegate) NotifyConflict(existing, other *memberlist.Node) { d.t.conflict(existing, other) }

// checkCluster refuses a member of another cluster.
func checkCluster(self, other *Member) error {
	if self.ClusterID == "" || other.ClusterID == "" || self.ClusterID == other.ClusterID {
		return nil
	}
	return fmt.Errorf("node %s belongs to cluster %s, this node to %s", other.NodeID, other.ClusterID, self.ClusterID)
}

func nodeAddr(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

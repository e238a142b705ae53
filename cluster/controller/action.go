package controller

import (
	"fmt"
	"strings"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

// Action is one step: a Propose, a ChangeMembership or a Transfer. String says it in one line.
type Action interface {
	fmt.Stringer
	// kind names the action in metrics.
	kind() string
}

var (
	_ Action = (*Propose)(nil)
	_ Action = (*ChangeMembership)(nil)
	_ Action = (*Transfer)(nil)
)

// Propose is a metadata command.
type Propose struct {
	Command *metav1.Command
}

func (p *Propose) kind() string { return "propose" }

// String says what the command does.
func (p *Propose) String() string {
	switch c := p.Command.GetCommand().(type) {
	case *metav1.Command_CreateShard:
		return fmt.Sprintf("create shard %d on %s", c.CreateShard.GetShard(), c.CreateShard.GetReplica().GetReplicaId())
	case *metav1.Command_SetShardReplicas:
		ids := make([]string, 0, len(c.SetShardReplicas.GetReplicas()))
		for _, r := range c.SetShardReplicas.GetReplicas() {
			ids = append(ids, r.GetReplicaId())
		}
		return fmt.Sprintf("wish shard %d on %s", c.SetShardReplicas.GetShard(), strings.Join(ids, " "))
	case *metav1.Command_SetFeatureLevel:
		return fmt.Sprintf("switch to feature level %d", c.SetFeatureLevel.GetLevel())
	case *metav1.Command_RemoveNode:
		return "remove node " + c.RemoveNode.GetNodeId()
	default:
		return fmt.Sprintf("propose %T", c)
	}
}

func (g GroupID) String() string {
	if g == Metadata {
		return "metadata"
	}
	return fmt.Sprintf("shard %d", int64(g))
}

func (g GroupID) proto() *nodev1.Group {
	if g == Metadata {
		return &nodev1.Group{Metadata: true}
	}
	return &nodev1.Group{Shard: uint32(g)}
}

// ChangeMembership changes a group's Raft configuration by one server.
type ChangeMembership struct {
	Group     GroupID
	Leader    string
	Change    nodev1.MembershipChange
	ReplicaID string
	// Index of the configuration that the change is made on.
	Index uint64
}

func (c *ChangeMembership) kind() string { return "membership" }

// String says what changes.
func (c *ChangeMembership) String() string {
	verb := map[nodev1.MembershipChange]string{
		nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER: "add",
		nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE:      "promote",
		nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE:       "remove",
	}[c.Change]
	return fmt.Sprintf("%s: %s %s", c.Group, verb, c.ReplicaID)
}

// Transfer hands a group's leadership to another replica.
type Transfer struct {
	Group  GroupID
	Leader string
	To     string
	// Spread is set when it only evens out the load; it is then not repeated soon.
	Spread bool
}

func (t *Transfer) kind() string { return "transfer" }

// String says who leads next.
func (t *Transfer) String() string {
	return fmt.Sprintf("%s: transfer from %s to %s", t.Group, t.Leader, t.To)
}

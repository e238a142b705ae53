package health

import (
	"slices"

	"github.com/streamhouse/streamhouse/client"
)

// State is how a cluster is.
type State string

// States of a cluster.
const (
	// OK: everything works, and everything that should be there is.
	OK State = "ok"
	// Degraded: everything works, and something is missing.
	Degraded State = "degraded"
	// Unavailable: something can't be written to.
	Unavailable State = "unavailable"
)

// Commits are commit indexes by shard.
type Commits map[uint32]uint64

// CommitsOf returns the commit indexes that a status tells.
func CommitsOf(c client.Cluster) Commits {
	out := make(Commits, len(c.Shards))
	for _, s := range c.Shards {
		out[s.Number] = s.CommitIndex
	}
	return out
}

// Report is what Assess found.
type Report struct {
	State    State
	Metadata Metadata
	// Leaderless shards, in order.
	Leaderless []uint32
	// Behind are the replicas that have not what they should have, in order of shards.
	Behind []Replica
	// UploadBacklogBytes are committed and not in the object store.
	UploadBacklogBytes int64
	// Stops says what would become unavailable, by node.
	Stops map[string]Loss
}

// Metadata is how the metadata group is.
type Metadata struct {
	Leader string
	// Voters of the group; Alive of them are; Quorum of them must be.
	Voters, Alive, Quorum int
}

// MayStop is how many voters may stop before the group can decide nothing more.
func (m Metadata) MayStop() int { return max(m.Alive-m.Quorum, 0) }

// Replica is one that is behind.
type Replica struct {
	Shard uint32
	Node  string
	Role  string
	// Applied is 0 where the node does not answer. Committed is what it should have applied.
	Applied, Committed uint64
}

// Answers reports whether the node told of the replica.
func (r Replica) Answers() bool { return r.Applied > 0 }

// Loss is what would become unavailable with a node.
type Loss struct {
	Metadata bool
	Shards   []uint32
}

// None reports whether everything would go on.
func (l Loss) None() bool { return !l.Metadata && len(l.Shards) == 0 }

// Assess judges a cluster. committed are the commit indexes of a look before: a replica is behind that has not applied
// by now what was committed then, as the controller judges, too. Where there was no look before they are the cluster's own.
//
// What is unavailable already can't become so: it is in no Loss.
func Assess(c client.Cluster, committed Commits) Report {
	r := Report{State: OK, Metadata: assessMetadata(c), Stops: make(map[string]Loss, len(c.Nodes))}
	alive := make(map[string]bool, len(c.Nodes))
	for _, n := range c.Nodes {
		alive[n.ID] = n.Alive
		if !n.Alive {
			r.State = Degraded
		}
	}
	for _, s := range c.Shards {
		r.UploadBacklogBytes += s.UploadBacklogBytes
		r.Behind = append(r.Behind, behind(s, committed[s.Number], alive)...)
		if s.Leader == "" {
			r.Leaderless = append(r.Leaderless, s.Number)
		}
	}
	for _, n := range c.Nodes {
		r.Stops[n.ID] = loss(c, n, committed, alive, r.Metadata)
	}
	switch {
	case len(r.Leaderless) > 0 || r.Metadata.Leader == "":
		r.State = Unavailable
	case len(r.Behind) > 0:
		r.State = Degraded
	}
	return r
}

func assessMetadata(c client.Cluster) Metadata {
	m := Metadata{Leader: c.MetadataLeader}
	for _, n := range c.Nodes {
		if n.MetadataRole != client.RoleVoter {
			continue
		}
		m.Voters++
		if n.Alive {
			m.Alive++
		}
	}
	m.Quorum = quorum(m.Voters)
	return m
}

func quorum(voters int) int { return voters/2 + 1 }

// good reports whether a replica has what it should have, on a node that lives and answers.
func good(r client.Replica, committed uint64, alive map[string]bool) bool {
	return alive[r.Node] && r.AppliedIndex > 0 && r.AppliedIndex >= committed
}

func behind(s client.Shard, committed uint64, alive map[string]bool) []Replica {
	var out []Replica
	for _, r := range s.Replicas {
		if !good(r, committed, alive) {
			out = append(out, Replica{Shard: s.Number, Node: r.Node, Role: r.Role, Applied: r.AppliedIndex, Committed: committed})
		}
	}
	return out
}

// loss returns what would become unavailable if a node stopped: groups in which it has a vote, and too few others would
// be left.
func loss(c client.Cluster, n client.Node, committed Commits, alive map[string]bool, m Metadata) Loss {
	var l Loss
	if !n.Alive {
		return l
	}
	l.Metadata = m.Leader != "" && n.MetadataRole == client.RoleVoter && m.Alive-1 < m.Quorum
	for _, s := range c.Shards {
		voters, left, votes := 0, 0, false
		for _, r := range s.Replicas {
			if r.Role != client.RoleVoter {
				continue
			}
			voters++
			if r.Node == n.ID {
				votes = true
			} else if good(r, committed[s.Number], alive) {
				left++
			}
		}
		if votes && s.Leader != "" && left < quorum(voters) {
			l.Shards = append(l.Shards, s.Number)
		}
	}
	slices.Sort(l.Shards)
	return l
}

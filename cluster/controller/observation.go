package controller

import (
	"slices"
	"time"
)

// GroupID is a shard's number, or Metadata.
type GroupID int64

// Metadata is the metadata group.
const Metadata GroupID = -1

// Server is one member of a group's Raft configuration.
type Server struct {
	ReplicaID string
	Voter     bool
	// CaughtUp is set when two looks have found all applied that the leader had committed before.
	CaughtUp bool
	// Answers is set when the replica was asked and has answered.
	Answers bool
}

// Group is what the leader of a Raft group says of it.
type Group struct {
	// Leader is the replica that answered as the leader; without one, nothing is known.
	Leader string
	// Index is that of the configuration, upon which changes are made.
	Index   uint64
	Servers []Server
	// LedFor is how long the leader has been the same, as far as it was watched.
	LedFor time.Duration
}

// Known reports whether the group's leader has answered.
func (g *Group) Known() bool { return g.Leader != "" }

func (g *Group) server(replicaID string) (Server, bool) {
	i := slices.IndexFunc(g.Servers, func(s Server) bool { return s.ReplicaID == replicaID })
	if i < 0 {
		return Server{}, false
	}
	return g.Servers[i], true
}

func (g *Group) voters() []Server {
	var voters []Server
	for _, s := range g.Servers {
		if s.Voter {
			voters = append(voters, s)
		}
	}
	return voters
}

// Observation is what was seen of the cluster besides its metadata.
type Observation struct {
	// Alive holds the nodes whose registered incarnation gossip sees.
	Alive map[string]bool
	// DeadFor says how long the others have been away, as far as it was watched.
	DeadFor map[string]time.Duration
	// Groups by their id; one that is missing is not known.
	Groups map[GroupID]*Group
	// ReplaceAfter is how long a node is away before its replicas are replaced.
	ReplaceAfter time.Duration
	// NewReplicaID mints the id of a new replica on a node.
	NewReplicaID func(nodeID string) string
}

// group never returns nil.
func (o *Observation) group(id GroupID) *Group {
	if g, ok := o.Groups[id]; ok {
		return g
	}
	return &Group{}
}

// deadLong reports whether a node has been away for so long that it is replaced.
func (o *Observation) deadLong(nodeID string) bool {
	return !o.Alive[nodeID] && o.DeadFor[nodeID] >= o.ReplaceAfter
}

// majorityWithout reports whether the voters other than replicaID have a majority among themselves that is good.
func (g *Group) majorityWithout(replicaID string, good func(replicaID string) bool) bool {
	rest, live := 0, 0
	for _, s := range g.voters() {
		if s.ReplicaID == replicaID {
			continue
		}
		rest++
		if good(s.ReplicaID) {
			live++
		}
	}
	return rest > 0 && live > rest/2
}

package controller

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// sim is a cluster on paper: the real state machine, groups that obey at once,
// nodes that start what they are wished. Each step checks that no change takes a
// majority away.
type sim struct {
	t      *testing.T
	state  *fsm.State
	index  uint64
	minted int
	down   map[string]time.Duration
	groups map[GroupID]*Group
	// mute groups have a leader that does not answer.
	mute map[GroupID]bool
	// level is the feature level of the nodes that join.
	level uint32
	// frozen nodes start nothing and catch up with nothing.
	frozen map[string]bool
	steps  []string
}

func newSim(t *testing.T, shards uint32) *sim {
	t.Helper()
	s := &sim{
		t: t, state: fsm.New(), down: make(map[string]time.Duration), groups: make(map[GroupID]*Group),
		mute: make(map[GroupID]bool), frozen: make(map[string]bool), level: 1,
	}
	s.apply(&metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
		ClusterId: "C", ClusterName: "c", Shards: shards,
	}}})
	return s
}

// boot begins a cluster on n1 and lets the other nodes join.
func boot(t *testing.T, shards uint32, nodes ...string) *sim {
	t.Helper()
	s := newSim(t, shards)
	for _, n := range nodes {
		s.join(n)
	}
	s.settle()
	return s
}

func (s *sim) view() *fsm.View { return s.state.View() }

func (s *sim) apply(cmd *metav1.Command) {
	s.t.Helper()
	s.index++
	res, err := s.state.Apply(s.index, cmd)
	require.NoError(s.t, err)
	require.Nil(s.t, res.GetRejection(), "%v", cmd)
	require.NoError(s.t, s.view().Check())
}

// join registers a node, "n1" or "n1:zone"; again is a new incarnation without its old files.
func (s *sim) join(node string) {
	s.t.Helper()
	id, zone, _ := strings.Cut(node, ":")
	life := 1
	if n, ok := s.view().Node(id); ok {
		_, err := fmt.Sscanf(n.Incarnation, "life%d", &life)
		require.NoError(s.t, err)
		life++
	}
	meta := fmt.Sprintf("%s/meta%d", id, life)
	s.apply(&metav1.Command{Command: &metav1.Command_RegisterNode{RegisterNode: &metav1.RegisterNode{
		NodeId: id, Incarnation: fmt.Sprintf("life%d", life), MetadataReplicaId: meta, Zone: zone,
		RaftAddr: id + ":7000", FeatureLevel: s.level,
	}}})
	delete(s.down, id)
	if s.groups[Metadata] == nil {
		s.groups[Metadata] = &Group{Leader: meta, Index: 1, Servers: []Server{{ReplicaID: meta, Voter: true}}, LedFor: time.Hour}
	}
}

func (s *sim) setState(node string, state metav1.NodeState) {
	s.t.Helper()
	s.apply(&metav1.Command{Command: &metav1.Command_SetNodeState{SetNodeState: &metav1.SetNodeState{NodeId: node, State: state}}})
}

func (s *sim) kill(node string) { s.down[node] = time.Second }

// live reports whether a replica runs: its node is up and its files are those of the node's present life.
func (s *sim) live(id GroupID, replicaID string) bool {
	n, ok := s.view().Node(fsm.NodeOf(replicaID))
	if _, down := s.down[fsm.NodeOf(replicaID)]; down {
		return false
	}
	if id == Metadata {
		return !ok || n.MetadataReplicaID == replicaID
	}
	shard, _ := s.view().Shard(uint32(id))
	r, wished := shard.Replica(replicaID)
	return !wished || isStarted(r)
}

func (s *sim) hasMajority(id GroupID) bool {
	live := 0
	voters := s.groups[id].voters()
	for _, v := range voters {
		if s.live(id, v.ReplicaID) {
			live++
		}
	}
	return live > len(voters)/2
}

// tick lets nodes start their replicas, groups elect, and non-voters catch up.
func (s *sim) tick() {
	s.t.Helper()
	for _, sh := range s.view().Shards() {
		for _, r := range sh.Replicas {
			_, down := s.down[r.GetNodeId()]
			if down || s.frozen[r.GetNodeId()] || r.GetState() != metav1.ReplicaState_REPLICA_STATE_NEW {
				continue
			}
			if sh.Initial != "" && sh.Initial != r.GetReplicaId() {
				continue
			}
			s.apply(&metav1.Command{Command: &metav1.Command_NoteReplica{NoteReplica: &metav1.NoteReplica{
				Shard: sh.Number, ReplicaId: r.GetReplicaId(), State: metav1.ReplicaState_REPLICA_STATE_STARTED,
			}}})
			if sh.Initial == r.GetReplicaId() {
				s.groups[GroupID(sh.Number)] = &Group{
					Leader: r.GetReplicaId(), Index: 1, LedFor: time.Hour,
					Servers: []Server{{ReplicaID: r.GetReplicaId(), Voter: true}},
				}
			}
		}
	}
	for id, g := range s.groups {
		for i := range g.Servers {
			v := &g.Servers[i]
			v.Answers = s.live(id, v.ReplicaID)
			v.CaughtUp = !v.Voter && s.live(id, v.ReplicaID) && !s.frozen[fsm.NodeOf(v.ReplicaID)]
		}
		if !s.live(id, g.Leader) {
			g.Leader = ""
		}
		for _, v := range g.voters() {
			if g.Leader == "" && s.hasMajority(id) && s.live(id, v.ReplicaID) {
				g.Leader = v.ReplicaID
			}
		}
	}
}

func (s *sim) observe() *Observation {
	o := &Observation{
		Alive: make(map[string]bool), DeadFor: make(map[string]time.Duration), Groups: make(map[GroupID]*Group),
		ReplaceAfter: 10 * time.Minute,
		NewReplicaID: func(nodeID string) string { s.minted++; return fmt.Sprintf("%s/r%03d", nodeID, s.minted) },
	}
	for _, n := range s.view().Nodes() {
		if d, ok := s.down[n.ID]; ok {
			o.DeadFor[n.ID] = d
		} else {
			o.Alive[n.ID] = true
		}
	}
	for id, g := range s.groups {
		if g.Leader != "" && !s.mute[id] && s.hasMajority(id) {
			c := *g
			c.Servers = slices.Clone(g.Servers)
			o.Groups[id] = &c
		}
	}
	return o
}

// step plans once and takes all steps; it reports whether there were any.
func (s *sim) step() bool {
	s.t.Helper()
	s.tick()
	actions := Plan(s.view(), s.observe())
	changed := make(map[GroupID]bool)
	for _, a := range actions {
		s.steps = append(s.steps, a.String())
		switch a := a.(type) {
		case *Propose:
			s.apply(a.Command)
		case *ChangeMembership:
			require.False(s.t, changed[a.Group], "two changes of %s at once", a.Group)
			changed[a.Group] = true
			s.change(a)
		case *Transfer:
			g := s.groups[a.Group]
			require.Equal(s.t, g.Leader, a.Leader)
			v, ok := g.server(a.To)
			require.True(s.t, ok && v.Voter && s.live(a.Group, a.To), "%s", a)
			g.Leader = a.To
		}
	}
	return len(actions) > 0
}

func (s *sim) change(a *ChangeMembership) {
	s.t.Helper()
	g := s.groups[a.Group]
	require.Equal(s.t, g.Index, a.Index)
	require.Equal(s.t, g.Leader, a.Leader)
	require.True(s.t, s.hasMajority(a.Group))
	i := slices.IndexFunc(g.Servers, func(v Server) bool { return v.ReplicaID == a.ReplicaID })
	switch a.Change {
	case nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER:
		require.Negative(s.t, i)
		require.True(s.t, s.live(a.Group, a.ReplicaID), "%s: nobody is there", a)
		g.Servers = append(g.Servers, Server{ReplicaID: a.ReplicaID})
	case nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE:
		require.True(s.t, g.Servers[i].CaughtUp, "%s: not caught up", a)
		g.Servers[i].Voter = true
	case nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE:
		require.NotEqual(s.t, g.Leader, a.ReplicaID, "a leader hands over first")
		g.Servers = slices.Delete(g.Servers, i, i+1)
	default:
		require.Fail(s.t, "unknown change")
	}
	g.Index++
	require.True(s.t, s.hasMajority(a.Group), "%s took the majority away", a)
}

// settle steps until nothing is to be done, and returns the steps.
func (s *sim) settle() []string {
	s.t.Helper()
	s.steps = nil
	for range 500 {
		s.tick()
		before := s.index
		if !s.step() && s.index == before {
			s.tick()
			if !s.step() {
				return s.steps
			}
		}
	}
	require.Fail(s.t, "it never ends", "%s", strings.Join(s.steps[len(s.steps)-20:], "\n"))
	return nil
}

// voters returns the nodes that vote in a group, sorted.
func (s *sim) voters(id GroupID) []string {
	var nodes []string
	for _, v := range s.groups[id].voters() {
		nodes = append(nodes, fsm.NodeOf(v.ReplicaID))
	}
	slices.Sort(nodes)
	return nodes
}

// nonVoters counts those of the metadata group.
func (s *sim) nonVoters() int {
	g := s.groups[Metadata]
	return len(g.Servers) - len(g.voters())
}

// replicas counts the voters of shards on each node, leads the shards that it leads.
func (s *sim) counts() (replicas, leads map[string]int) {
	replicas, leads = make(map[string]int), make(map[string]int)
	for _, sh := range s.view().Shards() {
		for _, n := range s.voters(GroupID(sh.Number)) {
			replicas[n]++
		}
		leads[fsm.NodeOf(s.groups[GroupID(sh.Number)].Leader)]++
	}
	return replicas, leads
}

// requireWhole holds that wish and truth are the same in every shard, with so many voters.
func (s *sim) requireWhole(replicas int) {
	s.t.Helper()
	for _, sh := range s.view().Shards() {
		g := s.groups[GroupID(sh.Number)]
		require.Len(s.t, sh.Replicas, replicas, "shard %d", sh.Number)
		require.Len(s.t, g.voters(), replicas, "shard %d", sh.Number)
		require.Len(s.t, g.Servers, replicas, "shard %d", sh.Number)
		for _, r := range sh.Replicas {
			v, ok := g.server(r.GetReplicaId())
			require.True(s.t, ok && v.Voter, "shard %d: %s", sh.Number, r.GetReplicaId())
		}
	}
}

package controller

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

const (
	draining        = metav1.NodeState_NODE_STATE_DRAINING
	decommissioning = metav1.NodeState_NODE_STATE_DECOMMISSIONING
	active          = metav1.NodeState_NODE_STATE_ACTIVE
)

func TestBootstrap(t *testing.T) {
	for _, tc := range []struct {
		nodes    []string
		voters   []string
		replicas int
		leads    map[string]int
	}{
		{[]string{"n1"}, []string{"n1"}, 1, map[string]int{"n1": 6}},
		{[]string{"n1", "n2"}, []string{"n1"}, 2, map[string]int{"n1": 3, "n2": 3}},
		{[]string{"n1", "n2", "n3"}, []string{"n1", "n2", "n3"}, 3, map[string]int{"n1": 2, "n2": 2, "n3": 2}},
		{[]string{"n1", "n2", "n3", "n4", "n5", "n6"}, []string{"n1", "n2", "n3", "n4", "n5"}, 3, nil},
	} {
		t.Run(fmt.Sprint(len(tc.nodes)), func(t *testing.T) {
			s := boot(t, 6, tc.nodes...)
			require.Len(t, s.view().Shards(), 6)
			s.requireWhole(tc.replicas)
			require.Equal(t, tc.voters, s.voters(Metadata))
			require.Equal(t, len(tc.nodes)-len(tc.voters), s.nonVoters())
			replicas, leads := s.counts()
			for _, n := range tc.nodes {
				require.InDelta(t, 6*tc.replicas/len(tc.nodes), replicas[n], 1)
			}
			if tc.leads != nil {
				require.Equal(t, tc.leads, leads)
			}
			require.Empty(t, s.settle(), "nothing more to do")
		})
	}
}

func TestFirstSteps(t *testing.T) {
	s := newSim(t, 2)
	require.Empty(t, Plan(fsm.New().View(), &Observation{}), "no cluster yet")
	require.Empty(t, Plan(s.view(), s.observe()), "no node yet")
	s.join("n1")
	s.join("n2")
	s.step()
	require.Equal(t, []string{
		"metadata: add n2/meta1", "create shard 0 on n1/r001", "create shard 1 on n2/r002",
	}, s.steps)
	s.steps = nil
	s.step()
	require.Equal(t, []string{"wish shard 0 on n1/r001 n2/r003", "wish shard 1 on n2/r002 n1/r004"}, s.steps)
	s.steps = nil
	s.step()
	require.Equal(t, []string{"shard 0: add n2/r003", "shard 1: add n1/r004"}, s.steps)
	s.steps = nil
	s.step()
	require.Equal(t, []string{"shard 0: promote n2/r003", "shard 1: promote n1/r004"}, s.steps)
	require.Empty(t, s.settle())
}

func TestGrowth(t *testing.T) {
	s := boot(t, 6, "n1")
	s.join("n2")
	s.join("n3")
	s.settle()
	s.requireWhole(3)
	require.Equal(t, []string{"n1", "n2", "n3"}, s.voters(Metadata))
	_, leads := s.counts()
	require.Equal(t, map[string]int{"n1": 2, "n2": 2, "n3": 2}, leads)

	s.join("n4")
	s.settle()
	s.requireWhole(3)
	require.Equal(t, []string{"n1", "n2", "n3"}, s.voters(Metadata))
	require.Equal(t, 1, s.nonVoters())
	replicas, leads := s.counts()
	for n, c := range replicas {
		require.InDelta(t, 4.5, c, 1, n)
	}
	require.Len(t, replicas, 4)
	for n, c := range leads {
		require.InDelta(t, 1.5, c, 1, n)
	}
	s.join("n5")
	s.settle()
	require.Len(t, s.voters(Metadata), 5)
}

// TestShardWhoseBeginnerIsGone: nothing was written, so another one may begin it.
func TestShardWhoseBeginnerIsGone(t *testing.T) {
	for name, gone := range map[string]func(s *sim){
		"dead":            func(s *sim) { s.down["n2"] = unstartedAfter },
		"new incarnation": func(s *sim) { s.join("n2"); s.frozen["n2"] = true; s.setState("n2", draining) },
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, 2)
			s.join("n1")
			s.join("n2")
			s.frozen["n2"] = true
			s.step()
			sh, _ := s.view().Shard(1)
			require.Equal(t, "n2/r002", sh.Initial)
			s.steps = nil
			s.step()
			require.NotContains(t, s.steps, "create shard 1 on n1/r003")
			gone(s)
			s.settle()
			sh, _ = s.view().Shard(1)
			require.Empty(t, sh.Initial)
			require.Contains(t, s.voters(1), "n1")
		})
	}
}

func TestLostReplica(t *testing.T) {
	s := boot(t, 1, "n1", "n2", "n3")
	s.join("n2") // with an empty data directory
	steps := s.settle()
	require.Equal(t, []string{
		"metadata: add n2/meta2", "wish shard 0 on n1/r001 n2/r002 n3/r003 n2/r004",
		"metadata: promote n2/meta2", "shard 0: add n2/r004",
		"metadata: remove n2/meta1", "shard 0: promote n2/r004",
		"wish shard 0 on n1/r001 n3/r003 n2/r004",
		"shard 0: remove n2/r002",
	}, steps)
	s.requireWhole(3)
	require.Equal(t, []string{"n1", "n2", "n3"}, s.voters(Metadata))
}

// TestTwoLostOneAfterTheOther: two nodes lose their directories, each is healed before the next.
func TestTwoLostOneAfterTheOther(t *testing.T) {
	s := boot(t, 6, "n1", "n2", "n3")
	for _, n := range []string{"n2", "n3", "n1"} {
		s.join(n)
		s.settle()
		s.requireWhole(3)
		require.Len(t, s.voters(Metadata), 3)
		require.Zero(t, s.nonVoters())
	}
}

// TestLostNeverStarted: a replica that never counted goes at once.
func TestLostNeverStarted(t *testing.T) {
	s := boot(t, 1, "n1", "n2", "n3")
	s.join("n4")
	s.frozen["n4"] = true
	s.settle()
	require.Empty(t, s.steps[min(1, len(s.steps)):], "one shard is not moved to even out")
	sh, _ := s.view().Shard(0)
	wish := append([]*metav1.Replica{{ReplicaId: "n4/x", NodeId: "n4"}}, sh.Replicas...)
	s.apply(&metav1.Command{Command: &metav1.Command_SetShardReplicas{
		SetShardReplicas: &metav1.SetShardReplicas{Shard: 0, Replicas: wish, Version: sh.Version},
	}})
	s.join("n4")
	steps := s.settle()
	require.Contains(t, steps, "wish shard 0 on n1/r001 n2/r002 n3/r003")
	s.requireWhole(3)
}

func TestDeadNode(t *testing.T) {
	for _, tc := range []struct {
		name    string
		nodes   []string
		away    time.Duration
		replace bool
	}{
		{"not for long, with a spare", []string{"n1", "n2", "n3", "n4"}, 9 * time.Minute, false},
		{"for long, with a spare", []string{"n1", "n2", "n3", "n4"}, 10 * time.Minute, true},
		{"for long, without a spare", []string{"n1", "n2", "n3"}, time.Hour, false},
		{"one of two, for long", []string{"n1", "n2"}, time.Hour, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := boot(t, 6, tc.nodes...)
			before, _ := s.counts()
			s.kill("n2")
			s.settle()
			require.Equal(t, countsOf(s), before, "nothing moves at once")
			s.down["n2"] = tc.away
			s.settle()
			after := countsOf(s)
			if !tc.replace {
				require.Equal(t, before, after)
				return
			}
			s.requireWhole(3)
			require.Zero(t, after["n2"])
			require.Equal(t, []string{"n1", "n3", "n4"}, s.voters(Metadata))

			delete(s.down, "n2") // It comes back: a spare by now, and gets its share.
			s.settle()
			s.requireWhole(3)
			require.InDelta(t, 4.5, countsOf(s)["n2"], 1)
			require.Len(t, s.voters(Metadata), 3)
		})
	}
}

func countsOf(s *sim) map[string]int {
	replicas, _ := s.counts()
	return replicas
}

// TestDeadNodeComesBackInTheMiddle: both the old replica and the new one are there, one too many.
func TestDeadNodeComesBackInTheMiddle(t *testing.T) {
	s := boot(t, 1, "n1", "n2", "n3", "n4")
	dead := s.voters(0)[1]
	s.down[dead] = 10 * time.Minute
	for range 100 {
		if len(s.voters(0)) == 4 {
			break
		}
		s.step()
	}
	require.Len(t, s.voters(0), 4)
	delete(s.down, dead)
	s.settle()
	s.requireWhole(3)
}

func TestDrain(t *testing.T) {
	s := boot(t, 6, "n1", "n2", "n3", "n4")
	s.setState("n1", draining)
	s.settle()
	s.requireWhole(3)
	replicas, leads := s.counts()
	require.Zero(t, replicas["n1"])
	require.Zero(t, leads["n1"])
	require.Equal(t, []string{"n2", "n3", "n4"}, s.voters(Metadata))
	require.Equal(t, 1, s.nonVoters(), "a drained node still knows the metadata")
	_, ok := s.view().Node("n1")
	require.True(t, ok)

	s.setState("n1", active)
	s.settle()
	s.requireWhole(3)
	require.InDelta(t, 4.5, countsOf(s)["n1"], 1)
}

// TestDrainGivesLeadershipsFirst holds that leaderships leave before any replica does.
func TestDrainGivesLeadershipsFirst(t *testing.T) {
	s := boot(t, 3, "n1", "n2", "n3", "n4")
	s.frozen["n4"] = true
	for n := range 4 {
		s.setState("n1", draining)
		if _, leads := s.counts(); leads["n1"] == 0 {
			require.Positive(t, n)
			return
		}
		s.step()
	}
	_, leads := s.counts()
	require.Zero(t, leads["n1"])
}

func TestDecommission(t *testing.T) {
	for name, dead := range map[string]bool{"alive": false, "dead": true} {
		t.Run(name, func(t *testing.T) {
			s := boot(t, 6, "n1", "n2", "n3", "n4")
			if dead {
				s.down["n1"] = time.Minute
				s.settle()
			}
			s.setState("n1", decommissioning)
			steps := s.settle()
			require.Contains(t, steps, "remove node n1")
			_, ok := s.view().Node("n1")
			require.False(t, ok)
			s.requireWhole(3)
			require.Equal(t, []string{"n2", "n3", "n4"}, s.voters(Metadata))
			require.Zero(t, s.nonVoters())
			require.NotContains(t, countsOf(s), "n1")
		})
	}
}

// TestRemovedNodeLearnsIt holds that a node that was removed gets the entry that says so before it is cut off.
func TestRemovedNodeLearnsIt(t *testing.T) {
	s := boot(t, 1, "n1", "n2", "n3", "n4")
	s.setState("n4", decommissioning)
	s.settle()
	_, ok := s.groups[Metadata].server("n4/meta1")
	require.False(t, ok)

	s = boot(t, 1, "n1", "n2", "n3", "n4")
	s.setState("n4", decommissioning)
	for range 100 {
		if _, ok := s.view().Node("n4"); !ok {
			break
		}
		s.step()
	}
	s.frozen["n4"] = true
	s.settle()
	_, ok = s.groups[Metadata].server("n4/meta1")
	require.True(t, ok, "it has not applied its removal yet")
}

// TestNothingShrinks: without a spare a drained node keeps its replicas, whatever it was told.
func TestNothingShrinks(t *testing.T) {
	s := boot(t, 6, "n1", "n2", "n3")
	s.setState("n1", draining)
	s.settle()
	s.requireWhole(3)
	require.Len(t, s.voters(Metadata), 3)
	_, leads := s.counts()
	require.Zero(t, leads["n1"], "leaderships it can give away")
}

// TestUnknownGroupIsLeftAlone holds that nothing is done to a group whose leader does not answer.
func TestUnknownGroupIsLeftAlone(t *testing.T) {
	s := boot(t, 2, "n1", "n2", "n3", "n4")
	s.mute[0], s.mute[Metadata] = true, true
	s.join("n2")
	s.join("n5")
	s.setState("n3", decommissioning)
	for _, step := range s.settle() {
		require.NotContains(t, step, "shard 0")
		require.NotContains(t, step, "metadata")
		require.NotContains(t, step, "remove node")
	}
	clear(s.mute)
	s.settle()
	s.requireWhole(3)
}

// TestLastOneStanding holds that no voter is removed when the rest could not decide.
// last-one-standing: no voter is taken away unless a majority of those that are left lives.
func TestLastOneStanding(t *testing.T) {
	o := &Observation{Alive: map[string]bool{"a": true, "b": true}, Groups: map[GroupID]*Group{}}
	g := &Group{Leader: "a/1", Servers: []Server{{ReplicaID: "a/1", Voter: true}, {ReplicaID: "b/1", Voter: true}, {ReplicaID: "c/1", Voter: true}, {ReplicaID: "d/1", Voter: true}}}
	alive := func(id string) bool { return o.Alive[fsm.NodeOf(id)] }
	require.True(t, g.majorityWithout("c/1", alive))
	require.False(t, g.majorityWithout("b/1", alive))
	require.False(t, (&Group{Servers: []Server{{ReplicaID: "a/1", Voter: true}}}).majorityWithout("a/1", alive), "the last one stays")
}

func TestZones(t *testing.T) {
	s := boot(t, 6, "n1:a", "n2:a", "n3:b", "n4:b", "n5:c")
	s.settle()
	s.requireWhole(3)
	for _, sh := range s.view().Shards() {
		zones := make(map[string]bool)
		for _, r := range sh.Replicas {
			n, _ := s.view().Node(r.GetNodeId())
			zones[n.Zone] = true
		}
		require.Len(t, zones, 3, "shard %d", sh.Number)
	}
}

// TestZoneComesLater: replicas spread over a zone that is there only later.
func TestZoneComesLater(t *testing.T) {
	s := boot(t, 4, "n1:a", "n2:a", "n3:b")
	s.join("n4:c")
	s.settle()
	s.requireWhole(3)
	for _, sh := range s.view().Shards() {
		require.Contains(t, s.voters(GroupID(sh.Number)), "n4")
		require.Contains(t, s.voters(GroupID(sh.Number)), "n3")
	}
}

func TestLeaderSpreadHasHysteresis(t *testing.T) {
	lead := func(s *sim, nodes ...string) {
		for i, n := range nodes {
			g := s.groups[GroupID(i)]
			for _, v := range g.voters() {
				if fsm.NodeOf(v.ReplicaID) == n {
					g.Leader = v.ReplicaID
				}
			}
		}
	}
	s := boot(t, 4, "n1", "n2", "n3")
	lead(s, "n1", "n1", "n2", "n3")
	require.Empty(t, s.settle(), "a gap of one stays")

	lead(s, "n1", "n1", "n1", "n2")
	s.groups[0].LedFor = time.Second
	s.groups[1].LedFor = time.Minute
	s.groups[2].LedFor = time.Second
	require.Equal(t, []string{"shard 1: transfer from " + replicaOn(s, 1, "n1") + " to " + replicaOn(s, 1, "n3")}, s.settle(),
		"the one that was led for longest")

	lead(s, "n1", "n1", "n1", "n1")
	for i := range GroupID(4) {
		s.groups[i].LedFor = time.Second
	}
	require.Empty(t, s.settle(), "new leaders are left alone")
}

func replicaOn(s *sim, id GroupID, node string) string {
	for _, v := range s.groups[id].Servers {
		if fsm.NodeOf(v.ReplicaID) == node {
			return v.ReplicaID
		}
	}
	return ""
}

func TestCheckDrain(t *testing.T) {
	check := func(s *sim, node string, dead ...string) error {
		return CheckDrain(s.view(), node, func(id string) bool { return !slices.Contains(dead, id) })
	}
	reason := func(err error) streamhousev1.ErrorReason {
		var r *fsm.Rejection
		require.ErrorAs(t, err, &r)
		return r.Reason
	}
	cannot := streamhousev1.ErrorReason_ERROR_REASON_CANNOT_PLACE_REPLICAS
	one, two, three := boot(t, 2, "n1"), boot(t, 2, "n1", "n2"), boot(t, 2, "n1", "n2", "n3")
	four := boot(t, 2, "n1", "n2", "n3", "n4")
	require.Equal(t, streamhousev1.ErrorReason_ERROR_REASON_NODE_NOT_FOUND, reason(check(one, "n9")))
	require.Equal(t, cannot, reason(check(one, "n1")))
	require.Equal(t, cannot, reason(check(two, "n2")))
	require.Equal(t, cannot, reason(check(three, "n3")))
	require.NoError(t, check(four, "n4"))
	require.NoError(t, CheckDrain(four.view(), "n4", nil))
	require.Equal(t, cannot, reason(check(four, "n4", "n1")), "a node that is away can take nothing")
	four.setState("n4", draining)
	require.NoError(t, check(four, "n4"), "again")
	require.Equal(t, cannot, reason(check(four, "n3")), "one at a time")
}

// TestAnythingSettles lets nodes come, go, die, forget and leave in any order.
// Each step is checked by sim; afterwards all is whole again.
func TestAnythingSettles(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s := boot(t, uint32(rapid.IntRange(1, 4).Draw(rt, "shards")), "n1", "n2:b", "n3")
		for range rapid.IntRange(1, 12).Draw(rt, "events") {
			node := fmt.Sprintf("n%d", rapid.IntRange(1, 5).Draw(rt, "node"))
			s.disturb(rapid.IntRange(0, 6).Draw(rt, "event"), node)
			for range rapid.IntRange(0, 6).Draw(rt, "steps") {
				s.step()
			}
		}
		clear(s.down)
		for _, n := range s.view().Nodes() {
			if n.State == draining {
				s.setState(n.ID, active)
			}
		}
		s.settle()
		want := min(wantedReplicas, len(s.view().Nodes()))
		s.requireWhole(want)
		require.Len(t, s.voters(Metadata), wantedVoters(len(s.view().Nodes())))
	})
}

// disturb does something to a node, unless it would cost a group its majority,
// which nothing here can mend.
func (s *sim) disturb(event int, node string) {
	s.t.Helper()
	_, known := s.view().Node(node)
	_, down := s.down[node]
	switch {
	case !known:
		s.join(node)
	case event == 0 && s.canLose(node):
		s.down[node] = time.Second
	case event == 1 && s.canLose(node):
		s.down[node] = time.Hour
	case event == 2:
		delete(s.down, node)
	case event == 3 && s.canLose(node) && len(s.down) == 0:
		s.join(node)
	case event == 4 && !down && CheckDrain(s.view(), node, func(id string) bool { _, d := s.down[id]; return !d }) == nil:
		s.setState(node, draining)
	case event == 5:
		s.setState(node, active)
	case event == 6 && CheckDrain(s.view(), node, func(id string) bool { _, d := s.down[id]; return !d }) == nil:
		s.setState(node, decommissioning)
	}
}

// canLose reports whether every group has a majority without the node.
func (s *sim) canLose(node string) bool {
	for id, g := range s.groups {
		live := 0
		for _, v := range g.voters() {
			if fsm.NodeOf(v.ReplicaID) != node && s.live(id, v.ReplicaID) {
				live++
			}
		}
		if live <= len(g.voters())/2 {
			return false
		}
	}
	for _, sh := range s.view().Shards() {
		if sh.Initial != "" {
			return false
		}
	}
	return true
}

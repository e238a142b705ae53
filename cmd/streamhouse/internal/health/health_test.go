package health_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/health"
)

// cluster has nodes n1 to n3, which all vote everywhere, and two shards of which all is applied up to entry 10.
func cluster(change ...func(*client.Cluster)) client.Cluster {
	c := client.Cluster{MetadataLeader: "n1"}
	for i := range 3 {
		c.Nodes = append(c.Nodes, client.Node{ID: fmt.Sprintf("n%d", i+1), Alive: true, MetadataRole: "voter"})
	}
	for s := range 2 {
		sh := client.Shard{Number: uint32(s), Leader: "n1", CommitIndex: 10, UploadBacklogBytes: 100}
		for _, n := range c.Nodes {
			sh.Replicas = append(sh.Replicas, client.Replica{ID: n.ID + "/x", Node: n.ID, Role: "voter", AppliedIndex: 10})
		}
		c.Shards = append(c.Shards, sh)
	}
	for _, fn := range change {
		fn(&c)
	}
	return c
}

// dead makes a node one that neither gossips nor answers.
func dead(i int) func(*client.Cluster) {
	return func(c *client.Cluster) {
		c.Nodes[i].Alive = false
		for s := range c.Shards {
			c.Shards[s].Replicas[i].AppliedIndex = 0
		}
	}
}

func applied(shard, i int, index uint64) func(*client.Cluster) {
	return func(c *client.Cluster) { c.Shards[shard].Replicas[i].AppliedIndex = index }
}

func leader(shard int, node string) func(*client.Cluster) {
	return func(c *client.Cluster) { c.Shards[shard].Leader = node }
}

func metadataLeader(node string) func(*client.Cluster) {
	return func(c *client.Cluster) { c.MetadataLeader = node }
}

func role(shard, i int, r string) func(*client.Cluster) {
	return func(c *client.Cluster) { c.Shards[shard].Replicas[i].Role = r }
}

// only keeps the first nodes and their replicas.
func only(n int) func(*client.Cluster) {
	return func(c *client.Cluster) {
		c.Nodes = c.Nodes[:n]
		for s := range c.Shards {
			c.Shards[s].Replicas = c.Shards[s].Replicas[:n]
		}
	}
}

func TestAssess(t *testing.T) {
	all, second := health.Loss{Metadata: true, Shards: []uint32{0, 1}}, health.Loss{Shards: []uint32{1}}
	for name, tc := range map[string]struct {
		cluster client.Cluster
		state   health.State
		mayStop int
		without []uint32 // leader
		behind  []string
		stops   map[string]health.Loss
	}{
		"all is well": {cluster(), health.OK, 1, nil, nil, nil},
		"one is dead": {
			cluster(dead(2)), health.Degraded, 0, nil,
			[]string{"0/n3 false", "1/n3 false"},
			map[string]health.Loss{"n1": all, "n2": all},
		},
		"one is behind in a shard": {
			cluster(applied(1, 2, 7)), health.Degraded, 1, nil,
			[]string{"1/n3 true"},
			map[string]health.Loss{"n1": second, "n2": second},
		},
		"the leader does not answer": {
			cluster(applied(1, 0, 0)), health.Degraded, 1, nil,
			[]string{"1/n1 false"},
			map[string]health.Loss{"n2": second, "n3": second},
		},
		"two are behind, so the rest of that shard hangs on all": {
			cluster(applied(1, 1, 7), applied(1, 2, 7)), health.Degraded, 1, nil,
			[]string{"1/n2 true", "1/n3 true"},
			map[string]health.Loss{"n1": second, "n2": second, "n3": second},
		},
		"a shard without a leader can't be lost": {
			cluster(dead(2), leader(0, "")), health.Unavailable, 0,
			[]uint32{0},
			[]string{"0/n3 false", "1/n3 false"},
			map[string]health.Loss{"n1": {Metadata: true, Shards: []uint32{1}}, "n2": {Metadata: true, Shards: []uint32{1}}},
		},
		"no majority": {
			cluster(dead(1), dead(2), leader(0, ""), leader(1, ""), metadataLeader("")), health.Unavailable, 0,
			[]uint32{0, 1},
			[]string{"0/n2 false", "0/n3 false", "1/n2 false", "1/n3 false"},
			nil,
		},
		"one node":  {cluster(only(1)), health.OK, 0, nil, nil, map[string]health.Loss{"n1": all}},
		"two nodes": {cluster(only(2)), health.OK, 0, nil, nil, map[string]health.Loss{"n1": all, "n2": all}},
		"a non-voter counts for nothing": {
			cluster(role(1, 2, "non-voter"), applied(1, 2, 3)), health.Degraded, 1, nil,
			[]string{"1/n3 true"},
			map[string]health.Loss{"n1": second, "n2": second},
		},
		"a wished replica is behind": {
			cluster(role(1, 2, "wished"), applied(1, 2, 0)), health.Degraded, 1, nil,
			[]string{"1/n3 false"},
			map[string]health.Loss{"n1": second, "n2": second},
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := health.Assess(tc.cluster, health.CommitsOf(tc.cluster))
			require.Equal(t, tc.state, r.State)
			require.Equal(t, tc.mayStop, r.Metadata.MayStop())
			require.Equal(t, tc.without, r.Leaderless)
			require.EqualValues(t, 200, r.UploadBacklogBytes)
			var behind []string
			for _, b := range r.Behind {
				behind = append(behind, fmt.Sprintf("%d/%s %v", b.Shard, b.Node, b.Answers()))
			}
			require.Equal(t, tc.behind, behind)
			for _, n := range tc.cluster.Nodes {
				require.Equal(t, tc.stops[n.ID], r.Stops[n.ID], n.ID)
				_, some := tc.stops[n.ID]
				require.Equal(t, !some, r.Stops[n.ID].None())
			}
		})
	}
}

// Replicas are always a little behind a leader that is written to: what counts is what was committed a while ago.
func TestAssessLooksAtWhatWasCommittedBefore(t *testing.T) {
	first := health.CommitsOf(cluster())
	second := cluster(func(c *client.Cluster) { c.Shards[0].CommitIndex = 25 }, applied(0, 0, 25), applied(0, 1, 20))
	require.Equal(t, health.OK, health.Assess(second, first).State)
	require.Equal(t, health.Degraded, health.Assess(second, health.CommitsOf(second)).State)
}

func TestMetadataGroup(t *testing.T) {
	c := cluster(func(c *client.Cluster) { c.Nodes[2].MetadataRole = "non-voter" })
	r := health.Assess(c, health.CommitsOf(c))
	require.Equal(t, health.Metadata{Leader: "n1", Voters: 2, Alive: 2, Quorum: 2}, r.Metadata)
	require.True(t, r.Stops["n1"].Metadata)
	require.False(t, r.Stops["n3"].Metadata)
}

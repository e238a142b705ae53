package node

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/cluster/gossip"
)

func TestDecide(t *testing.T) {
	fresh := func(id string, expect int) gossip.Member {
		return gossip.Member{NodeID: id, Fresh: true, BootstrapExpect: expect}
	}
	of := func(id, cluster string) gossip.Member { return gossip.Member{NodeID: id, ClusterID: cluster} }
	leaving := of("n9", "c")
	leaving.Leaving = true
	for name, tc := range map[string]struct {
		self     string
		founding bool
		expect   int
		members  []gossip.Member
		want     step
		cluster  string
		waits    string
	}{
		"alone, one expected":           {"n1", false, 1, []gossip.Member{fresh("n1", 1)}, stepFound, "", ""},
		"alone, three expected":         {"n1", false, 3, []gossip.Member{fresh("n1", 3)}, stepWait, "", "3 fresh nodes"},
		"lowest of three":               {"n1", false, 3, []gossip.Member{fresh("n1", 3), fresh("n2", 3), fresh("n3", 3)}, stepFound, "", ""},
		"not the lowest":                {"n2", false, 3, []gossip.Member{fresh("n1", 3), fresh("n2", 3), fresh("n3", 3)}, stepWait, "", "node n1"},
		"not the lowest, but begun":     {"n2", true, 3, []gossip.Member{fresh("n1", 3), fresh("n2", 3), fresh("n3", 3)}, stepFound, "", ""},
		"begun, and a cluster is there": {"n2", true, 3, []gossip.Member{fresh("n2", 3), of("n3", "c")}, stepJoin, "c", ""},
		"one id twice counts once":      {"n1", false, 3, []gossip.Member{fresh("n1", 3), fresh("n2", 3), fresh("n2", 3)}, stepWait, "", "2 are seen"},
		"joiners are not counted":       {"n1", false, 2, []gossip.Member{fresh("n1", 2), fresh("n2", 0)}, stepWait, "", "1 are seen"},
		"only joins":                    {"n1", false, 0, []gossip.Member{fresh("n1", 0), fresh("n2", 3)}, stepWait, "", "--join"},
		"a cluster goes before all":     {"n1", false, 2, []gossip.Member{fresh("n1", 2), fresh("n2", 2), of("n3", "c")}, stepJoin, "c", ""},
		"one that leaves does not help": {"n1", false, 0, []gossip.Member{fresh("n1", 0), leaving}, stepWait, "", "--join"},
	} {
		t.Run(name, func(t *testing.T) {
			got, cluster, waits := decide(tc.self, tc.founding, tc.expect, tc.members)
			require.Equal(t, tc.want, got)
			require.Equal(t, tc.cluster, cluster)
			require.Contains(t, waits, tc.waits)
		})
	}
}

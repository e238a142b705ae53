package replica

import (
	"testing"

	"github.com/stretchr/testify/require"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

func TestCarriesWithout(t *testing.T) {
	servers := func(voters string, others string) (s []*nodev1.Server) {
		for _, id := range voters {
			s = append(s, &nodev1.Server{ReplicaId: string(id), Voter: true})
		}
		for _, id := range others {
			s = append(s, &nodev1.Server{ReplicaId: string(id)})
		}
		return s
	}
	leads := func(id string, term, commit uint64, s []*nodev1.Server) *nodev1.GetReplicaResponse {
		return &nodev1.GetReplicaResponse{ReplicaId: id, LeaderReplicaId: id, Term: term, CommitIndex: commit, LastIndex: commit + 1, Servers: s}
	}
	follows := func(id, leader string, term, last uint64) *nodev1.GetReplicaResponse {
		return &nodev1.GetReplicaResponse{ReplicaId: id, LeaderReplicaId: leader, Term: term, LastIndex: last}
	}
	type answers []*nodev1.GetReplicaResponse
	abc := servers("abc", "")
	for name, c := range map[string]struct {
		answers answers
		carries bool
	}{
		"both others have all":                  {answers{leads("b", 3, 10, abc), follows("c", "b", 3, 10)}, true},
		"it leads itself":                       {answers{leads("a", 3, 10, abc), follows("b", "a", 3, 10), follows("c", "a", 3, 11)}, true},
		"nobody answers":                        {nil, false},
		"no leader":                             {answers{follows("b", "", 3, 10), follows("c", "", 3, 10)}, false},
		"one is down":                           {answers{leads("b", 3, 10, abc)}, false},
		"one is behind":                         {answers{leads("b", 3, 10, abc), follows("c", "b", 3, 9)}, false},
		"one follows nobody":                    {answers{leads("b", 3, 10, abc), follows("c", "", 3, 10)}, false},
		"one is in a newer term":                {answers{leads("b", 3, 10, abc), follows("c", "b", 4, 10)}, false},
		"a leader that was deposed":             {answers{leads("b", 3, 10, abc), leads("c", 4, 20, abc)}, false},
		"it alone":                              {answers{leads("a", 3, 10, servers("a", ""))}, false},
		"one of two voters":                     {answers{leads("b", 3, 10, servers("ab", ""))}, false},
		"the other one has no vote yet":         {answers{leads("b", 3, 10, servers("ab", "c")), follows("c", "b", 3, 10)}, false},
		"it has no vote yet":                    {answers{leads("b", 3, 10, servers("bc", "a")), follows("c", "b", 3, 10)}, true},
		"a fourth voter, and one that is lost":  {answers{leads("b", 3, 10, servers("abcd", "")), follows("d", "b", 3, 10)}, false},
		"a fourth voter":                        {answers{leads("b", 3, 10, servers("abcd", "")), follows("c", "b", 3, 10), follows("d", "b", 3, 10)}, true},
		"an answer of what is in no answer yet": {answers{{}, leads("b", 3, 10, abc)}, false},
	} {
		t.Run(name, func(t *testing.T) {
			err := CarriesWithout(c.answers, "a")
			if c.carries {
				require.NoError(t, err)
				return
			}
			require.ErrorIs(t, err, ErrNeeded)
		})
	}
}

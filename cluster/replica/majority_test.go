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
		return &nodev1.GetReplicaResponse{ReplicaId: id, LeaderReplicaId: id, Term: term, CommitIndex: commit, LastIndex: commit + 1, Servers: s, ConfigurationCurrent: true}
	}
	replays := func(a *nodev1.GetReplicaResponse) *nodev1.GetReplicaResponse {
		a.ConfigurationCurrent = false
		return a
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
		"it is not known who is in it":          {answers{replays(leads("b", 3, 10, servers("b", ""))), follows("c", "b", 3, 10)}, false},
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

func TestWasRemoved(t *testing.T) {
	leads := func(id string, term uint64, current bool, servers ...string) *nodev1.GetReplicaResponse {
		a := &nodev1.GetReplicaResponse{ReplicaId: id, LeaderReplicaId: id, Term: term, ConfigurationCurrent: current}
		for _, s := range servers {
			a.Servers = append(a.Servers, &nodev1.Server{ReplicaId: s})
		}
		return a
	}
	type answers []*nodev1.GetReplicaResponse
	for name, c := range map[string]struct {
		answers answers
		removed bool
	}{
		"the leader has it not":         {answers{nil, leads("b", 2, true, "b", "c")}, true},
		"the leader has it":             {answers{leads("b", 2, true, "a", "b")}, false},
		"a leader that was deposed":     {answers{leads("b", 1, true, "b"), leads("c", 2, true, "a", "b", "c")}, false},
		"the newer leader has it not":   {answers{leads("c", 2, true, "b", "c"), leads("b", 1, true, "a", "b")}, true},
		"a leader that replays its log": {answers{leads("b", 2, false, "b")}, false},
		"one that knows nothing yet":    {answers{leads("b", 2, false)}, false},
		"it leads itself":               {answers{leads("a", 2, true, "b")}, false},
		"nobody answers":                {answers{nil, nil}, false},
		"one that follows has it not":   {answers{{ReplicaId: "b", LeaderReplicaId: "c", Term: 2, ConfigurationCurrent: true}}, false},
	} {
		t.Run(name, func(t *testing.T) { require.Equal(t, c.removed, WasRemoved(c.answers, "a")) })
	}
}

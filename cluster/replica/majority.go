package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

// ErrNeeded says that a group can't do without a replica: nothing of it may be deleted.
var ErrNeeded = errors.New("the group can't do without this replica")

// Ask asks for the replicas of a group that other nodes have, all at once. The answer of one that does not answer before ctx
// ends is nil.
func Ask(ctx context.Context, group *nodev1.Group, nodes []nodev1.NodeServiceClient) []*nodev1.GetReplicaResponse {
	answers := make([]*nodev1.GetReplicaResponse, len(nodes))
	var wg sync.WaitGroup
	for i, node := range nodes {
		wg.Go(func() {
			if res, err := node.GetReplica(ctx, &nodev1.GetReplicaRequest{Group: group}); err == nil {
				answers[i] = res
			}
		})
	}
	wg.Wait()
	return answers
}

// Leads reports whether an answer is that of a replica which takes itself for the leader of its group; nil is none.
func Leads(answer *nodev1.GetReplicaResponse) bool {
	return answer.GetReplicaId() != "" && answer.GetReplicaId() == answer.GetLeaderReplicaId()
}

// Leader returns the answer of the leader of the newest term, nil where none of them leads.
func Leader(answers []*nodev1.GetReplicaResponse) *nodev1.GetReplicaResponse {
	var leader *nodev1.GetReplicaResponse
	for _, a := range answers {
		if Leads(a) && (leader == nil || a.GetTerm() > leader.GetTerm()) {
			leader = a
		}
	}
	return leader
}

// WasRemoved reports whether the leader, as it has answered, has a configuration without a replica, which it had once. Ids of
// replicas are not used again, so that is for good. A replica that leads itself was not removed.
func WasRemoved(answers []*nodev1.GetReplicaResponse, replicaID string) bool {
	leader := Leader(answers)
	return leader.GetConfigurationCurrent() && leader.GetReplicaId() != replicaID &&
		!slices.ContainsFunc(leader.GetServers(), func(s *nodev1.Server) bool { return s.GetReplicaId() == replicaID })
}

// CarriesWithout returns nil where a group's other replicas, as they have answered, are a majority that follows one leader
// and has all that is committed, so that nothing is lost with the files of this one. Else the error is ErrNeeded. A nil
// answer is that of a replica that did not answer.
func CarriesWithout(answers []*nodev1.GetReplicaResponse, replicaID string) error {
	leader := Leader(answers)
	if leader == nil {
		return fmt.Errorf("%w: no leader of it answers", ErrNeeded)
	}
	if !leader.GetConfigurationCurrent() {
		return fmt.Errorf("%w: its leader, %s, does not know yet who is in it", ErrNeeded, leader.GetReplicaId())
	}
	byID := make(map[string]*nodev1.GetReplicaResponse, len(answers))
	for _, a := range answers {
		byID[a.GetReplicaId()] = a
	}
	voters, have := 0, 0
	for _, s := range leader.GetServers() {
		if !s.GetVoter() {
			continue
		}
		voters++
		a := byID[s.GetReplicaId()]
		if a == nil || s.GetReplicaId() == replicaID {
			continue
		}
		// A majority in the leader's term follows no other leader, and so knows of nothing committed that this one lacks.
		if a.GetTerm() == leader.GetTerm() && a.GetLeaderReplicaId() == leader.GetReplicaId() && a.GetLastIndex() >= leader.GetCommitIndex() {
			have++
		}
	}
	if have <= voters/2 {
		return fmt.Errorf("%w: %d of its %d voters have all that is committed, not counting this one", ErrNeeded, have, voters)
	}
	return nil
}

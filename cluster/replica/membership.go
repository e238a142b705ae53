package replica

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/transport"
)

// Server is one server of a group's Raft configuration.
type Server struct {
	ReplicaID string
	Address   string
	Voter     bool
}

// Status is what a replica knows of itself and its group.
type Status struct {
	ReplicaID string
	// State is Leader, Follower, Candidate or Shutdown.
	State string
	Term  uint64
	// LeaderReplicaID is empty when no leader is known.
	LeaderReplicaID string
	LastIndex       uint64
	CommitIndex     uint64
	AppliedIndex    uint64
	// Servers are those of the newest configuration that this replica knows to be committed, so that nothing is decided
	// on one that may yet vanish. None before one is known.
	Servers []Server
	// ConfigurationIndex is the index of that configuration.
	ConfigurationIndex uint64
	// ConfigurationCurrent says that it is the newest one in the log. After a start an old one is applied before it, and
	// what that lacks may have been added since.
	ConfigurationCurrent bool
}

// Status returns the replica's status.
func (r *Replica) Status() Status {
	leader, _ := r.Leader()
	conf := r.committed()
	st := Status{
		ReplicaID: r.cfg.ID, State: r.raft.State().String(), Term: r.raft.CurrentTerm(), LeaderReplicaID: leader,
		LastIndex: r.raft.LastIndex(), CommitIndex: r.raft.CommitIndex(), AppliedIndex: r.raft.AppliedIndex(),
		ConfigurationIndex: conf.index,
	}
	if newest := r.raft.GetConfiguration(); newest.Error() == nil {
		st.ConfigurationCurrent = conf.index > 0 && st.AppliedIndex >= r.replayed && slices.Equal(conf.servers, newest.Configuration().Servers)
	}
	for _, s := range conf.servers {
		st.Servers = append(st.Servers, Server{ReplicaID: string(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter})
	}
	return st
}

// Behind returns, on the leader, how many entries of its log each other node lacks, as far as it has answered: one that
// was never heard of lacks the whole log. A node with two replicas, of which one goes, counts with the worse one.
func (r *Replica) Behind() map[string]uint64 {
	if !r.IsLeader() {
		return nil
	}
	future := r.raft.GetConfiguration()
	if future.Error() != nil {
		return nil // stopping
	}
	behind := make(map[string]uint64)
	for _, s := range future.Configuration().Servers {
		if string(s.ID) == r.cfg.ID {
			continue
		}
		node, _, _ := strings.Cut(string(s.ID), "/")
		behind[node] = max(behind[node], r.lacks(s.ID))
	}
	return behind
}

// lacks is how many entries of this replica's log another one has not.
func (r *Replica) lacks(id raft.ServerID) uint64 {
	last := r.raft.LastIndex()
	have, heard := r.transport.LastLog(id)
	if !heard {
		have = max(r.FirstIndex(), 1) - 1
	}
	if have >= last {
		return 0
	}
	return last - have
}

// changeTimeout bounds the wait for a place in Raft's queue.
const changeTimeout = 10 * time.Second

// ChangeMembership makes one change to the configuration that has the index prevIndex, on the leader, and returns the
// index of the new one once it is committed. ErrNotLeader and ErrStale say that nothing was done.
func (r *Replica) ChangeMembership(ctx context.Context, change nodev1.MembershipChange, replicaID, addr string, prevIndex uint64) (uint64, error) {
	if now := r.committed().index; now != prevIndex || now == 0 {
		return 0, fmt.Errorf("%w: it is of index %d, decided on was %d", ErrStale, now, prevIndex)
	}
	id, server := raft.ServerID(replicaID), transport.ServerAddress(replicaID, addr)
	var begin func(*raft.Raft) raft.IndexFuture
	switch change {
	case nodev1.MembershipChange_MEMBERSHIP_CHANGE_ADD_NONVOTER:
		begin = func(rf *raft.Raft) raft.IndexFuture { return rf.AddNonvoter(id, server, prevIndex, changeTimeout) }
	case nodev1.MembershipChange_MEMBERSHIP_CHANGE_PROMOTE:
		begin = func(rf *raft.Raft) raft.IndexFuture { return rf.AddVoter(id, server, prevIndex, changeTimeout) }
	case nodev1.MembershipChange_MEMBERSHIP_CHANGE_REMOVE:
		begin = func(rf *raft.Raft) raft.IndexFuture { return rf.RemoveServer(id, prevIndex, changeTimeout) }
	default:
		return 0, fmt.Errorf("membership change %s is unknown", change)
	}
	var f raft.IndexFuture
	if err := r.Await(ctx, func(rf *raft.Raft) raft.Future { f = begin(rf); return f }); err != nil {
		return 0, fmt.Errorf("change membership of %s: %w", r.cfg.Group, fromRaft(err))
	}
	return f.Index(), nil
}

func fromRaft(err error) error {
	if NotAppended(err) {
		return errors.Join(ErrNotLeader, err)
	}
	return err
}

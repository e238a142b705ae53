package replica

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/internal/pause"
)

// transferPoll is the time between two looks at how a transfer goes.
const transferPoll = 5 * time.Millisecond

// TransferTo hands leadership to one replica, on the leader. A nil error says that this replica has let go of it.
func (r *Replica) TransferTo(ctx context.Context, replicaID string) error {
	others, err := r.otherVoters()
	if err != nil {
		return err
	}
	for _, s := range others {
		if string(s.ID) == replicaID {
			return r.transfer(ctx, s)
		}
	}
	return fmt.Errorf("%s, voter %s: %w", r.cfg.Group, replicaID, ErrNoServer)
}

// HandOver hands leadership to the most advanced other voter, or to the next one where that does not take it. It does nothing
// where this replica does not lead.
func (r *Replica) HandOver(ctx context.Context) error {
	if !r.IsLeader() {
		return nil
	}
	others, err := r.otherVoters()
	if err != nil {
		return err
	}
	slices.SortStableFunc(others, func(a, b raft.Server) int { return cmp.Compare(r.lacks(a.ID), r.lacks(b.ID)) })
	err = fmt.Errorf("%s: %w", r.cfg.Group, ErrNoSuccessor)
	for _, s := range others {
		if err = r.transfer(ctx, s); err == nil || ctx.Err() != nil || !r.IsLeader() {
			return err
		}
	}
	return err
}

// otherVoters returns the voters of the configuration but for this replica.
func (r *Replica) otherVoters() ([]raft.Server, error) {
	conf := r.raft.GetConfiguration()
	if err := conf.Error(); err != nil {
		return nil, fromRaft(err)
	}
	return slices.DeleteFunc(slices.Clone(conf.Configuration().Servers), func(s raft.Server) bool {
		return s.Suffrage != raft.Voter || string(s.ID) == r.cfg.ID
	}), nil
}

func (r *Replica) transfer(ctx context.Context, to raft.Server) error {
	begin := func(rf *raft.Raft) raft.Future { return rf.LeadershipTransferToServer(to.ID, to.Address) }
	if !r.firstTransfer(to.ID) {
		begin = func(rf *raft.Raft) raft.Future { return future(func() error { return r.callElection(ctx, rf, to) }) }
	}
	if err := r.Await(ctx, begin); err != nil {
		return fmt.Errorf("transfer leadership of %s: %w", r.cfg.Group, fromRaft(err))
	}
	return nil
}

// firstTransfer says whether this is the first transfer to a server in a term. Only that one is the library's: what one that
// took too long has left behind can block the next one for ever, if the leader steps down then. The library refuses all
// entries from then on, also when this replica leads again (https://github.com/hashicorp/raft/issues/696).
func (r *Replica) firstTransfer(to raft.ServerID) bool {
	term := r.raft.CurrentTerm()
	r.transfersMu.Lock()
	defer r.transfersMu.Unlock()
	if last, ok := r.transfers[to]; ok && last == term {
		return false
	}
	if r.transfers == nil {
		r.transfers = make(map[raft.ServerID]uint64)
	}
	r.transfers[to] = term
	return true
}

// callElection has another server begin an election now, and waits until this one does not lead any more. Unlike the library's
// transfer it does not hold up new entries, so that the other one may lack some and lose. It refuses one that is far behind,
// which can only lose, and first waits until one that is near has all.
func (r *Replica) callElection(ctx context.Context, rf *raft.Raft, to raft.Server) error {
	ctx, cancel := context.WithTimeout(ctx, 2*r.cfg.Timeouts.Election)
	defer cancel()
	for wait := r.cfg.Timeouts.Election; r.lacks(to.ID) > 0; wait -= transferPoll {
		if n := r.lacks(to.ID); n > maxAppendEntries {
			return fmt.Errorf("%s lacks %d entries", to.ID, n)
		}
		if wait <= 0 {
			break // it gets entries all the time
		}
		if err := pause.For(ctx, transferPoll); err != nil {
			return err
		}
	}
	if rf.State() != raft.Leader {
		return raft.ErrNotLeader
	}
	req := &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
		ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(r.cfg.ID),
		Addr: r.transport.EncodePeer(raft.ServerID(r.cfg.ID), raft.ServerAddress(r.cfg.Addr)),
	}}
	if err := r.transport.TimeoutNow(to.ID, to.Address, req, &raft.TimeoutNowResponse{}); err != nil {
		return err
	}
	for rf.State() == raft.Leader {
		if err := pause.For(ctx, transferPoll); err != nil {
			return fmt.Errorf("%s was told to begin an election, and has not won it: %w", to.ID, err)
		}
	}
	return nil
}

// future is a raft.Future that does its work when it is waited for.
type future func() error

// Error implements raft.Future.
func (f future) Error() error { return f() }

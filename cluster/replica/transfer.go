package replica

import (
	"cmp"
	"context"
	"errors"
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
	err := raft.ErrLeadershipTransferInProgress
	if r.firstTransfer(to.ID) {
		err = r.Await(ctx, func(rf *raft.Raft) raft.Future { return rf.LeadershipTransferToServer(to.ID, to.Address) })
	}
	// The library says so, too, for as long as one that has failed waits for an answer.
	if errors.Is(err, raft.ErrLeadershipTransferInProgress) {
		err = r.Await(ctx, func(rf *raft.Raft) raft.Future { return future(func() error { return r.callElection(ctx, rf, to) }) })
	}
	if err != nil {
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
// transfer it does not hold up new entries, so that the other one may lack the newest and lose. It refuses one that does not
// get, within an election timeout, what the log has by now: that one can only lose.
func (r *Replica) callElection(ctx context.Context, rf *raft.Raft, to raft.Server) error {
	has, last := uint64(0), rf.LastIndex()
	if err := r.poll(ctx, func() bool { has, _ = r.transport.LastLog(to.ID); return has >= last }); err != nil {
		return fmt.Errorf("%s has entries up to %d, of %d: %w", to.ID, has, last, err)
	}
	if rf.State() != raft.Leader {
		return raft.ErrNotLeader
	}
	told := make(chan error, 1)
	r.calls.Go(func() {
		told <- r.transport.TimeoutNow(to.ID, to.Address, &raft.TimeoutNowRequest{RPCHeader: raft.RPCHeader{
			ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(r.cfg.ID),
			Addr: r.transport.EncodePeer(raft.ServerID(r.cfg.ID), raft.ServerAddress(r.cfg.Addr)),
		}}, &raft.TimeoutNowResponse{})
	})
	var err error
	lost := r.poll(ctx, func() bool {
		select {
		case err = <-told:
		default:
		}
		return err != nil || rf.State() != raft.Leader
	})
	if lost != nil {
		return fmt.Errorf("%s was told to begin an election, and has not won it: %w", to.ID, lost)
	}
	return err
}

// poll waits until fn is true, for an election timeout at most.
func (r *Replica) poll(ctx context.Context, fn func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Timeouts.Election)
	defer cancel()
	for !fn() {
		if err := pause.For(ctx, transferPoll); err != nil {
			return err
		}
	}
	return nil
}

// future is a raft.Future that does its work when it is waited for.
type future func() error

// Error implements raft.Future.
func (f future) Error() error { return f() }

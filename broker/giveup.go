package broker

import (
	"context"
	"errors"
	"fmt"
	"time"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// ErrOnlyReplica says that a replica is the only one of its group.
var ErrOnlyReplica = errors.New("it is the only replica of its group")

// GiveUp prepares a damaged replica for its end: when it is opened the next time, it is found damaged. Where it returns nil,
// the caller closes it soon. Without that nothing has changed, and it is to be called again later.
//
// It is refused unless every other voter of the group answers, has applied all that this replica has, and is not about to
// be given up itself: nothing that was acknowledged may be on damaged files alone, and the others must be a majority without
// this one. Where there is no other replica the error is ErrOnlyReplica. It returns nil at once where it did so before.
func GiveUp(ctx context.Context, peers ShardPeers, group *nodev1.Group, r *replica.Replica, cause error) error {
	return r.GiveUp(func() error { return prepareToGiveUp(ctx, peers, group, r, cause) })
}

func prepareToGiveUp(ctx context.Context, peers ShardPeers, group *nodev1.Group, r *replica.Replica, cause error) error {
	st := r.Status()
	alone, voters, others := true, 0, 0
	for _, server := range st.Servers {
		own := server.ReplicaID == st.ReplicaID
		alone = alone && own
		if !server.Voter {
			continue
		}
		if voters++; own {
			continue
		}
		if err := canReplace(ctx, peers, group, server.ReplicaID, st.AppliedIndex); err != nil {
			return fmt.Errorf("it waits for the other replicas: %w", err)
		}
		others++
	}
	switch {
	case voters == 0:
		return errors.New("its group is not known")
	case alone:
		return ErrOnlyReplica
	case 2*others <= voters:
		return fmt.Errorf("it waits for another replica: %d of %d voters would be no majority", others, voters)
	case errors.Is(cause, logstore.ErrCorrupt):
		return nil // Open finds that out
	}
	return r.Condemn(cause.Error())
}

// giveUpTick is how often a replica that lags is asked again.
const giveUpTick = 25 * time.Millisecond

// canReplace returns nil where another replica stays and has applied an index, for which it waits a little: a follower hears
// of it with the next message.
func canReplace(ctx context.Context, peers ShardPeers, group *nodev1.Group, replicaID string, index uint64) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	client, err := peers.Client(fsm.NodeOf(replicaID))
	if err != nil {
		return err
	}
	for {
		res, err := client.GetReplica(ctx, &nodev1.GetReplicaRequest{Group: group})
		switch {
		case err != nil:
			return fmt.Errorf("replica %s: %w", replicaID, err)
		case res.GetReplicaId() != replicaID:
			return fmt.Errorf("replica %s is not there, but %q", replicaID, res.GetReplicaId())
		case res.GetGivingUp():
			return fmt.Errorf("replica %s is damaged itself", replicaID)
		case res.GetAppliedIndex() >= index:
			return nil
		}
		if pause.For(ctx, giveUpTick) != nil {
			return fmt.Errorf("replica %s has applied index %d, not %d", replicaID, res.GetAppliedIndex(), index)
		}
	}
}

package replica

import (
	"time"

	"github.com/hashicorp/raft"
)

const (
	// probeTimeout bounds the attempt to reach the leader.
	probeTimeout = 500 * time.Millisecond
	// hasteFactor is for how many heartbeat timeouts a replica is in haste.
	hasteFactor = 4
)

// connectionLost is called when another replica has closed a connection to this one. When the leader can't be reached
// either it is dead: its followers then wait for the lease only, and not for the heartbeat timeout, before they call an
// election. A wrong guess does no harm, for a leader that lives goes on sending heartbeats.
func (r *Replica) connectionLost() {
	select {
	case <-r.opened:
	default:
		return
	}
	r.waitsMu.Lock()
	defer r.waitsMu.Unlock()
	if r.closed || r.hasty {
		return
	}
	r.hasty = true
	r.waits.Go(func() {
		if !r.leaderIsGone() {
			r.setHasty(false)
			return
		}
		r.setPatience(r.cfg.Timeouts.Lease, r.cfg.Timeouts.Lease)
		time.AfterFunc(hasteFactor*r.cfg.Timeouts.Heartbeat, func() {
			r.setPatience(r.cfg.Timeouts.Heartbeat, r.cfg.Timeouts.Election)
			r.setHasty(false)
		})
	})
}

func (r *Replica) setHasty(hasty bool) {
	r.waitsMu.Lock()
	defer r.waitsMu.Unlock()
	r.hasty = hasty
}

func (r *Replica) leaderIsGone() bool {
	addr, id := r.raft.LeaderWithID()
	if id == "" || string(id) == r.cfg.ID {
		return false
	}
	return !r.transport.Reaches(id, addr, probeTimeout)
}

func (r *Replica) setPatience(heartbeat, election time.Duration) {
	err := r.reload(func(rc *raft.ReloadableConfig) { rc.HeartbeatTimeout, rc.ElectionTimeout = heartbeat, election })
	if err != nil {
		r.log.Warn("Raft's timeouts were not set", "heartbeat", heartbeat, "election", election, "error", err)
	}
}

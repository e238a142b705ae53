package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync/atomic"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/cluster/recovery"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/object"
)

const (
	registerTick    = 300 * time.Millisecond
	registerQuiet   = 3 * time.Second
	rememberTick    = 2 * time.Second
	storeFirstRetry = time.Second
	storeLastRetry  = time.Minute
	initAttempt     = 10 * time.Second
	storeFirstLook  = 5 * time.Second
)

// member does what a node owes its cluster beside its work: it begins it when it
// is the founder, registers, and remembers who else is there.
type member struct {
	cfg       *Config
	identity  *identityFile
	group     *metadata.Group
	gossip    *gossip.Gossip
	registrar *registrar
	log       *slog.Logger

	seen atomic.Bool // this node is or was in the metadata
}

// run returns when ctx ends, or with the error that ends the node: the cluster
// refuses it for good.
func (m *member) run(ctx context.Context) error {
	if m.identity.get().Founding {
		if err := m.initCluster(ctx); err != nil {
			return err
		}
	}
	if err := m.registerUntil(ctx); err != nil {
		return err
	}
	return m.rememberUntil(ctx)
}

// initCluster writes the first command of the cluster. Nobody can have joined
// before it, so it is this node that leads.
func (m *member) initCluster(ctx context.Context) error {
	id := m.identity.get()
	for m.group.View().ClusterID() == "" {
		attempt, cancel := context.WithTimeout(ctx, initAttempt)
		_, err := m.group.Propose(attempt, &metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{
			ClusterId:   id.ClusterID,
			ClusterName: id.ClusterName,
			Shards:      uint32(m.cfg.Shards),
			ObjectStore: m.cfg.ObjectStore,
			TimeMs:      time.Now().UnixMilli(),
		}}})
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if _, rejected := errors.AsType[*fsm.Rejection](err); rejected {
			return fmt.Errorf("begin the cluster: %w", err)
		}
		if err != nil {
			m.log.Warn("the cluster is not begun yet", "error", err)
		}
	}
	return m.identity.update(func(id *identity) { id.Founding = false })
}

// registerUntil registers this node's incarnation, addresses and replica, unless
// the metadata has them already.
func (m *member) registerUntil(ctx context.Context) error {
	id := m.identity.get()
	err := untilRegistered(ctx, id.ClusterID, m.log, func(ctx context.Context) error {
		if m.isRegistered() {
			return nil
		}
		return m.registrar.register(ctx, id.ClusterID, id.MetadataReplicaID)
	})
	if err != nil {
		return err
	}
	if !id.Registered {
		if err := m.identity.update(func(id *identity) { id.Registered = true }); err != nil {
			return err
		}
	}
	m.log.Info("is registered with the cluster", "cluster_id", id.ClusterID)
	return m.gossip.SetSettled()
}

// isRegistered compares the metadata, as far as it is applied here, with this node.
func (m *member) isRegistered() bool {
	if !m.group.CaughtUp() {
		return false
	}
	n, ok := m.group.View().Node(m.cfg.NodeID)
	if !ok {
		return false
	}
	id := m.identity.get()
	return sameRegistration(n, m.registrar.request(id.ClusterID, id.MetadataReplicaID))
}

// rememberUntil writes into node.json who else is there, whenever that changes.
func (m *member) rememberUntil(ctx context.Context) error {
	for {
		voters, peers := m.others()
		id := m.identity.get()
		if len(voters) > 0 && (!slices.Equal(voters, id.MetadataVoters) || !slices.Equal(peers, id.Peers)) {
			err := m.identity.update(func(id *identity) { id.MetadataVoters, id.Peers = voters, peers })
			if err != nil {
				return err
			}
		}
		if err := pause.For(ctx, rememberTick); err != nil {
			return err
		}
	}
}

func (m *member) others() (voters []string, peers []peerAddr) {
	for _, s := range m.group.Replica().Status().Servers {
		if s.Voter {
			voters = append(voters, s.ReplicaID)
		}
	}
	slices.Sort(voters)
	for _, n := range m.group.View().Nodes() {
		if n.ID != m.cfg.NodeID {
			peers = append(peers, peerAddr{NodeID: n.ID, RaftAddr: n.RaftAddr, GossipAddr: n.GossipAddr})
		}
	}
	return voters, peers
}

// ready returns nil when the metadata, as applied here, has this node as an active one.
func (m *member) ready() error {
	n, ok := m.group.View().Node(m.cfg.NodeID)
	switch {
	case !ok && m.seen.Load():
		return errors.New("the node was removed from the cluster")
	case !ok:
		return errors.New("the node is not registered with the cluster yet")
	}
	m.seen.Store(true)
	if n.State != metav1.NodeState_NODE_STATE_ACTIVE {
		return errors.New("the node is draining")
	}
	return nil
}

// storeChecker makes sure, while a member runs, that its object store is the
// cluster's. A store that does not answer is tried again for ever.
type storeChecker struct {
	bucket    object.Bucket
	url       string
	clusterID string
	// recoveryID is the life of the cluster that this node belongs to.
	recoveryID string
	log        *slog.Logger
}

// check looks once.
func (c *storeChecker) check(ctx context.Context) error {
	if err := checkStore(ctx, c.bucket, c.url, c.clusterID); err != nil {
		return err
	}
	return recovery.Superseded(ctx, c.bucket, c.clusterID, c.recoveryID)
}

// forGood tells an error that does not pass.
func (c *storeChecker) forGood(err error) bool {
	return errors.Is(err, errWrongStore) || errors.Is(err, recovery.ErrSuperseded)
}

// first looks once. It fails only on a wrong store; sure is false when the store does not answer.
func (c *storeChecker) first(ctx context.Context) (sure bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, storeFirstLook)
	defer cancel()
	err = c.check(ctx)
	if err == nil {
		return true, nil
	}
	if c.forGood(err) {
		return false, err
	}
	c.log.Warn("object store does not answer; this node starts without it and tries again", "error", err)
	return false, nil
}

// run looks again until the store has answered.
func (c *storeChecker) run(ctx context.Context) error {
	delay := storeFirstRetry
	for {
		if err := pause.For(ctx, delay); err != nil {
			return nil //nolint:nilerr // The node stops.
		}
		err := c.check(ctx)
		if err == nil {
			c.log.Info("object store answers")
			return nil
		}
		if c.forGood(err) {
			return err
		}
		c.log.Debug("object store does not answer", "error", err)
		delay = min(2*delay, storeLastRetry)
	}
}

package broker

import (
	"context"
	"errors"
	"log/slog"

	"go.opentelemetry.io/otel/trace"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
)

// Metadata is what the broker needs of the metadata group. *metadata.Group is one. Safe for concurrent use.
type Metadata interface {
	// View returns the state that this node has applied. It never blocks.
	View() *fsm.View
	// Watch returns a channel that is closed at the next change of View.
	Watch() <-chan struct{}
	// Barrier returns once View has all that was committed before the call, or an error when ctx ends.
	Barrier(ctx context.Context) error
	// Propose applies a command wherever the leader is and returns once View has it. A refusal is a *fsm.Rejection.
	Propose(ctx context.Context, cmd *metav1.Command) (*metav1.Result, error)
	// Leader returns the node that leads the metadata group, as far as this one knows.
	Leader() (nodeID string, ok bool)
}

// ShardWriter is the part of a replica that works on the shard's leader only. Safe for concurrent use.
type ShardWriter interface {
	// Leader returns the replica id of the shard's leader, as far as this replica knows.
	Leader() (replicaID string, ok bool)
	// Append stores batches. Every error but shard.ErrUnknownOutcome says that nothing was written.
	Append(ctx context.Context, batches []shard.AppendBatch, durable bool) ([]shard.AppendResult, error)
	// BeginAppend begins what Append does; it uses ctx only for its trace. Appends that began one after the other are stored
	// in that order, but one may be stored where the one before it was not. wait must be called once; until it returns, the
	// batches must not change.
	BeginAppend(ctx context.Context, batches []shard.AppendBatch, durable bool) (wait func(context.Context) ([]shard.AppendResult, error), err error)
	// LeaderHighWatermark returns a high watermark that includes all that was acknowledged before the call.
	LeaderHighWatermark(partitionID uint64) (int64, error)
}

// GroupCoordinator is the part of a replica that coordinates consumer groups, on the shard's leader only. Safe for
// concurrent use.
type GroupCoordinator interface {
	// RunGroup applies a command to a group.
	RunGroup(ctx context.Context, cmd *metav1.GroupCommand) (group.Answer, error)
	// GroupStates returns these groups, or all when names is empty.
	GroupStates(names []string) ([]*metav1.ShardGroup, error)
	// CommitOffsets stores a group's offsets, all or none.
	CommitOffsets(ctx context.Context, group string, by shard.Committer, offsets []shard.GroupOffset) error
	// Offsets returns a group's offsets of these partitions, or of all when ids is empty.
	Offsets(group string, ids []uint64) ([]shard.GroupOffset, error)
	// AppliedProgress returns where all groups are, as applied here, on followers too.
	AppliedProgress() []shard.GroupProgress
}

// ShardReader reads what a replica has applied, on the leader and on followers. Safe for concurrent use.
type ShardReader interface {
	// HighWatermark returns the high watermark as applied here.
	HighWatermark(partitionID uint64) int64
	// WaitHighWatermark returns once the high watermark here is at least atLeast, or with ctx's error.
	WaitHighWatermark(ctx context.Context, partitionID uint64, atLeast int64) error
	// Read returns whole batches from the one that holds offset; the caller owns them.
	Read(ctx context.Context, partitionID uint64, offset int64, maxBytes int) ([]byte, error)
	// FindTime looks for a timestamp in what is not in the object store.
	FindTime(ctx context.Context, partitionID uint64, timestampMs int64) (offset, foundMs int64, found bool, err error)
}

// LocalShard is this node's replica of a shard. *shard.Shard is one.
type LocalShard interface {
	ShardWriter
	ShardReader
	GroupCoordinator
}

var _ LocalShard = (*shard.Shard)(nil)

// LocalShards finds this node's running replicas. Hosted makes one of Shards. Safe for concurrent use.
type LocalShards interface {
	// Local returns this node's running replica of a shard, once it is in its group.
	Local(number uint32) (LocalShard, bool)
}

// Hosted returns the replicas that s runs, as the broker wants them.
func Hosted(s *Shards) LocalShards { return hostedShards{s} }

type hostedShards struct{ shards *Shards }

func (h hostedShards) Local(number uint32) (LocalShard, bool) {
	sh, ok := h.shards.Get(number)
	if !ok || !sh.Replica().InGroup() {
		return nil, false // others know a leader that one which was not added yet does not hear of
	}
	return sh, true
}

// History reads what is in the object store. *segment.Reader is one. Safe for concurrent use.
type History interface {
	// Read returns whole batches from the one that holds offset, at least one; the caller only reads them.
	Read(ctx context.Context, ref *metav1.SegmentRef, offset int64, maxBytes int) ([]byte, error)
	// FindTime returns the segment's first record with the timestamp or a later one.
	FindTime(ctx context.Context, ref *metav1.SegmentRef, timestampMs int64) (offset, foundMs int64, found bool, err error)
}

// Groups describes and changes this node's replicas of Raft groups. Replicas is one. Safe for concurrent use.
type Groups interface {
	// Describe tells about this node's replica; an *Error with SHARD_NOT_FOUND where it has none.
	Describe(group *nodev1.Group) (*nodev1.GetReplicaResponse, error)
	// ChangeMembership changes the group's configuration by one server, on its leader.
	ChangeMembership(ctx context.Context, req *nodev1.ChangeMembershipRequest) (uint64, error)
	// TransferLeadership hands the group to one replica, on its leader.
	TransferLeadership(ctx context.Context, group *nodev1.Group, replicaID string) error
}

// Config sets up a Broker. All fields but Alive, CanLeave, Logger, Metrics and TracerProvider
// must be set.
type Config struct {
	// NodeID is this node.
	NodeID   string
	Metadata Metadata
	// Shards are this node's replicas.
	Shards  LocalShards
	Peers   ShardPeers
	History History
	Groups  Groups
	// PeerError turns the error of a call to a peer into an *Error; sent says whether the call reached a connection.
	// rpc.FromPeer is one.
	PeerError func(err error, sent bool) error
	// Alive reports whether gossip sees a node. Nil: all are alive.
	Alive func(nodeID string) bool
	// CanLeave returns an error that says why a node's replicas can't be placed elsewhere. Nil: they always can.
	CanLeave func(nodeID string) error
	// MaxRecordBytes bounds one record. Default 8 MiB.
	MaxRecordBytes int
	// MaxRequestBytes bounds a request, and what one read returns. Default 16 MiB.
	MaxRequestBytes int
	Logger          *slog.Logger
	// Metrics are those of this node. Nil: nobody sees what is counted.
	Metrics *Metrics
	// TracerProvider, where it is not nil, gets the spans of requests.
	TracerProvider trace.TracerProvider
}

const (
	defaultMaxRecordBytes  = 8 << 20
	defaultMaxRequestBytes = 16 << 20
)

func (c *Config) setDefaults() {
	if c.MaxRecordBytes <= 0 {
		c.MaxRecordBytes = defaultMaxRecordBytes
	}
	if c.MaxRequestBytes <= 0 {
		c.MaxRequestBytes = defaultMaxRequestBytes
	}
	if c.Alive == nil {
		c.Alive = func(string) bool { return true }
	}
	if c.CanLeave == nil {
		c.CanLeave = func(string) error { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Metrics == nil {
		c.Metrics = NewMetrics(nil)
	}
}

// Validate returns an error that names the first field that is missing.
func (c *Config) Validate() error {
	switch {
	case c.NodeID == "":
		return errors.New("broker: NodeID must be set")
	case c.Metadata == nil:
		return errors.New("broker: Metadata must be set")
	case c.Shards == nil:
		return errors.New("broker: Shards must be set")
	case c.Peers == nil:
		return errors.New("broker: Peers must be set")
	case c.History == nil:
		return errors.New("broker: History must be set")
	case c.Groups == nil:
		return errors.New("broker: Groups must be set")
	case c.PeerError == nil:
		return errors.New("broker: PeerError must be set")
	}
	return nil
}

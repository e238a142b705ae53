package broker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/cluster/transport"
	"github.com/streamhouse/streamhouse/fsm"
)

// ShardsMetadata is what the host of the shards needs of the metadata group. *metadata.Group is one.
type ShardsMetadata interface {
	shard.Metadata
	// Watch returns a channel that is closed at the next change of View.
	Watch() <-chan struct{}
}

// ShardPeers gives clients of other nodes. *peer.Pool is one.
type ShardPeers interface {
	Client(nodeID string) (nodev1.NodeServiceClient, error)
}

// ShardsConfig sets up the host of a node's shard replicas.
type ShardsConfig struct {
	// NodeID is this node.
	NodeID string
	// Dir holds a directory for each replica: <dir>/<shard>/<ULID of the replica>.
	Dir string
	// RaftAddr is this node's advertised Raft address.
	RaftAddr string
	Metadata ShardsMetadata
	Peers    ShardPeers
	// Transport carries the Raft groups of this node.
	Transport *transport.Transport
	Uploads   shard.Uploads
	// Timeouts of the Raft groups.
	Timeouts replica.Timeouts
	// UploadBytes, UploadInterval, CheckpointBytes, RetainBytes, MaxLogBytes, MinFreeBytes and TailBytes are the
	// settings of the same names; MaxLogBytes and TailBytes are for all shards of the node together.
	UploadBytes    int64
	UploadInterval time.Duration
	// GroupOffsetsRetention is for how long a consumer group without members is kept. 0: for ever.
	GroupOffsetsRetention time.Duration
	// Groups keeps committed offsets of consumer groups in the object store. May be nil.
	Groups          shard.Groups
	CheckpointBytes int64
	RetainBytes     int64
	MaxLogBytes     int64
	MinFreeBytes    int64
	TailBytes       int64
	// LogWrites watches the writes to the shards' logs. May be nil.
	LogWrites *logstore.Writes
	// Disk is what the shards' logs are written through; nil is the operating system's.
	Disk logstore.Disk
	// Fatal ends the node. It must not block.
	Fatal      func(error)
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// TracerProvider may be nil.
	TracerProvider trace.TracerProvider
}

// minLogCacheBytes is the least memory for a replica's newest log entries. They share it with the tail, which has the
// same records, so as much as the tail has costs next to nothing more; uploads read from there.
const minLogCacheBytes = 16 << 20

// hostTick is how often the host looks for what no change of the metadata tells: a removed replica to discard, or a
// failed step to take again.
const hostTick = time.Second

// noteTimeout bounds one try to tell the metadata group of a replica's state; the host tries again.
const noteTimeout = 5 * time.Second

// Shards runs this node's replicas of shards as the metadata wishes them. Safe for concurrent use.
type Shards struct {
	cfg     ShardsConfig
	log     *slog.Logger
	budget  *shard.Budget
	metrics *shard.Metrics

	mu      sync.RWMutex
	running map[uint32]*hosted
	reopen  map[uint32]string // replicas to be closed and opened again, by shard
}

// hosted is a running replica.
type hosted struct {
	replicaID string
	dir       string
	shard     *shard.Shard
	cancel    context.CancelFunc
	done      chan struct{} // closed when Run has returned
}

// NewShards returns a host that runs nothing yet.
func NewShards(cfg ShardsConfig) *Shards {
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Shards{
		cfg:     cfg,
		log:     log.With("logger", "shards"),
		budget:  shard.NewBudget(cfg.Dir, cfg.MaxLogBytes, cfg.MinFreeBytes),
		metrics: shard.NewMetrics(cfg.Registerer),
		running: make(map[uint32]*hosted),
		reopen:  make(map[uint32]string),
	}
	if cfg.Registerer != nil {
		cfg.Registerer.MustRegister(newShardsCollector(s))
	}
	return s
}

// Get returns this node's running replica of a shard.
func (s *Shards) Get(number uint32) (*shard.Shard, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	h, ok := s.running[number]
	if !ok {
		return nil, false
	}
	return h.shard, true
}

// All returns the running replicas.
func (s *Shards) All() []*shard.Shard {
	s.mu.RLock()
	defer s.mu.RUnlock()
	all := make([]*shard.Shard, 0, len(s.running))
	for _, h := range s.running {
		all = append(all, h.shard)
	}
	return all
}

// Run starts and stops replicas as the metadata changes, until ctx ends; then it stops all of them.
func (s *Shards) Run(ctx context.Context) error {
	if err := os.MkdirAll(s.cfg.Dir, 0o750); err != nil {
		return fmt.Errorf("make the directory of the shards: %w", err)
	}
	defer s.stopAll()
	tick := time.NewTicker(hostTick)
	defer tick.Stop()
	var looked time.Time // for leftovers
	for {
		changed := s.cfg.Metadata.Watch()
		s.reconcile(ctx)
		if time.Since(looked) >= leftoversEvery {
			looked = time.Now()
			if err := s.discardLeftovers(ctx); err != nil && ctx.Err() == nil {
				s.log.Warn("files of former replicas are not removed yet", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// HandOver gives the leadership of every shard that this node leads to another replica, as far as there is one.
func (s *Shards) HandOver(ctx context.Context) {
	var wg sync.WaitGroup
	for _, sh := range s.All() {
		if !sh.Replica().IsLeader() {
			continue
		}
		wg.Go(func() {
			if err := sh.Replica().HandOver(ctx); err != nil {
				s.log.Warn("leadership was not handed over", "shard", sh.Number(), "error", err)
			}
		})
	}
	wg.Wait()
}

// reconcile takes one step towards the wish for every shard, and logs what it could not do.
func (s *Shards) reconcile(ctx context.Context) {
	s.metrics.SyncTopics(s.cfg.Metadata.View)
	s.metrics.ForgetPartitions(s.cfg.Metadata.View)
	view := s.cfg.Metadata.View()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, sh := range view.Shards() {
		wg.Go(func() {
			if err := s.reconcileShard(ctx, view, sh); err != nil && ctx.Err() == nil {
				s.log.Warn("replica is not as wished yet", "shard", sh.Number, "error", err)
			}
		})
	}
}

func (s *Shards) reconcileShard(ctx context.Context, view *fsm.View, sh *fsm.Shard) error {
	var mine *metav1.Replica
	for _, r := range sh.Replicas {
		if r.GetNodeId() == s.cfg.NodeID && r.GetState() != metav1.ReplicaState_REPLICA_STATE_LOST {
			mine = r
		}
	}
	s.mu.RLock()
	h := s.running[sh.Number]
	s.mu.RUnlock()
	switch {
	case s.toReopen(sh.Number, h):
		return s.closeDamaged(ctx, sh.Number, h)
	case h != nil && mine != nil && h.replicaID == mine.GetReplicaId():
		return nil
	case h != nil:
		return s.retire(ctx, sh, h)
	case mine != nil:
		return s.start(ctx, view, sh, mine)
	default:
		return nil
	}
}

func (s *Shards) dir(number uint32, replicaID string) string {
	_, id, _ := strings.Cut(replicaID, "/")
	return filepath.Join(s.cfg.Dir, strconv.FormatUint(uint64(number), 10), id)
}

// start brings a wished replica up. Its files come first, then the note that it has started, then Raft: a replica that
// was noted and has no files may have voted and forgotten it, so it never starts again.
func (s *Shards) start(ctx context.Context, view *fsm.View, sh *fsm.Shard, r *metav1.Replica) error {
	dir := s.dir(sh.Number, r.GetReplicaId())
	if r.GetState() == metav1.ReplicaState_REPLICA_STATE_NEW {
		// What this node knows may be old, and a replica that was new then may hold records now.
		var err error
		if view, sh, r, err = s.upToDate(ctx, sh.Number, r.GetReplicaId()); err != nil || r == nil {
			return err
		}
	}
	exists, err := replica.Exists(dir)
	if err != nil {
		return err
	}
	if r.GetState() == metav1.ReplicaState_REPLICA_STATE_NEW {
		if err := s.create(view, sh, r, dir, exists); err != nil {
			return err
		}
		if err := s.note(ctx, sh.Number, r.GetReplicaId(), metav1.ReplicaState_REPLICA_STATE_STARTED); err != nil {
			return err
		}
	} else if !exists {
		return s.lost(ctx, sh, r, fmt.Errorf("%s: %w", dir, replica.ErrMissing))
	}
	opened, err := shard.Open(s.shardConfig(view, sh.Number, r.GetReplicaId(), dir))
	if err != nil {
		if errors.Is(err, logstore.ErrCorrupt) || errors.Is(err, replica.ErrMissing) || errors.Is(err, shard.ErrSnapshotCorrupt) {
			return s.lost(ctx, sh, r, err)
		}
		return fmt.Errorf("open replica %s: %w", r.GetReplicaId(), err)
	}
	s.run(ctx, sh.Number, r.GetReplicaId(), dir, opened)
	return nil
}

// upToDate returns what the metadata group says of a replica now; nil when it is not wished for, or lost.
func (s *Shards) upToDate(ctx context.Context, number uint32, replicaID string) (*fsm.View, *fsm.Shard, *metav1.Replica, error) {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	if err := s.cfg.Metadata.Barrier(ctx); err != nil {
		return nil, nil, nil, fmt.Errorf("replica %s is new, the metadata group can't be asked: %w", replicaID, err)
	}
	view := s.cfg.Metadata.View()
	sh, ok := view.Shard(number)
	if !ok {
		return view, nil, nil, nil
	}
	if r, wished := sh.Replica(replicaID); wished && r.GetState() != metav1.ReplicaState_REPLICA_STATE_LOST {
		return view, sh, r, nil
	}
	return view, sh, nil, nil
}

// create makes the files of a new replica, and the Raft configuration of the one that begins its shard.
func (s *Shards) create(view *fsm.View, sh *fsm.Shard, r *metav1.Replica, dir string, exists bool) error {
	begins := sh.Initial == r.GetReplicaId()
	if exists && !begins {
		return nil
	}
	if exists {
		// A start that ended before the note: whatever is there was never used.
		if err := replica.Discard(dir); err != nil {
			return err
		}
	}
	if err := replica.Create(dir); err != nil {
		return fmt.Errorf("create replica %s: %w", r.GetReplicaId(), err)
	}
	if !begins {
		return nil
	}
	opened, err := shard.Open(s.shardConfig(view, sh.Number, r.GetReplicaId(), dir))
	if err != nil {
		return fmt.Errorf("open replica %s: %w", r.GetReplicaId(), err)
	}
	return errors.Join(opened.Replica().Bootstrap(), opened.Close())
}

func (s *Shards) note(ctx context.Context, number uint32, replicaID string, state metav1.ReplicaState) error {
	ctx, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	_, err := s.cfg.Metadata.Propose(ctx, &metav1.Command{Command: &metav1.Command_NoteReplica{
		NoteReplica: &metav1.NoteReplica{Shard: number, ReplicaId: replicaID, State: state},
	}})
	if err != nil {
		return fmt.Errorf("note replica %s as %s: %w", replicaID, state, err)
	}
	return nil
}

// lost gives a replica up whose files are gone or corrupt, so that it is replaced from the others. The only replica of
// a shard can't be: the node ends, and names the file. Nor are files deleted while the others can't do without them: when
// most replicas are damaged at once, that shard stops, and says so. What this node knows may be old, so it asks first.
func (s *Shards) lost(ctx context.Context, sh *fsm.Shard, r *metav1.Replica, cause error) error {
	barrier, cancel := context.WithTimeout(ctx, noteTimeout)
	defer cancel()
	if err := s.cfg.Metadata.Barrier(barrier); err != nil {
		return fmt.Errorf("replica %s seems lost (%w), the metadata group can't be asked: %w", r.GetReplicaId(), cause, err)
	}
	sh, ok := s.cfg.Metadata.View().Shard(sh.Number)
	if !ok {
		return nil
	}
	if _, wished := sh.Replica(r.GetReplicaId()); !wished {
		return nil
	}
	if len(sh.Replicas) == 1 {
		err := fmt.Errorf("the only replica of shard %d can't be used: %w", sh.Number, cause)
		s.cfg.Fatal(err)
		return err
	}
	dir := s.dir(sh.Number, r.GetReplicaId())
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		if err := s.carriesWithout(ctx, sh, r.GetReplicaId()); err != nil {
			return fmt.Errorf("replica %s of shard %d can't be used, and is kept until most of the others are there, or its files are restored from a copy: %w: %w",
				r.GetReplicaId(), sh.Number, err, cause)
		}
	}
	s.log.Error("replica is lost and will be replaced from the others", "shard", sh.Number, "replica", r.GetReplicaId(), "error", cause)
	if err := s.note(ctx, sh.Number, r.GetReplicaId(), metav1.ReplicaState_REPLICA_STATE_LOST); err != nil {
		return err
	}
	return replica.Discard(dir)
}

func (s *Shards) shardConfig(view *fsm.View, number uint32, replicaID, dir string) shard.Config {
	shards := int64(max(view.NumShards(), 1))
	// The budget is the node's: a shard must be able to cut its log before the sum of all reaches it.
	share := max(s.cfg.MaxLogBytes/(4*shards), 1)
	tail := s.cfg.TailBytes / shards
	return shard.Config{
		Shard:     number,
		ClusterID: view.ClusterID(),
		NodeID:    s.cfg.NodeID,
		Groups:    s.cfg.Groups,
		Replica: replica.Config{
			Dir: dir, Group: transport.Shard(number), ID: replicaID, Addr: s.cfg.RaftAddr,
			Store: replica.WAL, Transport: s.cfg.Transport, Timeouts: s.cfg.Timeouts, Logger: s.cfg.Logger,
			Fatal: s.cfg.Fatal, RetainBytes: min(s.cfg.RetainBytes, share), LogCacheBytes: max(tail, minLogCacheBytes),
			Writes: s.cfg.LogWrites, Disk: s.cfg.Disk,
		},
		Metadata: s.cfg.Metadata, Uploads: s.cfg.Uploads, Budget: s.budget, Metrics: s.metrics,
		UploadBytes: s.cfg.UploadBytes, UploadInterval: s.cfg.UploadInterval, GroupOffsetsRetention: s.cfg.GroupOffsetsRetention,
		CheckpointBytes: min(s.cfg.CheckpointBytes, share), TailBytes: tail, Logger: s.cfg.Logger,
		TracerProvider: s.cfg.TracerProvider,
	}
}

// run lets a replica run until stop: it outlives the look at the metadata that found it.
func (s *Shards) run(ctx context.Context, number uint32, replicaID, dir string, sh *shard.Shard) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	h := &hosted{replicaID: replicaID, dir: dir, shard: sh, cancel: cancel, done: make(chan struct{})}
	go func() { // joined by stop
		defer close(h.done)
		if err := sh.Run(ctx); err != nil {
			s.cfg.Fatal(err)
		}
	}()
	s.mu.Lock()
	s.running[number] = h
	s.mu.Unlock()
	s.log.Info("replica runs", "shard", number, "replica", replicaID)
}

// retire stops and discards a replica that is no longer wished for, once its group has removed it: until then it may
// be needed for a majority.
func (s *Shards) retire(ctx context.Context, sh *fsm.Shard, h *hosted) error {
	if !s.removed(ctx, sh, h.replicaID) {
		return nil
	}
	if err := s.stop(sh.Number, h); err != nil {
		return err
	}
	s.log.Info("replica was removed from its shard", "shard", sh.Number, "replica", h.replicaID)
	return replica.Discard(h.dir)
}

// removed asks the shard's leader, wherever it is, if its configuration lacks the replica.
func (s *Shards) removed(ctx context.Context, sh *fsm.Shard, replicaID string) bool {
	ctx, cancel := context.WithTimeout(ctx, hostTick)
	defer cancel()
	answers := s.askOthers(ctx, sh)
	if own, ok := s.Get(sh.Number); ok {
		answers = append(answers, describe(own.Replica()))
	}
	return replica.WasRemoved(answers, replicaID)
}

func (s *Shards) stop(number uint32, h *hosted) error {
	s.mu.Lock()
	delete(s.running, number)
	s.mu.Unlock()
	h.cancel()
	<-h.done
	return h.shard.Close()
}

func (s *Shards) stopAll() {
	s.mu.RLock()
	running := maps.Clone(s.running)
	s.mu.RUnlock()
	var wg sync.WaitGroup
	for n, h := range running {
		wg.Go(func() {
			if err := s.stop(n, h); err != nil {
				s.log.Error("replica did not close", "shard", n, "error", err)
			}
		})
	}
	wg.Wait()
}

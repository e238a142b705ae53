package replica

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/transport"
)

// Replica is a running replica. Safe for concurrent use.
type Replica struct {
	cfg       Config
	log       *slog.Logger
	raft      *raft.Raft
	store     *logstore.Store
	snapshots *snapshotStore
	// replayed is the last index of the log at the start: up to there old configurations may be applied.
	replayed  uint64
	transport *transport.RaftTransport

	configuration atomic.Pointer[configuration] // the newest committed one; nil before one is known
	givingUp      atomic.Bool
	giveUpMu      sync.Mutex    // one decision to give up at a time
	checkpointMu  sync.Mutex    // one checkpoint at a time
	reloadMu      sync.Mutex    // one change of Raft's settings at a time
	opened        chan struct{} // closed when raft is set
	waitsMu       sync.Mutex
	closed        bool           // guarded by waitsMu; no more waits may begin
	hasty         bool           // guarded by waitsMu; see connectionLost
	waits         sync.WaitGroup // goroutines that use Raft
	calls         sync.WaitGroup // goroutines that use the transport, and end with it
	transfersMu   sync.Mutex
	transfers     map[raft.ServerID]uint64 // guarded by transfersMu; see firstTransfer
	closeOnce     sync.Once
	closeErr      error
}

// Open verifies a replica's files and starts Raft. Without files the error is ErrMissing; with damaged ones it is a
// *logstore.CorruptError that names the file, and the replica must be discarded. Where the FSM can't restore its newest
// snapshot the error names the file and wraps the FSM's.
func Open(cfg Config) (*Replica, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if ok, err := Exists(cfg.Dir); err != nil || !ok {
		return nil, errors.Join(fmt.Errorf("%s: %w", cfg.Dir, ErrMissing), err)
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	log = log.With("logger", "raft", "group", cfg.Group.String())
	r := &Replica{cfg: cfg, log: log, opened: make(chan struct{})}
	if err := r.openFiles(log); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	tr, err := cfg.Transport.Raft(cfg.Group, cfg.ID, cfg.Addr, newHCLog(log), r.connectionLost)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	r.transport = tr
	f := &watchedFSM{FSM: cfg.FSM, replica: r}
	r.raft, err = raft.NewRaft(cfg.raftConfig(log), f, r.store, r.store, r.snapshots, tr)
	if err != nil {
		if f.restored != nil {
			err = fmt.Errorf("restore %s: %w", r.snapshots.newest(), f.restored)
		}
		return nil, errors.Join(fmt.Errorf("start Raft of %s: %w", cfg.Group, err), r.Close())
	}
	r.replayed = r.raft.LastIndex()
	close(r.opened)
	return r, nil
}

// configuration is one of the group's, and the index of its entry.
type configuration struct {
	index   uint64
	servers []raft.Server
}

// watchedFSM keeps what the library knows of an FSM and does not tell. The committed configuration: its own
// GetConfiguration returns the newest one in the log, which may never be committed, and leaves its index out. And why a
// snapshot was not restored at the start: that is only logged.
type watchedFSM struct {
	raft.FSM
	replica  *Replica
	restored error // of the last Restore
}

var _ raft.ConfigurationStore = (*watchedFSM)(nil)

// StoreConfiguration implements raft.ConfigurationStore.
func (f *watchedFSM) StoreConfiguration(index uint64, c raft.Configuration) {
	f.replica.configured(index, c)
}

// Restore implements raft.FSM.
func (f *watchedFSM) Restore(rc io.ReadCloser) error {
	f.restored = f.FSM.Restore(rc)
	return f.restored
}

func (r *Replica) configured(index uint64, c raft.Configuration) {
	next := &configuration{index: index, servers: c.Clone().Servers}
	for {
		old := r.configuration.Load()
		if old != nil && index <= old.index || r.configuration.CompareAndSwap(old, next) {
			return
		}
	}
}

// committed returns the newest configuration that is known to be committed, an empty one of index 0 before there is one.
func (r *Replica) committed() configuration {
	if c := r.configuration.Load(); c != nil {
		return *c
	}
	return configuration{}
}

func (r *Replica) openFiles(log *slog.Logger) error {
	if err := condemned(r.cfg.Dir); err != nil {
		return err
	}
	sc := logstore.Config{
		Dir: r.cfg.Dir, CacheBytes: r.cfg.LogCacheBytes, Fatal: r.cfg.Fatal, Logger: newHCLog(log), Writes: r.cfg.Writes, Disk: r.cfg.Disk,
		SegmentBytes: r.cfg.SegmentBytes,
	}
	var err error
	if r.cfg.Store == Bolt {
		r.store, err = logstore.OpenBolt(sc)
	} else {
		r.store, err = logstore.OpenWAL(sc)
	}
	if err != nil {
		return err
	}
	if r.snapshots, err = openSnapshots(r.cfg.Dir, newHCLog(log), r.cfg.Fatal, r.configured); err != nil {
		return err
	}
	index, term, err := r.snapshots.verify()
	if err != nil {
		return err
	}
	return r.store.Verify(index, term)
}

// Bootstrap makes this replica the only voter of a new group.
func (r *Replica) Bootstrap() error {
	err := r.raft.BootstrapCluster(raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(r.cfg.ID), Address: transport.ServerAddress(r.cfg.ID, r.cfg.Addr),
	}}}).Error()
	if err != nil {
		return fmt.Errorf("bootstrap %s: %w", r.cfg.Group, err)
	}
	return nil
}

// Raft returns the Raft instance.
func (r *Replica) Raft() *raft.Raft { return r.raft }

// ID returns the replica's id.
func (r *Replica) ID() string { return r.cfg.ID }

// IsLeader says whether this replica leads, as far as it knows.
func (r *Replica) IsLeader() bool { return r.raft.State() == raft.Leader }

// Leader returns the id of the group's leader, as far as this replica knows.
func (r *Replica) Leader() (replicaID string, ok bool) {
	_, id := r.raft.LeaderWithID()
	return string(id), id != ""
}

// InGroup reports whether this replica knows a leader, or a configuration that it is in. A new one does once it was added.
func (r *Replica) InGroup() bool {
	if _, ok := r.Leader(); ok {
		return true
	}
	return slices.ContainsFunc(r.committed().servers, func(s raft.Server) bool { return string(s.ID) == r.cfg.ID })
}

// Log returns the log entry at index, checked against its CRC. An error that wraps raft.ErrLogNotFound says that it was
// cut. The caller only reads the entry.
func (r *Replica) Log(index uint64) (*raft.Log, error) {
	var l raft.Log
	if err := r.store.GetLog(index, &l); err != nil {
		return nil, err
	}
	return &l, nil
}

// FirstIndex returns the first index of the log, 0 when it is empty.
func (r *Replica) FirstIndex() uint64 {
	first, _ := r.store.FirstIndex() // the wrapper knows it without reading
	return first
}

// LogBytes returns the bytes of the entries in the log.
func (r *Replica) LogBytes() int64 { return r.store.LogBytes() }

// Checkpoint takes a snapshot and cuts the log behind it, but for RetainBytes. Without anything new it does nothing.
func (r *Replica) Checkpoint() error {
	r.checkpointMu.Lock()
	defer r.checkpointMu.Unlock()
	trailing := uint64(0)
	if last, from := r.raft.LastIndex(), r.store.IndexRetaining(r.cfg.RetainBytes); from <= last {
		trailing = last - from + 1
	}
	if err := r.reload(func(rc *raft.ReloadableConfig) { rc.TrailingLogs = trailing }); err != nil {
		return fmt.Errorf("set trailing logs of %s: %w", r.cfg.Group, err)
	}
	if err := r.raft.Snapshot().Error(); err != nil && !errors.Is(err, raft.ErrNothingNewToSnapshot) {
		return fmt.Errorf("snapshot of %s: %w", r.cfg.Group, err)
	}
	return nil
}

// reload changes some of Raft's settings.
func (r *Replica) reload(change func(*raft.ReloadableConfig)) error {
	r.reloadMu.Lock()
	defer r.reloadMu.Unlock()
	rc := r.raft.ReloadableConfig()
	change(&rc)
	return r.raft.ReloadConfig(rc)
}

// Await begins something in Raft and waits for its future, or until ctx ends. The error is the future's, ctx's, or
// ErrClosed where nothing was begun.
func (r *Replica) Await(ctx context.Context, begin func(*raft.Raft) raft.Future) error {
	done := make(chan error, 1)
	r.waitsMu.Lock()
	if r.closed {
		r.waitsMu.Unlock()
		return ErrClosed
	}
	r.waits.Go(func() { done <- begin(r.raft).Error() })
	r.waitsMu.Unlock()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops Raft and closes connections and files. It is idempotent.
func (r *Replica) Close() error {
	r.closeOnce.Do(func() {
		r.waitsMu.Lock()
		r.closed = true
		r.waitsMu.Unlock()
		// A future ends while Raft runs: a leader that can't commit steps down. What is still in Raft's queues when it is
		// shut down never ends.
		r.waits.Wait()
		if r.raft != nil {
			r.closeErr = r.raft.Shutdown().Error()
		}
		if r.transport != nil {
			r.closeErr = errors.Join(r.closeErr, r.transport.Close())
		}
		r.calls.Wait()
		if r.store != nil {
			r.closeErr = errors.Join(r.closeErr, r.store.Close())
		}
	})
	return r.closeErr
}

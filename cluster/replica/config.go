package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/transport"
)

// Store says which log store a replica has.
type Store int

const (
	// WAL is raft-wal, for shards.
	WAL Store = iota
	// Bolt is raft-boltdb, for the metadata group.
	Bolt
)

// Timeouts are a group's Raft timeouts.
type Timeouts struct {
	// Heartbeat is how long a follower hears nothing before it calls an election.
	Heartbeat time.Duration
	// Election is how long a candidate waits for votes.
	Election time.Duration
	// Lease is how long a leader leads without reaching a majority.
	Lease time.Duration
	// Commit is how long, and at most twice, a leader without new entries keeps to itself how far the log is committed.
	// It costs an idle node processor time and the others time until they apply.
	Commit time.Duration
}

// Config says what a replica is. All fields are required unless said otherwise.
type Config struct {
	// Dir holds the replica's files and nothing else.
	Dir string
	// Group is the Raft group.
	Group transport.Group
	// ID is the replica's id, <node id>/<ULID>: its Raft ServerID.
	ID string
	// Addr is the advertised Raft address of this node.
	Addr string
	// Store is the kind of log store.
	Store Store
	// FSM applies the group's entries.
	FSM raft.FSM
	// Transport carries the group.
	Transport *transport.Transport
	Timeouts  Timeouts
	// Fatal ends the node. It must not block.
	Fatal func(error)
	// RetainBytes of the log stay behind a checkpoint.
	RetainBytes int64
	// LogCacheBytes bounds the memory for the newest entries; 0 is 16 MiB.
	LogCacheBytes int64
	// SegmentBytes is the size of the log's files where Store is WAL: see logstore.Config.
	SegmentBytes int
	// Writes watches the writes to the log. May be nil.
	Writes *logstore.Writes
	// Disk is what the log is written through; nil is the operating system's.
	Disk logstore.Disk
	// Logger may be nil.
	Logger *slog.Logger
}

// Validate names the first field that is missing.
func (c *Config) Validate() error {
	switch {
	case c.Dir == "" || c.ID == "" || c.Addr == "":
		return errors.New("replica: Dir, ID and Addr are required")
	case c.FSM == nil || c.Transport == nil || c.Fatal == nil:
		return errors.New("replica: FSM, Transport and Fatal are required")
	case c.Timeouts.Heartbeat <= 0 || c.Timeouts.Election <= 0 || c.Timeouts.Lease <= 0 || c.Timeouts.Commit <= 0:
		return fmt.Errorf("replica: timeouts %+v must be positive", c.Timeouts)
	case c.RetainBytes < 0:
		return fmt.Errorf("replica: RetainBytes %d must not be negative", c.RetainBytes)
	}
	return nil
}

const (
	// maxAppendEntries is how many entries Raft writes and sends at once.
	maxAppendEntries = 64
	// keptSnapshots is how many snapshots stay on disk. Only the newest is used; the other one is for a rescue by hand.
	keptSnapshots = 2
	// never is the library's own snapshot interval: checkpoints decide.
	never = 365 * 24 * time.Hour
)

func (c *Config) raftConfig(log *slog.Logger) *raft.Config {
	rc := raft.DefaultConfig()
	rc.LocalID = raft.ServerID(c.ID)
	rc.HeartbeatTimeout = c.Timeouts.Heartbeat
	rc.ElectionTimeout = c.Timeouts.Election
	rc.LeaderLeaseTimeout = c.Timeouts.Lease
	rc.CommitTimeout = c.Timeouts.Commit
	rc.MaxAppendEntries = maxAppendEntries
	rc.BatchApplyCh = true
	rc.SnapshotInterval = never
	rc.SnapshotThreshold = 1 << 62
	rc.NoLegacyTelemetry = true
	rc.ShutdownOnRemove = false
	rc.Logger = newHCLog(log)
	return rc
}

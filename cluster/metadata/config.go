package metadata

import (
	"errors"
	"log/slog"
	"time"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
)

// Peers gives the clients of other nodes.
type Peers interface {
	// Client returns a client of the node, which must not be closed. It does not
	// block; it fails when the node's address is not known.
	Client(nodeID string) (nodev1.NodeServiceClient, error)
}

// Config sets up the metadata group of one node.
type Config struct {
	// Replica describes this node's replica; its FSM and Fatal are set by Open.
	Replica replica.Config
	// Peers gives the clients of other nodes.
	Peers Peers
	// CheckpointBytes is how much the log may grow before a snapshot is taken. Default 16 MiB.
	CheckpointBytes int64
	// CheckpointEntries is how many commands may be applied before a snapshot is taken. Default 20,000.
	CheckpointEntries uint64
	// CheckpointInterval is the time between two looks at the log. Default 5 s.
	CheckpointInterval time.Duration
	// Fatal is called when the node must end itself. It must not block.
	Fatal func(error)
	// Logger may be nil.
	Logger *slog.Logger
}

// retainBytes of log stay behind a snapshot, so that a slow follower catches up by log.
const retainBytes = 8 << 20

func (c *Config) setDefaults() {
	if c.CheckpointBytes <= 0 {
		c.CheckpointBytes = 16 << 20
	}
	if c.CheckpointEntries == 0 {
		c.CheckpointEntries = 20_000
	}
	if c.CheckpointInterval <= 0 {
		c.CheckpointInterval = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("logger", "metadata")
	if c.Replica.RetainBytes <= 0 {
		c.Replica.RetainBytes = retainBytes
	}
	if c.Replica.Logger == nil {
		c.Replica.Logger = c.Logger
	}
}

// Validate returns an error that names the first field that is missing.
func (c *Config) Validate() error {
	switch {
	case c.Peers == nil:
		return errors.New("metadata: Peers must be set")
	case c.Fatal == nil:
		return errors.New("metadata: Fatal must be set")
	case c.Replica.Dir == "":
		return errors.New("metadata: Replica.Dir must be set")
	case c.Replica.ID == "":
		return errors.New("metadata: Replica.ID must be set")
	}
	return nil
}

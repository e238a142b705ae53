package controller

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

// MetadataGroup is what the controller needs of the metadata group.
// *metadata.Group is one. Safe for concurrent use.
type MetadataGroup interface {
	// View returns the state that this node has applied. It never blocks.
	View() *fsm.View
	// Watch returns a channel that is closed at the next change of View.
	Watch() <-chan struct{}
	// Barrier returns once View has all that was committed before the call, or with an error when ctx ends.
	Barrier(ctx context.Context) error
	// Propose applies a command and returns once View has it. A refusal is a *fsm.Rejection.
	Propose(ctx context.Context, cmd *metav1.Command) (*metav1.Result, error)
	// IsLeader reports whether this node leads the metadata group. It never blocks.
	IsLeader() bool
}

// Gossip tells who is alive. *gossip.Gossip is one. Safe for concurrent use; nothing blocks.
type Gossip interface {
	// IncarnationAlive reports whether this life of a node is seen.
	IncarnationAlive(nodeID, incarnation string) bool
	// Changed returns a channel that is closed when somebody comes or goes.
	Changed() <-chan struct{}
}

// Peers gives the clients of all nodes, this one too. *peer.Peers is one. Safe for concurrent use.
type Peers interface {
	// Client returns a client of the node, which must not be closed. It does not
	// block; it fails when the node's address is not known.
	Client(nodeID string) (nodev1.NodeServiceClient, error)
}

// Bucket is where the objects are. object.Bucket is one. Safe for concurrent use.
type Bucket interface {
	object.Lister
	// Get reads length bytes from offset. The caller closes the reader.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

// Config sets up a Controller. NodeID, Metadata, Gossip, Peers and Bucket must be set.
type Config struct {
	// NodeID is this node.
	NodeID   string
	Metadata MetadataGroup
	Gossip   Gossip
	Peers    Peers
	Bucket   Bucket
	// Superseded returns an error unless it is sure that the cluster was not recovered from its object store without this
	// node, whose metadata then says nothing about objects any more. May be nil.
	Superseded func(ctx context.Context) error
	// ReplaceAfter is how long a node is away before its replicas are placed elsewhere. Default 10 min.
	ReplaceAfter time.Duration
	// ObjectGrace is how long an object stays after nothing refers to it any more. Default 1 h.
	ObjectGrace time.Duration
	// RetentionInterval is the time between two looks for what retention lets go. Default 30 s.
	RetentionInterval time.Duration
	// JanitorInterval is the time between two rounds of the janitor. Default a quarter of
	// ObjectGrace, at least 1 s and at most 1 min.
	JanitorInterval time.Duration
	// Now tells the time; default time.Now.
	Now func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

func (c *Config) setDefaults() {
	if c.ReplaceAfter <= 0 {
		c.ReplaceAfter = 10 * time.Minute
	}
	if c.ObjectGrace <= 0 {
		c.ObjectGrace = time.Hour
	}
	if c.RetentionInterval <= 0 {
		c.RetentionInterval = 30 * time.Second
	}
	if c.JanitorInterval <= 0 {
		c.JanitorInterval = min(max(c.ObjectGrace/4, time.Second), time.Minute)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("logger", "controller")
}

// Validate returns an error that names the first field that is missing.
func (c *Config) Validate() error {
	switch {
	case c.NodeID == "":
		return errors.New("controller: NodeID must be set")
	case c.Metadata == nil:
		return errors.New("controller: Metadata must be set")
	case c.Gossip == nil:
		return errors.New("controller: Gossip must be set")
	case c.Peers == nil:
		return errors.New("controller: Peers must be set")
	case c.Bucket == nil:
		return errors.New("controller: Bucket must be set")
	}
	return nil
}

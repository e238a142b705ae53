package gossip

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/memberlist"
)

// Config sets up gossip of one node.
type Config struct {
	// Self is this node as the others shall see it. GossipAddr is the
	// advertised address; empty means the address that is bound.
	Self Member
	// ClusterName labels every packet: nodes of another name are not heard.
	ClusterName string
	// BindAddr is the host:port to listen on, TCP and UDP. Port 0 takes a free one.
	BindAddr string
	// Seeds are gossip addresses to join by. Names are resolved on every try.
	Seeds []string
	// KnownPeers returns the gossip addresses of the nodes that the metadata
	// knows; it may be nil.
	KnownPeers func() []string
	// RejoinInterval is the time between two looks for missing nodes. Default 2 s.
	RejoinInterval time.Duration
	// ProbeInterval is the time between two probes. Default 1 s.
	ProbeInterval time.Duration
	// Transport carries gossip; nil is TCP and UDP on BindAddr.
	Transport memberlist.Transport
	// Logger may be nil.
	Logger *slog.Logger
}

func (c *Config) setDefaults() {
	if c.RejoinInterval <= 0 {
		c.RejoinInterval = 2 * time.Second
	}
	if c.ProbeInterval <= 0 {
		c.ProbeInterval = time.Second
	}
	if c.KnownPeers == nil {
		c.KnownPeers = func() []string { return nil }
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("logger", "gossip")
}

// Validate returns an error that names the first field that is wrong.
func (c *Config) Validate() error {
	if !validNodeID(c.Self.NodeID) {
		return fmt.Errorf("Self.NodeID %q: must match [a-zA-Z0-9._-]{1,64}", c.Self.NodeID)
	}
	if !validIncarnation(c.Self.Incarnation) {
		return fmt.Errorf("Self.Incarnation %q: must be 26 letters and digits", c.Self.Incarnation)
	}
	if c.ClusterName == "" || len(c.ClusterName) > maxLabelBytes {
		return fmt.Errorf("ClusterName: must have 1 to %d bytes", maxLabelBytes)
	}
	if _, _, err := net.SplitHostPort(c.BindAddr); err != nil {
		return fmt.Errorf("BindAddr: %w", err)
	}
	for _, s := range c.Seeds {
		if _, _, err := net.SplitHostPort(s); err != nil {
			return fmt.Errorf("a seed (Seeds): %w", err)
		}
	}
	return nil
}

// maxLabelBytes is what memberlist allows for a label.
const maxLabelBytes = 255

// ErrMetaTooLong means that a node's addresses and zone do not fit into what memberlist carries.
var ErrMetaTooLong = errors.New("addresses and zone are too long to gossip")

// DuplicateError means that another live node has this node's id.
type DuplicateError struct {
	NodeID string
	// Addr is where the other node was heard.
	Addr string
}

// Error names the mend.
func (e *DuplicateError) Error() string {
	return fmt.Sprintf("node id %q is in use by a live node at %s: give this node another --node-id", e.NodeID, e.Addr)
}

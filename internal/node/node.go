package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/broker/scrub"
	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/cluster/peer"
	"github.com/streamhouse/streamhouse/cluster/transport"
	"github.com/streamhouse/streamhouse/observability"
	"github.com/streamhouse/streamhouse/storage/cache"
	"github.com/streamhouse/streamhouse/storage/object"
)

// failedStopTimeout bounds how long a node that must end takes its leave.
const failedStopTimeout = 10 * time.Second

// Node is one StreamHouse server.
type Node struct {
	cfg    Config
	edges  Edges
	logger *observability.Logger
	log    *slog.Logger // the logger alone

	stopping atomic.Bool            // not ready any more
	failed   atomic.Bool            // the node ends because something broke
	serving  atomic.Bool            // all parts run
	waitsFor atomic.Pointer[string] // what a node without a cluster waits for

	broke  atomic.Pointer[error] // the first error that ends the node
	cancel context.CancelFunc    // set by Run

	// The parts, set by the steps of start in their order and not changed after.
	reg       *prometheus.Registry
	logs      logstore.Metrics
	tracing   *observability.Tracing // nil when off
	stored    *object.Metrics
	answered  *broker.Metrics
	conns     prometheus.Gauge
	blocks    *cache.Cache
	identity  *identityFile
	bucket    object.Bucket
	httpAddr  string
	grpc      net.Listener
	transport *transport.Transport
	resolver  *resolver
	gossip    *gossip.Gossip
	peers     *peer.Pool
	group     *metadata.Group
	joiner    *joiner
	member    *member
	shards    *broker.Shards
	groups    *broker.Replicas
	broker    *broker.Broker
	scrubber  *scrub.Scrubber
}

// New checks the settings and starts nothing.
func New(cfg Config) (*Node, error) { return NewWithEdges(cfg, Edges{}) }

// NewWithEdges is New for a node in another world than the real one.
func NewWithEdges(cfg Config, edges Edges) (*Node, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	edges.setDefaults()
	logger, err := observability.NewLogger(edges.Logs, cfg.LogFormat, cfg.LogLevel, cfg.NodeID)
	if err != nil {
		return nil, err
	}
	return &Node{cfg: cfg, edges: edges, logger: logger, log: logger.Logger}, nil
}

// Logger returns the node's logger, for what speaks for the whole process.
func (n *Node) Logger() *slog.Logger { return n.log }

// Run starts the node and blocks until ctx ends or something breaks that the
// node can't live with. It returns nil after a clean stop. It can be called once.
func (n *Node) Run(ctx context.Context) error {
	ctx, n.cancel = context.WithCancel(ctx)
	defer n.cancel()
	logs := serve(ctx, "log", n.fatal, n.logger.Run)
	defer func() { _ = logs.stop() }() // last, and it has no errors
	st := &stack{log: n.log}
	startErr := n.start(ctx, st)
	if startErr == nil {
		n.serving.Store(true)
		n.log.Info("node is up", "grpc", n.grpc.Addr().String())
		<-ctx.Done()
	}
	err := n.endReason(ctx, startErr)
	n.failed.Store(err != nil)
	n.stopping.Store(true)
	if err != nil {
		n.log.Error("node ends", "error", err)
	} else {
		n.log.Info("node stops")
	}
	stopErr := n.unwind(st)
	if err != nil {
		if stopErr != nil {
			n.log.Warn("parts did not stop well", "error", stopErr)
		}
		return err
	}
	return stopErr
}

// endReason tells a stop that was asked for, nil, from a failure.
func (n *Node) endReason(ctx context.Context, startErr error) error {
	if err := n.broke.Load(); err != nil {
		return *err
	}
	if ctx.Err() == nil {
		return startErr
	}
	return nil
}

// unwind stops all parts. After a failure a part may hang on the very disk that
// failed: the process is to end anyway, so it is not waited for without bound.
func (n *Node) unwind(st *stack) error {
	if !n.failed.Load() {
		return st.unwind()
	}
	done := make(chan error, 1)
	go func() { done <- st.unwind() }()
	timer := time.NewTimer(failedStopTimeout)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("some parts did not stop in %s", failedStopTimeout)
	}
}

// fatal ends the node with the first error that it is called with. It does not block.
func (n *Node) fatal(err error) {
	if n.broke.CompareAndSwap(nil, &err) {
		n.cancel()
	}
}

// Ready returns nil when the node serves; else the reason. It does not block.
func (n *Node) Ready(context.Context) error {
	switch {
	case n.stopping.Load():
		return errors.New("the node is shutting down")
	case !n.serving.Load():
		if what := n.waitsFor.Load(); what != nil {
			return errors.New("the node is starting: it waits for " + *what)
		}
		return errors.New("the node is starting")
	}
	if err := n.group.Ready(); err != nil {
		return err
	}
	return n.member.ready()
}

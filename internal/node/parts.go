package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/broker/rpc"
	"github.com/streamhouse/streamhouse/cluster/controller"
	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/recovery"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// indexCacheBytes bounds the segment indexes that are kept in memory.
const indexCacheBytes = 16 << 20

// startShards runs this node's replicas of shards as the metadata wishes them.
func (n *Node) startShards(ctx context.Context, st *stack) error {
	n.shards = broker.NewShards(broker.ShardsConfig{
		NodeID: n.cfg.NodeID, Dir: n.shardsDir(), RaftAddr: n.self().RaftAddr,
		Metadata: n.group, Peers: n.peers, Transport: n.transport, Uploads: n.bucket, Timeouts: n.timeouts(shardCommit),
		UploadBytes: n.cfg.UploadBytes, UploadInterval: n.cfg.UploadInterval, GroupOffsetsRetention: n.cfg.GroupOffsetsRetention,
		Groups:          &recovery.Groups{Bucket: n.bucket, Grace: n.cfg.ObjectGrace, Logger: n.log},
		CheckpointBytes: n.cfg.CheckpointBytes, RetainBytes: n.cfg.LogRetainBytes,
		MaxLogBytes: n.cfg.LogMaxBytes, MinFreeBytes: n.cfg.DiskMinFree, TailBytes: n.cfg.TailBytes,
		LogWrites: n.logs.Shards, Disk: n.edges.Disk, TracerProvider: n.tracing.Provider(),
		Fatal: n.fatal, Logger: n.log, Registerer: n.reg,
	})
	st.push("shards", serve(ctx, "shards", n.fatal, n.shards.Run).stop)
	return nil
}

// startBroker brings up what clients' calls do, with the history behind it.
func (n *Node) startBroker(ctx context.Context, st *stack) error {
	n.groups = broker.NewReplicas(n.group.Replica(), n.shards, n.group.View)
	var err error
	n.broker, err = broker.New(broker.Config{
		NodeID: n.cfg.NodeID, Metadata: n.group, Shards: broker.Hosted(n.shards), Peers: n.peers,
		History:        segment.NewReader(n.blocks, indexCacheBytes),
		Groups:         n.groups,
		PeerError:      rpc.FromPeer,
		Alive:          n.alive,
		CanLeave:       n.canLeave,
		MaxRecordBytes: n.cfg.MaxRecordBytes, MaxRequestBytes: n.cfg.MaxRequestBytes,
		Logger: n.log, Metrics: n.answered, TracerProvider: n.tracing.Provider(),
	})
	if err != nil {
		return err
	}
	st.push("broker", serve(ctx, "broker", n.fatal, n.broker.Run).stop)
	return nil
}

// alive reports whether a node is there to stay, as far as gossip knows.
func (n *Node) alive(nodeID string) bool {
	m, ok := n.gossip.Member(nodeID)
	return ok && !m.Leaving
}

func (n *Node) canLeave(nodeID string) error {
	return controller.CheckDrain(n.group.View(), nodeID, n.alive)
}

// startCalls opens the node to other nodes and then to clients. When it stops,
// leaderships go first, while all calls are still served and forwarded.
func (n *Node) startCalls(ctx context.Context, st *stack) error {
	if err := n.newScrubber(); err != nil {
		return err
	}
	peers, err := rpc.NewNodeServer(rpc.NodeConfig{ //nolint:contextcheck // it asks for the level of the log
		Shards: broker.Hosted(n.shards), Groups: n.groups, Metadata: n.group, Joiner: n.joiner, Digests: n.scrubber,
		MaxInflightBytes: n.cfg.MaxInflightBytes, MaxRequestBytes: n.cfg.MaxRequestBytes, Logger: n.log,
		TracerProvider: n.tracing.Provider(), Registerer: n.reg,
	})
	if err != nil {
		return err
	}
	inner := grpc.NewServer(append(nodeOptions(), peers.Options()...)...)
	peers.Register(inner)
	n.serveGRPC(ctx, st, "node calls", inner, func() error { return inner.Serve(n.transport.RPCListener()) }, graceNode)
	st.push("node polls", func() error { peers.EndPolls(); return nil })

	calls, err := rpc.NewServer(rpc.Config{ //nolint:contextcheck // it asks for the level of the log
		Broker: n.broker, MaxInflightBytes: n.cfg.MaxInflightBytes, MaxRequestBytes: n.cfg.MaxRequestBytes, Logger: n.log,
		TracerProvider: n.tracing.Provider(), Registerer: n.reg,
	})
	if err != nil {
		return err
	}
	public := grpc.NewServer(append(publicOptions(), calls.Options()...)...)
	calls.Register(public)
	hs := health.NewServer()
	healthpb.RegisterHealthServer(public, hs)
	n.serveGRPC(ctx, st, "client calls", public, func() error { return public.Serve(countedListener{n.grpc, n.conns}) }, gracePublic)
	st.push("long polls", func() error { n.broker.EndPolls(); return nil })
	services := []string{"", streamhousev1.StreamHouseService_ServiceDesc.ServiceName, streamhousev1.ClusterService_ServiceDesc.ServiceName}
	st.push("hand over", n.handOver)
	st.push("grpc health", serve(ctx, "grpc health", n.fatal, func(ctx context.Context) error {
		mirrorHealth(ctx, hs, func() error { return n.Ready(ctx) }, services)
		return nil
	}).stop)
	return nil
}

// serveGRPC runs a server until it is stopped.
func (n *Node) serveGRPC(ctx context.Context, st *stack, name string, s *grpc.Server, run func() error, grace time.Duration) {
	svc := serve(ctx, name, n.fatal, func(context.Context) error {
		if err := run(); err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			return err
		}
		return nil
	})
	st.push(name, func() error {
		gracefulStop(s, n.grace(grace))
		return svc.stop()
	})
}

// handOver gives all leaderships of this node away, as far as somebody can take them.
func (n *Node) handOver() error {
	if n.failed.Load() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), handOverTimeout)
	defer cancel()
	if err := n.gossip.SetLeaving(); err != nil {
		return fmt.Errorf("tell that this node leaves: %w", err)
	}
	n.shards.HandOver(ctx)
	if n.group.IsLeader() {
		if err := n.group.Replica().HandOver(ctx); err != nil {
			n.log.Info("the metadata group was not handed over", "error", err)
		}
	}
	return nil
}

// stayers is gossip without the nodes that are about to leave: they are to get no leadership.
type stayers struct{ *gossip.Gossip }

// IncarnationAlive reports whether this life of a node is seen and goes on.
func (s stayers) IncarnationAlive(nodeID, incarnation string) bool {
	return slices.ContainsFunc(s.Members(), func(m gossip.Member) bool {
		return m.NodeID == nodeID && m.Incarnation == incarnation && !m.Leaving
	})
}

// startCheckpoints keeps the metadata in the object store, where this node leads the metadata group.
func (n *Node) startCheckpoints(ctx context.Context, st *stack) error {
	c, err := recovery.NewCheckpointer(recovery.Config{
		Metadata: n.group, Bucket: n.bucket, Grace: n.cfg.ObjectGrace, Superseded: func(err error) {
			n.fatal(fmt.Errorf("%w: empty --data-dir %s to let this node join anew", err, n.cfg.DataDir))
		}, Logger: n.log, Registerer: n.reg,
	})
	if err != nil {
		return err
	}
	st.push("metadata checkpoints", serve(ctx, "metadata checkpoints", n.fatal, c.Run).stop)
	return nil
}

// startController changes the cluster, where this node leads the metadata group.
func (n *Node) startController(ctx context.Context, st *stack) error {
	c := controller.New(controller.Config{
		NodeID: n.cfg.NodeID, Metadata: n.group, Gossip: stayers{n.gossip}, Peers: n.peers, Bucket: n.bucket,
		Superseded: func(ctx context.Context) error {
			view := n.group.View()
			return recovery.Superseded(ctx, n.bucket, view.ClusterID(), view.RecoveryID())
		},
		ReplaceAfter: n.cfg.ReplaceAfter, ObjectGrace: n.cfg.ObjectGrace, Logger: n.log, Registerer: n.reg,
	})
	st.push("controller", serve(ctx, "controller", n.fatal, c.Run).stop)
	return nil
}

package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/cluster/peer"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/cluster/transport"
	"github.com/streamhouse/streamhouse/observability"
	"github.com/streamhouse/streamhouse/storage/cache"
	"github.com/streamhouse/streamhouse/storage/object"
)

const (
	storeOpenTimeout = 30 * time.Second
	leaveTimeout     = time.Second
	handOverTimeout  = 5 * time.Second
	metaCacheBytes   = 8 << 20
)

// start brings the parts up in the order of their dependence: who holds the
// directory, what is seen from outside (so that a node that waits can be asked
// why), the object store, the wires, the cluster, the metadata, the shards, the
// broker, who may call it, and last who changes things on its own. They stop in
// reverse: first nothing new is begun, then leaderships go, then calls end, and
// only then what they need.
func (n *Node) start(ctx context.Context, st *stack) error {
	steps := []func(context.Context, *stack) error{
		n.startFiles,
		n.startTracing,
		n.startHTTP,
		n.startStore,
		n.startWires,
		n.startCluster,
		n.startMetadata,
		n.startShards,
		n.startBroker,
		n.startCalls,
		n.startCheckpoints,
		n.startController,
		n.startScrubber,
		n.startMember,
	}
	for _, step := range steps {
		if err := step(ctx, st); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	return nil
}

// startFiles takes the data directory and reads who this node is.
func (n *Node) startFiles(_ context.Context, st *stack) error {
	lock, err := lockDir(n.cfg.DataDir)
	if err != nil {
		return err
	}
	st.push("lock", lock.Close)
	n.identity, err = openIdentity(n.cfg.DataDir, n.cfg.NodeID, n.cfg.ClusterName)
	return err
}

// startTracing sends spans away, where the environment says where to. It ends last, to take the spans of what ends before.
func (n *Node) startTracing(ctx context.Context, st *stack) error {
	var err error
	if n.tracing, err = observability.NewTracing(ctx, n.cfg.NodeID); err != nil {
		return err
	}
	st.push("tracing", n.tracing.Close)
	return nil
}

// startHTTP serves metrics and health, which stay until the very end.
func (n *Node) startHTTP(ctx context.Context, st *stack) error {
	n.reg = observability.NewRegistry(time.Now())
	if err := observability.BridgeRaftMetrics(n.reg); err != nil {
		return err
	}
	n.resolver = &resolver{identity: n.identity}
	n.registerMetrics(ctx)
	st.push("cache", n.blocks.Close)
	srv, err := observability.Listen(ctx, observability.Config{
		Addr: n.cfg.HTTPAddr, Listen: n.edges.Listen, Gatherer: n.reg, Ready: n.Ready, Logger: n.log,
	})
	if err != nil {
		return fmt.Errorf("--http-addr: %w", err)
	}
	n.httpAddr = srv.Addr()
	st.push("http", serve(ctx, "http", n.fatal, srv.Run).stop)
	return nil
}

// lateBucket is the object store for the cache, which is there before it and does not read before that.
type lateBucket struct{ node *Node }

// Get implements cache.Source.
func (l lateBucket) Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error) {
	return l.node.bucket.Get(ctx, name, offset, length)
}

// registerMetrics registers what a node tells before its parts run, from the first scrape on.
func (n *Node) registerMetrics(ctx context.Context) {
	n.logs = logstore.NewMetrics(n.reg)
	n.stored = object.NewMetrics(n.reg)
	n.answered = broker.NewMetrics(n.reg)
	n.conns = newConnGauge(n.reg)
	n.blocks = cache.New(lateBucket{n}, cache.Config{CapacityBytes: n.cfg.CacheBytes, Registerer: n.reg})
	gossip.RegisterMetrics(n.reg, n.resolver.gossip.Load)
	metadata.RegisterMetrics(n.reg, n.resolver.group.Load)
	observability.RegisterDisk(n.reg, n.cfg.DataDir)
	f := promauto.With(n.reg)
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streamhouse_ready", Help: "1 while /ready says 200, else 0.",
	}, func() float64 {
		if n.Ready(ctx) != nil {
			return 0
		}
		return 1
	})
	for name, setting := range map[string]struct {
		help  string
		value float64
	}{
		"streamhouse_disk_min_free_bytes":     {"--disk-min-free: with less than this free on the disk, produce is refused.", float64(n.cfg.DiskMinFree)},
		"streamhouse_log_limit_bytes":         {"--log-max-bytes: with this much in the logs of all shards together, produce is refused.", float64(n.cfg.LogMaxBytes)},
		"streamhouse_upload_interval_seconds": {"--upload-interval: records are uploaded once the oldest waits so long.", n.cfg.UploadInterval.Seconds()},
	} {
		f.NewGauge(prometheus.GaugeOpts{Name: name, Help: setting.help}).Set(setting.value)
	}
}

// startStore opens the object store. A node without a cluster needs it now: it
// is where a cluster begins. A member starts without it when it must.
func (n *Node) startStore(ctx context.Context, st *stack) error {
	octx, cancel := context.WithTimeout(ctx, storeOpenTimeout)
	defer cancel()
	b, err := n.openStore(octx)
	if err != nil {
		return fmt.Errorf("--object-store %s: %w", object.Redact(n.cfg.ObjectStore), err)
	}
	counted := object.WithMetrics(object.WithTracing(b, n.tracing.Provider()), n.stored)
	n.bucket = object.WithRetry(counted, object.RetryConfig{Metrics: n.stored})
	id := n.identity.get()
	if id.MetadataReplicaID == "" {
		hasty := object.WithRetry(counted, object.RetryConfig{Tries: 2, AttemptTimeout: storeOpenTimeout / 4, Metrics: n.stored})
		if err := object.Probe(octx, hasty); err != nil {
			return fmt.Errorf("--object-store %s: %w", object.Redact(n.cfg.ObjectStore), err)
		}
		return nil
	}
	check := &storeChecker{bucket: n.bucket, url: n.cfg.ObjectStore, clusterID: id.ClusterID, recoveryID: id.RecoveryID, log: n.log.With("logger", "node")}
	sure, err := check.first(ctx)
	if err != nil || sure {
		return err
	}
	st.push("store check", serve(ctx, "object store", n.fatal, check.run).stop)
	return nil
}

func (n *Node) openStore(ctx context.Context) (object.Bucket, error) {
	if n.edges.Bucket != nil {
		return n.edges.Bucket, nil
	}
	return object.Open(ctx, n.cfg.ObjectStore, object.WithLogger(n.log))
}

// startWires takes the addresses: gRPC, Raft, gossip.
func (n *Node) startWires(ctx context.Context, st *stack) error {
	var err error
	if n.grpc, err = n.edges.Listen(ctx, n.cfg.GRPCAddr); err != nil {
		return fmt.Errorf("--grpc-addr: %w", err)
	}
	st.push("grpc listener", func() error { return ignoreClosed(n.grpc.Close()) })
	n.transport, err = transport.Listen(ctx, transport.Config{
		Addr: n.cfg.RaftAddr, Resolver: n.resolver, Listen: n.edges.Listen, Dial: n.edges.Dial, Logger: n.log,
	})
	if err != nil {
		return fmt.Errorf("--raft-addr: %w", err)
	}
	st.push("transport", n.transport.Close)
	id := n.identity.get()
	self := gossip.Member{
		NodeID: n.cfg.NodeID, Incarnation: id.Incarnation, Zone: n.cfg.Zone, BootstrapExpect: n.cfg.BootstrapExpect,
		RaftAddr: n.cfg.Advertised(n.transport.Addr().String()),
		GRPCAddr: n.cfg.Advertised(n.grpc.Addr().String()),
		HTTPAddr: n.cfg.Advertised(n.httpAddr),
	}
	if id.MetadataReplicaID != "" {
		self.ClusterID = id.ClusterID
		n.transport.SetClusterID(id.ClusterID)
	}
	if n.cfg.AdvertiseAddr != "" {
		self.GossipAddr = n.cfg.Advertised(n.cfg.GossipAddr)
	}
	wire, err := n.edges.Gossip(n.cfg.GossipAddr)
	if err != nil {
		return fmt.Errorf("--gossip-addr: %w", err)
	}
	n.gossip, err = gossip.New(ctx, gossip.Config{
		Self: self, ClusterName: n.cfg.ClusterName, BindAddr: n.cfg.GossipAddr, Seeds: n.cfg.Join,
		KnownPeers: n.resolver.gossipAddrs, Transport: wire, Logger: n.log,
	})
	if err != nil {
		return fmt.Errorf("--gossip-addr: %w", err)
	}
	st.push("gossip", func() error { return n.gossip.Leave(leaveTimeout) })
	n.resolver.gossip.Store(n.gossip)
	st.push("gossip rejoin", serve(ctx, "gossip", n.fatal, n.gossip.Run).stop)
	st.push("transport listener", serve(ctx, "transport", n.fatal, n.transport.Run).stop)
	n.peers = peer.New(peer.Config{Transport: n.transport, Resolver: n.resolver, TracerProvider: n.tracing.Provider()})
	st.push("peers", n.peers.Close)
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// startCluster makes a fresh node begin a cluster or join one.
func (n *Node) startCluster(ctx context.Context, _ *stack) error {
	log := n.log.With("logger", "node")
	f := &former{
		cfg: &n.cfg, identity: n.identity, gossip: n.gossip, bucket: n.bucket,
		join: n.registrar(nil).register, self: n.self, files: metaFiles{n.cfg.DataDir}, log: log,
		waits: func(what string) { n.waitsFor.Store(&what) },
	}
	if err := f.form(ctx); err != nil {
		return err
	}
	clusterID := n.identity.get().ClusterID
	n.transport.SetClusterID(clusterID)
	return n.gossip.SetClusterID(clusterID)
}

// self is this node as it registers with the cluster.
func (n *Node) self() gossip.Member { return n.gossip.Self() }

func (n *Node) registrar(local *joiner) *registrar {
	return &registrar{cfg: &n.cfg, self: n.self, identity: n.identity, gossip: n.gossip, peers: n.peers, local: local}
}

// startMetadata opens this node's replica of the metadata group.
func (n *Node) startMetadata(ctx context.Context, st *stack) error {
	log := n.log.With("logger", "node")
	opener := &groupOpener{
		identity: n.identity, files: metaFiles{n.cfg.DataDir}, config: n.metadataConfig, ask: n.askMetadata,
		waits: func(what string) { n.waitsFor.Store(&what) }, log: log,
	}
	var err error
	if n.group, err = opener.open(ctx); err != nil {
		return err
	}
	st.push("metadata", n.group.Close)
	n.resolver.group.Store(n.group)
	st.push("metadata rounds", serve(ctx, "metadata", n.fatal, n.group.Run).stop)
	n.joiner = &joiner{clusterName: n.cfg.ClusterName, metadata: n.group, gossip: n.gossip, now: time.Now, log: log}
	n.member = &member{
		cfg: &n.cfg, identity: n.identity, group: n.group, gossip: n.gossip,
		registrar: n.registrar(n.joiner), log: log,
	}
	return nil
}

func (n *Node) metadataConfig(replicaID, dir string) metadata.Config {
	return metadata.Config{
		Replica: replica.Config{
			Dir: dir, Group: transport.Metadata, ID: replicaID,
			Addr: n.self().RaftAddr, Store: replica.Bolt, Transport: n.transport, Timeouts: n.timeouts(metaCommit),
			Logger: n.log, LogCacheBytes: metaCacheBytes, Writes: n.logs.Metadata, Disk: n.edges.Disk,
		},
		Peers: n.peers, Fatal: n.fatal, Logger: n.log,
	}
}

// What a change of the metadata is waited for on every node; what a shard's followers apply late, nobody waits for, and
// telling them costs an idle node processor time.
const (
	metaCommit  = 100 * time.Millisecond
	shardCommit = 200 * time.Millisecond
)

func (n *Node) timeouts(commit time.Duration) replica.Timeouts {
	return replica.Timeouts{
		Heartbeat: n.cfg.RaftHeartbeatTimeout, Election: n.cfg.RaftElectionTimeout, Lease: n.cfg.RaftLeaseTimeout,
		Commit: commit,
	}
}

func (n *Node) shardsDir() string { return filepath.Join(n.cfg.DataDir, "shards") }

// startMember registers this node and remembers the others.
func (n *Node) startMember(ctx context.Context, st *stack) error {
	st.push("member", serve(ctx, "member", n.fatal, n.member.run).stop)
	return nil
}

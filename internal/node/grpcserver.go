package node

import (
	"context"
	"math"
	"net"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/keepalive"
)

const (
	healthTick = 200 * time.Millisecond

	gracePublic = 10 * time.Second
	graceNode   = 3 * time.Second
	graceFailed = 200 * time.Millisecond
)

// publicOptions are what the server for clients has beside its interceptors and bounds.
func publicOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 5 * time.Second, PermitWithoutStream: true}),
		grpc.ConnectionTimeout(10 * time.Second),
	}
}

// nodeOptions are what the server for other nodes has beside its interceptors and bounds.
func nodeOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: time.Second, PermitWithoutStream: true}),
	}
}

// gracefulStop says goodbye to the clients, waits for what is in flight, at most
// for grace, then closes all connections.
func gracefulStop(s *grpc.Server, grace time.Duration) {
	timer := time.AfterFunc(grace, s.Stop)
	defer timer.Stop()
	s.GracefulStop()
}

// mirrorHealth lets gRPC health say what /ready says, until ctx ends; then it says no for good.
func mirrorHealth(ctx context.Context, hs *health.Server, ready func() error, services []string) {
	ticker := time.NewTicker(healthTick)
	defer ticker.Stop()
	defer hs.Shutdown()
	for {
		st := healthpb.HealthCheckResponse_SERVING
		if ready() != nil {
			st = healthpb.HealthCheckResponse_NOT_SERVING
		}
		for _, s := range services {
			hs.SetServingStatus(s, st)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// newConnGauge returns what counts open client connections.
func newConnGauge(reg prometheus.Registerer) prometheus.Gauge {
	return promauto.With(reg).NewGauge(prometheus.GaugeOpts{
		Name: "streamhouse_connections_active",
		Help: "Open gRPC connections of clients.",
	})
}

// countedListener counts its open connections. A stats.Handler could too, but gRPC would make objects for it in every call.
type countedListener struct {
	net.Listener

	open prometheus.Gauge
}

// Accept implements net.Listener.
func (l countedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Inc()
	return &countedConn{Conn: c, closed: sync.OnceFunc(l.open.Dec)}, nil
}

// countedConn is a connection that is counted until it is closed first.
type countedConn struct {
	net.Conn

	closed func()
}

// Close implements net.Conn.
func (c *countedConn) Close() error {
	c.closed()
	return c.Conn.Close()
}

// grace is how long calls may take to end.
func (n *Node) grace(d time.Duration) time.Duration {
	if n.failed.Load() {
		return graceFailed
	}
	return d
}

package rpc

import (
	"errors"
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/reflection"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

const (
	defaultMaxInflightBytes = 64 << 20
	defaultMaxRequestBytes  = 16 << 20
)

// Config sets up the public services.
type Config struct {
	Broker *broker.Broker
	// MaxInflightBytes bounds the bytes of requests that are under way. Default 64 MiB.
	MaxInflightBytes int64
	// MaxRequestBytes bounds one request, and one message of a stream. Default 16 MiB.
	MaxRequestBytes int
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// TracerProvider, where it is not nil, gets the spans of calls.
	TracerProvider trace.TracerProvider
}

// untraced are the calls that get no span: they ask after a node's health. What is done in a stream has spans of its own.
var untraced = []string{healthpb.Health_Check_FullMethodName, healthpb.Health_List_FullMethodName}

// Server is the public gRPC services of one node.
type Server struct {
	options []grpc.ServerOption
	count   *counting
	service *serviceHandler
	cluster *clusterHandler
}

// NewServer returns the public services. It starts nothing: make a grpc.Server with Options, and Register.
func NewServer(cfg Config) (*Server, error) {
	if cfg.Broker == nil {
		return nil, errors.New("rpc: Broker must be set")
	}
	if cfg.MaxInflightBytes <= 0 {
		cfg.MaxInflightBytes = defaultMaxInflightBytes
	}
	if cfg.MaxRequestBytes <= 0 {
		cfg.MaxRequestBytes = defaultMaxRequestBytes
	}
	g := newGuard(cfg.MaxInflightBytes, cfg.MaxRequestBytes, named(cfg.Logger, "rpc"))
	g.limiter.export(cfg.Registerer, "clients")
	count := &counting{broker: cfg.Broker}
	s := &Server{
		options: []grpc.ServerOption{
			// A request above the bound is taken in up to twice the bound, to be refused by name.
			grpc.MaxRecvMsgSize(2 * cfg.MaxRequestBytes),
			grpc.ForceServerCodecV2(g.codec),
			grpc.InTapHandle(tracing.Take),
			grpc.ChainUnaryInterceptor(count.unary, g.unary),
			grpc.ChainStreamInterceptor(count.stream, g.stream),
		},
		count:   count,
		service: &serviceHandler{broker: cfg.Broker, guard: g},
		cluster: &clusterHandler{broker: cfg.Broker},
	}
	if cfg.TracerProvider != nil {
		s.options = append([]grpc.ServerOption{grpc.ChainUnaryInterceptor(tracing.UnaryServer(cfg.TracerProvider, untraced...))}, s.options...)
	}
	return s, nil
}

// Options returns the options that the grpc.Server must have, to come behind those of the caller.
func (s *Server) Options() []grpc.ServerOption { return s.options }

// Register registers the services, and reflection.
func (s *Server) Register(r reflection.GRPCServer) {
	r.RegisterService(s.count.service(streamhousev1.StreamHouseService_ServiceDesc), s.service)
	streamhousev1.RegisterClusterServiceServer(r, s.cluster)
	reflection.Register(r)
}

func named(log *slog.Logger, name string) *slog.Logger {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return log.With("logger", name)
}

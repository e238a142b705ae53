package client_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/streamhouse/streamhouse/client"
)

// certificate makes one for 127.0.0.1, and the pool that trusts it.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, pool
}

// encrypted listens with TLS before a node.
func encrypted(t *testing.T, cert tls.Certificate, node string) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12})
	require.NoError(t, err)
	var wg sync.WaitGroup
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := new(net.Dialer).DialContext(t.Context(), "tcp", node)
			if err != nil {
				_ = from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1]) // until one side ends
					_ = pair[0].Close()
				})
			}
		}
	})
	return l.Addr().String()
}

// With Config.TLS connections are encrypted, and a node that can't prove who it is is not spoken to.
func TestTLS(t *testing.T) {
	f := start(t, 1)
	cert, pool := certificate(t)
	addr := encrypted(t, cert, f.nodes[0].Addr())
	for name, tc := range map[string]struct {
		tls *tls.Config
		ok  bool
	}{
		"trusted":  {&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, true},
		"stranger": {&tls.Config{MinVersion: tls.VersionTLS12}, false},
		"plain":    {nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t, client.Config{Addrs: []string{addr}, TLS: tc.tls, RequestTimeout: 5 * time.Second})
			topics, err := client.NewAdmin(c).ListTopics(t.Context())
			if !tc.ok {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Len(t, topics, 1)
		})
	}
}

// spans is a tracer that notes the names of spans, all of one trace.
type spans struct {
	noop.Tracer

	mu    sync.Mutex
	names []string // guarded by mu
}

// provider hands out a tracer.
type provider struct {
	noop.TracerProvider

	spans *spans
}

// Tracer implements trace.TracerProvider.
func (p provider) Tracer(string, ...trace.TracerOption) trace.Tracer { return p.spans }

// Start implements trace.Tracer.
func (s *spans) Start(ctx context.Context, name string, _ ...trace.SpanStartOption) (context.Context, trace.Span) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.names = append(s.names, name)
	ctx = trace.ContextWithSpanContext(ctx, trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled,
	}))
	return ctx, trace.SpanFromContext(ctx)
}

// With Config.TracerProvider every call has a span, and carries its context as W3C trace context.
func TestTracing(t *testing.T) {
	got := make(chan metadata.MD, 10)
	server := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, s grpc.ServerStream) error {
		md, _ := metadata.FromIncomingContext(s.Context())
		got <- md
		return status.Error(codes.InvalidArgument, "enough")
	}))
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() { _ = server.Serve(l) })
	t.Cleanup(func() {
		server.Stop()
		wg.Wait()
	})
	s := &spans{}
	c := open(t, client.Config{Addrs: []string{l.Addr().String()}, TracerProvider: provider{spans: s}})
	_, err = client.NewAdmin(c).ListTopics(t.Context())
	require.Error(t, err)
	require.Equal(t, []string{"00-01000000000000000000000000000000-0200000000000000-01"}, (<-got).Get("traceparent"))
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Equal(t, []string{"streamhouse.v1.StreamHouseService/ListTopics"}, s.names)
}

package client

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

const (
	// DefaultAddr is where a node listens that was started without settings.
	DefaultAddr = "127.0.0.1:50051"

	defaultRequestTimeout = 30 * time.Second
	defaultDialTimeout    = 3 * time.Second
	defaultMetadataMaxAge = time.Minute
)

// Config says how to reach a cluster. Zero values are the defaults.
type Config struct {
	// Addrs are nodes to begin with, each HOST:PORT; the others are learned from them. The default is DefaultAddr.
	Addrs []string
	// ClientID is shown to operators, at most 249 bytes. It may be empty.
	ClientID string
	// TLS, where it is not nil, encrypts connections. The default is plain text.
	TLS *tls.Config
	// RequestTimeout bounds a call whose context has no deadline, retries included. The default is 30 s.
	RequestTimeout time.Duration
	// DialTimeout bounds the making of one connection. The default is 3 s.
	DialTimeout time.Duration
	// Dial makes a connection to HOST:PORT, over which TLS comes on top. The default is TCP.
	Dial func(ctx context.Context, addr string) (net.Conn, error)
	// MetadataMaxAge is for how long a topic's partitions and leaders are taken as known; they are asked for anew
	// where a call fails, too. The default is 1 minute.
	MetadataMaxAge time.Duration
	// Logger takes what goes wrong and is tried again, and rebalances. The default discards it.
	Logger *slog.Logger
	// Registerer, where it is not nil, takes the client's metrics, whose names begin with streamhouse_client_. One
	// registerer takes one Client.
	Registerer prometheus.Registerer
	// TracerProvider, where it is not nil, gets a span for every call, and for every batch of a producer one below the span
	// of the context that its first record was produced in, with links to the others'.
	TracerProvider trace.TracerProvider
	// Propagator carries a trace's context to nodes. The default is W3C trace context where TracerProvider is set; nodes
	// understand no other.
	Propagator propagation.TextMapPropagator
}

// Validate returns an error that names the first field with a bad value.
func (c Config) Validate() error {
	for _, addr := range c.Addrs {
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return badField("Addrs", "%q must be HOST:PORT", addr)
		}
	}
	const maxClientIDBytes = 249
	if n := len(c.ClientID); n > maxClientIDBytes {
		return badField("ClientID", "it has %d bytes, at most %d are allowed", n, maxClientIDBytes)
	}
	for name, d := range map[string]time.Duration{
		"RequestTimeout": c.RequestTimeout, "DialTimeout": c.DialTimeout, "MetadataMaxAge": c.MetadataMaxAge,
	} {
		if d < 0 {
			return badField(name, "%s is below 0", d)
		}
	}
	return nil
}

func (c Config) withDefaults() Config {
	if len(c.Addrs) == 0 {
		c.Addrs = []string{DefaultAddr}
	}
	setDefault(&c.RequestTimeout, defaultRequestTimeout)
	setDefault(&c.DialTimeout, defaultDialTimeout)
	setDefault(&c.MetadataMaxAge, defaultMetadataMaxAge)
	if c.Dial == nil {
		c.Dial = func(ctx context.Context, addr string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.TracerProvider != nil && c.Propagator == nil {
		c.Propagator = propagation.TraceContext{}
	}
	return c
}

// setDefault sets what is zero.
func setDefault[T comparable](v *T, byDefault T) {
	var zero T
	if *v == zero {
		*v = byDefault
	}
}

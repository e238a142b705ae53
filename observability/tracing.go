package observability

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

const (
	// flushTimeout bounds the sending of the last spans when a node stops.
	flushTimeout = 2 * time.Second
	// cutTimeout bounds the wait for an export that was cut off.
	cutTimeout = 500 * time.Millisecond

	envEndpoint       = "OTEL_EXPORTER_OTLP_ENDPOINT"
	envTracesEndpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
	envProtocol       = "OTEL_EXPORTER_OTLP_PROTOCOL"
	envTracesProtocol = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"
	envSampler        = "OTEL_TRACES_SAMPLER"
	envSamplerArg     = "OTEL_TRACES_SAMPLER_ARG"
)

// samplers are those of OTEL_TRACES_SAMPLER.
var samplers = []string{
	"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
}

// Tracing sends spans to an OTLP endpoint. Its queue is bounded and drops what it has no room for, so that a slow or dead
// endpoint holds up nobody.
type Tracing struct {
	provider *sdktrace.TracerProvider
	exporter sdktrace.SpanExporter
}

// NewTracing reads OpenTelemetry's environment variables. Without an endpoint it returns nil, which is a Tracing that is
// off. It does not connect. What the SDK would ignore with a word in the log is an error here.
func NewTracing(ctx context.Context, nodeID string) (*Tracing, error) {
	name := envTracesEndpoint
	endpoint := os.Getenv(name)
	if endpoint == "" {
		name = envEndpoint
		endpoint = os.Getenv(name)
	}
	off, _ := strconv.ParseBool(os.Getenv("OTEL_SDK_DISABLED")) // only "true" counts, as the SDK has it
	if endpoint == "" || off || os.Getenv("OTEL_TRACES_EXPORTER") == "none" {
		return nil, nil //nolint:nilnil // off
	}
	u, err := url.Parse(endpoint)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("%s: want http://HOST:PORT or https://HOST:PORT", name) // it may have a password
	}
	if err := checkSampler(os.Getenv(envSampler), os.Getenv(envSamplerArg)); err != nil {
		return nil, err
	}
	exporter, err := newExporter(ctx, cmp.Or(os.Getenv(envTracesProtocol), os.Getenv(envProtocol), protocolOf(u)))
	if err != nil {
		return nil, err
	}
	res, err := newResource(ctx, nodeID)
	if err != nil {
		return nil, errors.Join(err, exporter.Shutdown(ctx))
	}
	return &Tracing{
		exporter: exporter,
		provider: sdktrace.NewTracerProvider(sdktrace.WithBatcher(exporter), sdktrace.WithResource(res)),
	}, nil
}

// protocolOf returns the protocol where none is named: OpenTelemetry's default, but for the port that is gRPC's.
func protocolOf(endpoint *url.URL) string {
	if endpoint.Port() == "4317" {
		return "grpc"
	}
	return "http/protobuf"
}

// newExporter returns an exporter that takes all else from the environment.
func newExporter(ctx context.Context, protocol string) (sdktrace.SpanExporter, error) {
	switch protocol {
	case "grpc":
		return otlptracegrpc.New(ctx)
	case "http/protobuf":
		return otlptracehttp.New(ctx)
	default:
		return nil, fmt.Errorf("%s: %q must be grpc or http/protobuf", envProtocol, protocol)
	}
}

func checkSampler(sampler, arg string) error {
	sampler = strings.ToLower(strings.TrimSpace(sampler))
	if sampler != "" && !slices.Contains(samplers, sampler) {
		return fmt.Errorf("%s: %q must be one of %s", envSampler, sampler, strings.Join(samplers, ", "))
	}
	if arg = strings.TrimSpace(arg); arg == "" || !strings.HasSuffix(sampler, "traceidratio") {
		return nil
	}
	if ratio, err := strconv.ParseFloat(arg, 64); err != nil || !(ratio >= 0 && ratio <= 1) {
		return fmt.Errorf("%s: %q must be a number from 0 to 1", envSamplerArg, arg)
	}
	return nil
}

// newResource says who makes the spans. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
func newResource(ctx context.Context, nodeID string) (*resource.Resource, error) {
	b := Build()
	res, err := resource.New(ctx,
		resource.WithTelemetrySDK(),
		resource.WithAttributes(
			attribute.String("service.name", "streamhouse"),
			attribute.String("service.version", b.Version),
			attribute.String("service.instance.id", nodeID),
			attribute.String("streamhouse.node_id", nodeID),
			attribute.String("vcs.ref.head.revision", b.Revision),
		),
		resource.WithFromEnv(),
	)
	if err != nil {
		return nil, fmt.Errorf("OTEL_RESOURCE_ATTRIBUTES: %w", err)
	}
	return res, nil
}

// Provider returns what makes spans, nil where tracing is off.
func (t *Tracing) Provider() trace.TracerProvider {
	if t == nil {
		return nil
	}
	return t.provider
}

// Close sends what is left, for at most flushTimeout, and ends. Spans that are not sent by then are lost, which is no error.
func (t *Tracing) Close() error {
	if t == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err == nil {
		return nil
	}
	// An export is under way: it ends with the exporter.
	ctx, cut := context.WithTimeout(context.Background(), cutTimeout)
	defer cut()
	_ = t.exporter.Shutdown(ctx) // there is nobody to tell
	return nil
}

package harness

import (
	"context"
	"encoding/hex"
	"net"
	"slices"
	"sync"
	"testing"

	collectorpb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/grpc"
)

// OTLP is a receiver of traces over gRPC.
type OTLP struct {
	collectorpb.UnimplementedTraceServiceServer

	addr string

	mu    sync.Mutex
	spans []Span // guarded by mu
}

// Span is a span as it was received, with the node that sent it, "" for a client.
type Span struct {
	*tracepb.Span
	Node string
}

// Trace returns the trace's id in hexadecimal.
func (s Span) Trace() string { return hex.EncodeToString(s.GetTraceId()) }

// Below reports whether s is a child of another span.
func (s Span) Below(parent Span) bool {
	return slices.Equal(s.GetTraceId(), parent.GetTraceId()) && slices.Equal(s.GetParentSpanId(), parent.GetSpanId())
}

// Attribute returns an attribute as text, "" where there is none.
func (s Span) Attribute(key string) string { return attribute(s.GetAttributes(), key) }

func attribute(attrs []*commonpb.KeyValue, key string) string {
	for _, a := range attrs {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// StartOTLP starts a receiver, which ends with the test.
func StartOTLP(tb testing.TB) *OTLP {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", FreeAddr(tb))
	if err != nil {
		tb.Fatal(err)
	}
	o := &OTLP{addr: l.Addr().String()}
	s := grpc.NewServer()
	collectorpb.RegisterTraceServiceServer(s, o)
	done := make(chan struct{})
	go func() { // joined by the cleanup
		defer close(done)
		_ = s.Serve(l) // it ends with Stop
	}()
	tb.Cleanup(func() {
		s.Stop()
		<-done
	})
	return o
}

// Addr is the receiver's host and port.
func (o *OTLP) Addr() string { return o.addr }

// Env is the environment of nodes that send all their traces here.
func (o *OTLP) Env() []string {
	return []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + o.addr, "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "OTEL_BSP_SCHEDULE_DELAY=200",
	}
}

// Export takes spans.
func (o *OTLP) Export(_ context.Context, req *collectorpb.ExportTraceServiceRequest) (*collectorpb.ExportTraceServiceResponse, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, r := range req.GetResourceSpans() {
		node := attribute(r.GetResource().GetAttributes(), "streamhouse.node_id")
		for _, scope := range r.GetScopeSpans() {
			for _, s := range scope.GetSpans() {
				o.spans = append(o.spans, Span{s, node})
			}
		}
	}
	return &collectorpb.ExportTraceServiceResponse{}, nil
}

// Spans returns what was received of one trace, or of all where trace is "".
func (o *OTLP) Spans(trace string) []Span {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(o.spans), func(s Span) bool { return trace != "" && s.Trace() != trace })
}

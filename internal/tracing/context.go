package tracing

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/metadata"
)

// The headers of W3C trace context.
const (
	parentHeader = "traceparent"
	stateHeader  = "tracestate"
)

// Propagator carries W3C trace context, and no baggage: that is for those who call, and none of a broker's business.
var Propagator propagation.TextMapPropagator = propagation.TraceContext{}

// Pair is a carrier of W3C trace context alone.
type Pair struct{ Parent, State string }

var _ propagation.TextMapCarrier = (*Pair)(nil)

// Get implements propagation.TextMapCarrier.
func (p *Pair) Get(key string) string {
	switch key {
	case parentHeader:
		return p.Parent
	case stateHeader:
		return p.State
	default:
		return ""
	}
}

// Set implements propagation.TextMapCarrier.
func (p *Pair) Set(key, value string) {
	switch key {
	case parentHeader:
		p.Parent = value
	case stateHeader:
		p.State = value
	}
}

// Keys implements propagation.TextMapCarrier.
func (p *Pair) Keys() []string { return []string{parentHeader, stateHeader} }

// WithRemote returns ctx with the caller's trace context. What is not valid is left out.
func WithRemote(ctx context.Context, parent, state string) context.Context {
	return Propagator.Extract(ctx, &Pair{Parent: parent, State: state})
}

// outgoing returns ctx with its trace context among the headers of calls.
func outgoing(ctx context.Context) context.Context {
	if !trace.SpanContextFromContext(ctx).IsValid() {
		return ctx
	}
	var p Pair
	Propagator.Inject(ctx, &p)
	if p.State == "" {
		return metadata.AppendToOutgoingContext(ctx, parentHeader, p.Parent)
	}
	return metadata.AppendToOutgoingContext(ctx, parentHeader, p.Parent, stateHeader, p.State)
}

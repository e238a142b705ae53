package tracing

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/tap"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func recorder(t *testing.T, s sdktrace.Sampler) (*sdktrace.TracerProvider, *tracetest.SpanRecorder) {
	t.Helper()
	r := tracetest.NewSpanRecorder()
	p := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(r), sdktrace.WithSampler(s))
	t.Cleanup(func() { require.NoError(t, p.Shutdown(context.Background())) })
	return p, r
}

func names(r *tracetest.SpanRecorder) []string {
	var out []string
	for _, s := range r.Ended() {
		out = append(out, s.Name())
	}
	slices.Sort(out)
	return out
}

func remote(flags trace.TraceFlags) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: flags})
}

func TestWithoutAProvider(t *testing.T) {
	var tr Tracer
	require.Equal(t, New(nil), tr)
	require.False(t, tr.On())
	ctx := trace.ContextWithSpanContext(t.Context(), remote(trace.FlagsSampled))
	for _, start := range []func() (context.Context, trace.Span){
		func() (context.Context, trace.Span) { return tr.Child(ctx, "x") },
		func() (context.Context, trace.Span) { return tr.Request(ctx, "x", trace.SpanKindServer) },
		func() (context.Context, trace.Span) { return tr.Root(ctx, "x") },
	} {
		got, s := start()
		require.Equal(t, ctx, got)
		require.False(t, s.IsRecording())
		End(s, errors.New("x"))
	}
	_, s := tr.Request(ctx, "x", trace.SpanKindServer)
	require.Equal(t, remote(trace.FlagsSampled), s.SpanContext(), "the caller's goes along")
}

func TestChildrenOfSampledSpansOnly(t *testing.T) {
	p, r := recorder(t, sdktrace.ParentBased(sdktrace.NeverSample()))
	tr := New(p)
	_, s := tr.Child(t.Context(), "orphan")
	End(s, nil)
	_, s = tr.Child(trace.ContextWithSpanContext(t.Context(), remote(0)), "unsampled")
	End(s, nil)
	_, s = tr.Child(trace.ContextWithRemoteSpanContext(t.Context(), remote(trace.FlagsSampled)), "child")
	End(s, errors.New("broken"))
	require.Equal(t, []string{"child"}, names(r))
	require.Equal(t, codes.Error, r.Ended()[0].Status().Code)
	require.Equal(t, "broken", r.Ended()[0].Status().Description)
}

func TestBadTraceContextIsLeftOut(t *testing.T) {
	for _, parent := range []string{"", "x", "00-00000000000000000000000000000000-0200000000000000-01", "00-zz"} {
		require.False(t, trace.SpanContextFromContext(WithRemote(t.Context(), parent, "a=b")).IsValid(), parent)
	}
	ctx := WithRemote(t.Context(), "00-01000000000000000000000000000000-0200000000000000-01", "a=b")
	require.Equal(t, "b", trace.SpanContextFromContext(ctx).TraceState().Get("a"))
	require.ElementsMatch(t, Propagator.Fields(), (&Pair{}).Keys())
}

// health answers, and tells the trace that a call came with.
type health struct {
	healthpb.UnimplementedHealthServer
	got  chan trace.SpanContext
	next func(context.Context) // called before it answers
}

func (h *health) Check(ctx context.Context, _ *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	h.got <- trace.SpanContextFromContext(ctx)
	if h.next != nil {
		h.next(ctx)
	}
	return &healthpb.HealthCheckResponse{}, nil
}

func (h *health) Watch(_ *healthpb.HealthCheckRequest, s healthpb.Health_WatchServer) error {
	h.got <- trace.SpanContextFromContext(s.Context())
	return nil
}

// node serves with options and returns a client of it with others.
func node(t *testing.T, h *health, client []grpc.DialOption, server ...grpc.ServerOption) healthpb.HealthClient {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := grpc.NewServer(append(server, grpc.InTapHandle(Take))...)
	healthpb.RegisterHealthServer(s, h)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	conn, err := grpc.NewClient("passthrough:///"+l.Addr().String(), append(client, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, conn.Close())
		s.Stop()
		<-done
	})
	return healthpb.NewHealthClient(conn)
}

// Without any provider the trace context of a caller goes from node to node.
func TestTraceContextGoesAlongWithoutSpans(t *testing.T) {
	behind := &health{got: make(chan trace.SpanContext, 1)}
	second := node(t, behind, []grpc.DialOption{grpc.WithUnaryInterceptor(ChildUnaryClient(nil))})
	front := &health{got: make(chan trace.SpanContext, 1), next: func(ctx context.Context) {
		_, err := second.Check(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
	}}
	first := node(t, front, nil)
	for _, flags := range []trace.TraceFlags{0, trace.FlagsSampled} {
		p := Pair{}
		Propagator.Inject(trace.ContextWithSpanContext(t.Context(), remote(flags)), &p)
		ctx := metadata.AppendToOutgoingContext(t.Context(), parentHeader, p.Parent, stateHeader, "a=b")
		_, err := first.Check(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		for _, h := range []*health{front, behind} {
			sc := <-h.got
			require.Equal(t, remote(flags).TraceID(), sc.TraceID())
			require.Equal(t, remote(flags).SpanID(), sc.SpanID())
			require.Equal(t, flags, sc.TraceFlags())
			require.Equal(t, "a=b", sc.TraceState().String())
		}
		w, err := first.Watch(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		_, err = w.Recv()
		require.Error(t, err)
		require.Equal(t, remote(flags).TraceID(), (<-front.got).TraceID(), "in a stream too")
	}
	_, err := first.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.False(t, (<-front.got).IsValid())
	require.False(t, (<-behind.got).IsValid())
}

// What nodes ask each other on their own account makes no spans; a call that is not sampled makes none behind it.
func TestSpansOfCalls(t *testing.T) {
	p, r := recorder(t, sdktrace.ParentBased(sdktrace.AlwaysSample()))
	behind := &health{got: make(chan trace.SpanContext, 1)}
	second := node(t, behind, []grpc.DialOption{grpc.WithUnaryInterceptor(ChildUnaryClient(p))}, grpc.UnaryInterceptor(ChildUnaryServer(p)))
	front := &health{got: make(chan trace.SpanContext, 1), next: func(ctx context.Context) {
		_, err := second.Check(ctx, &healthpb.HealthCheckRequest{})
		require.NoError(t, err)
		<-behind.got
	}}
	first := node(t, front, []grpc.DialOption{grpc.WithStatsHandler(ClientHandler(p, propagation.TraceContext{}, healthpb.Health_Watch_FullMethodName))},
		grpc.UnaryInterceptor(UnaryServer(p, healthpb.Health_List_FullMethodName)))

	_, err := second.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.False(t, (<-behind.got).IsValid())
	w, err := first.Watch(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	_, err = w.Recv()
	require.Error(t, err)
	require.False(t, (<-front.got).IsValid())
	_, err = first.Check(trace.ContextWithSpanContext(t.Context(), remote(0)), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	require.Equal(t, remote(0).TraceID(), (<-front.got).TraceID(), "its id is in the logs")
	require.Empty(t, names(r))

	_, err = first.Check(t.Context(), &healthpb.HealthCheckRequest{})
	require.NoError(t, err)
	id := (<-front.got).TraceID()
	require.Eventually(t, func() bool { return len(r.Ended()) == 4 }, 10*time.Second, time.Millisecond)
	for _, s := range r.Ended() {
		require.Equal(t, id, s.SpanContext().TraceID(), s.Name())
		require.Equal(t, "grpc.health.v1.Health/Check", s.Name())
	}
}

func TestExemplars(t *testing.T) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "Of a test.", Buckets: []float64{1}})
	Observe(h, 0.5, remote(0))
	Observe(h, 0.5, trace.SpanContext{})
	var m dto.Metric
	require.NoError(t, h.Write(&m))
	require.Nil(t, m.GetHistogram().GetBucket()[0].GetExemplar())
	Observe(h, 0.25, remote(trace.FlagsSampled))
	m.Reset()
	require.NoError(t, h.Write(&m))
	e := m.GetHistogram().GetBucket()[0].GetExemplar()
	require.Equal(t, "trace_id", e.GetLabel()[0].GetName())
	require.Equal(t, remote(0).TraceID().String(), e.GetLabel()[0].GetValue())
	require.InDelta(t, 0.25, e.GetValue(), 0)
	require.EqualValues(t, 3, m.GetHistogram().GetSampleCount())
}

// off does what every batch pays for where tracing is off.
func off(ctx context.Context, tr Tracer, h prometheus.Observer) {
	ctx, _ = Take(ctx, call)
	ctx, s := tr.Child(ctx, "append")
	if s.IsRecording() {
		panic("it records")
	}
	_, s2 := tr.Child(ctx, "forward")
	End(s2, nil)
	End(s, nil)
	Observe(h, 0.001, trace.SpanContextFromContext(ctx))
	outgoing(ctx)
}

var call = &tap.Info{Header: metadata.Pairs(":authority", "x", "content-type", "application/grpc", "user-agent", "grpc-go")}

func TestOffAllocatesNothing(t *testing.T) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "Of a test."})
	ctx := t.Context()
	require.Zero(t, testing.AllocsPerRun(1000, func() { off(ctx, Tracer{}, h) }))
}

func BenchmarkOff(b *testing.B) {
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "Of a test."})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		off(ctx, Tracer{}, h)
	}
}

// BenchmarkUnsampled is what a request pays that the sampler leaves out.
func BenchmarkUnsampled(b *testing.B) {
	p := sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.ParentBased(sdktrace.TraceIDRatioBased(0))))
	tr := New(p)
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h", Help: "Of a test."})
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		ctx, s := tr.Request(ctx, "request", trace.SpanKindServer)
		off(ctx, tr, h)
		s.End()
	}
}

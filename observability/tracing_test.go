package observability

import (
	"context"
	"net"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"
)

func TestTracingIsOffWithoutAnEndpoint(t *testing.T) {
	for _, env := range []map[string]string{
		{},
		{envEndpoint: "http://127.0.0.1:4317", "OTEL_SDK_DISABLED": "true"},
		{envEndpoint: "http://127.0.0.1:4317", "OTEL_TRACES_EXPORTER": "none"},
	} {
		setTracing(t, env)
		tr, err := NewTracing(t.Context(), "n1")
		require.NoError(t, err)
		require.Nil(t, tr)
		require.Nil(t, tr.Provider())
		require.NoError(t, tr.Close())
	}
}

func setTracing(t *testing.T, env map[string]string) {
	t.Helper()
	for _, name := range []string{envEndpoint, envTracesEndpoint, envProtocol, envTracesProtocol, envSampler, envSamplerArg, "OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER"} {
		t.Setenv(name, env[name])
	}
}

func TestTracingRefusesWhatTheSDKIgnores(t *testing.T) {
	const endpoint = "http://127.0.0.1:4318"
	for want, env := range map[string]map[string]string{
		`OTEL_EXPORTER_OTLP_ENDPOINT: want http://HOST:PORT or https://HOST:PORT`:                                                                                 {envEndpoint: "user:hunter22@host:4317"},
		`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: want http://HOST:PORT or https://HOST:PORT`:                                                                          {envTracesEndpoint: "4317"},
		`OTEL_EXPORTER_OTLP_PROTOCOL: "carrier" must be grpc or http/protobuf`:                                                                                    {envEndpoint: endpoint, envProtocol: "carrier"},
		`OTEL_TRACES_SAMPLER_ARG: "2" must be a number from 0 to 1`:                                                                                               {envEndpoint: endpoint, envSampler: "traceidratio", envSamplerArg: "2"},
		`OTEL_TRACES_SAMPLER_ARG: "NaN" must be a number from 0 to 1`:                                                                                             {envEndpoint: endpoint, envSampler: "parentbased_traceidratio", envSamplerArg: "NaN"},
		`OTEL_TRACES_SAMPLER: "some" must be one of always_on, always_off, traceidratio, parentbased_always_on, parentbased_always_off, parentbased_traceidratio`: {envEndpoint: endpoint, envSampler: "some"},
	} {
		setTracing(t, env)
		_, err := NewTracing(t.Context(), "n1")
		require.EqualError(t, err, want)
	}
}

func TestProtocolWhereNoneIsNamed(t *testing.T) {
	for endpoint, want := range map[string]string{"http://h:4317": "grpc", "http://h:4318": "http/protobuf", "https://h": "http/protobuf"} {
		u, err := url.Parse(endpoint)
		require.NoError(t, err)
		require.Equal(t, want, protocolOf(u), endpoint)
	}
}

// An endpoint that takes connections and never answers holds up neither who makes spans nor who stops.
func TestHangingEndpoint(t *testing.T) {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(error) {}))
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var wg sync.WaitGroup
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
	})
	t.Cleanup(func() {
		require.NoError(t, l.Close())
		wg.Wait()
		for _, c := range conns {
			_ = c.Close()
		}
	})
	for _, protocol := range []string{"grpc", "http/protobuf"} {
		setTracing(t, map[string]string{envEndpoint: "http://" + l.Addr().String(), envProtocol: protocol})
		t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
		tr, err := NewTracing(context.WithoutCancel(t.Context()), "n1")
		require.NoError(t, err)
		tracer := tr.Provider().Tracer("test")
		began := time.Now()
		const spans = 20_000 // ten times the queue
		for range spans {
			_, s := tracer.Start(t.Context(), "s")
			s.End()
		}
		took := time.Since(began)
		require.Less(t, took, 5*time.Second)
		began = time.Now()
		require.NoError(t, tr.Close())
		require.Less(t, time.Since(began), flushTimeout+cutTimeout+time.Second)
		t.Logf("%s: %d spans in %v, closed in %v", protocol, spans, took, time.Since(began))
	}
}

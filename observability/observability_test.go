package observability

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	dto "github.com/prometheus/client_model/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func ready(context.Context) error { return nil }

// start runs a server until the test ends and returns its URL.
func start(t *testing.T, cfg Config) string {
	t.Helper()
	cfg.Addr = "127.0.0.1:0"
	if cfg.Gatherer == nil {
		cfg.Gatherer = NewRegistry(time.Now())
	}
	s, err := Listen(t.Context(), cfg)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		require.NoError(t, <-done)
		require.NoError(t, s.Close())
		http.DefaultClient.CloseIdleConnections()
	})
	return "http://" + s.Addr()
}

func get(t *testing.T, url, accept string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	require.NoError(t, err)
	if accept != "" {
		req.Header.Set("Accept", accept)
	}
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body), resp.Header
}

func TestHealth(t *testing.T) {
	var reason atomic.Pointer[string]
	url := start(t, Config{Ready: func(context.Context) error {
		if r := reason.Load(); r != nil {
			return errors.New(*r)
		}
		return nil
	}})
	for _, path := range []string{"/health", "/live"} {
		code, body, h := get(t, url+path, "")
		require.Equal(t, http.StatusOK, code)
		require.JSONEq(t, `{"status":"ok"}`, body)
		require.Equal(t, "application/json", h.Get("Content-Type"))
	}
	code, body, _ := get(t, url+"/ready", "")
	require.Equal(t, http.StatusOK, code)
	require.JSONEq(t, `{"status":"ready"}`, body)

	no := `no leader of "metadata"`
	reason.Store(&no)
	code, body, _ = get(t, url+"/ready", "")
	require.Equal(t, http.StatusServiceUnavailable, code)
	require.JSONEq(t, `{"status":"not_ready","reason":"no leader of \"metadata\""}`, body)
}

func TestReadyAnswersWhileTheCheckHangs(t *testing.T) {
	var running, most atomic.Int32
	url := start(t, Config{Ready: func(ctx context.Context) error {
		if n := running.Add(1); n > most.Load() {
			most.Store(n)
		}
		defer running.Add(-1)
		<-ctx.Done()
		return ctx.Err()
	}})
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			begin := time.Now()
			code, body, _ := get(t, url+"/ready", "")
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("answered after %s", took)
			}
			if code != http.StatusServiceUnavailable || !strings.Contains(body, "not_ready") {
				t.Errorf("%d %s", code, body)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, most.Load(), "checks at a time")
}

func TestMetricsFormats(t *testing.T) {
	url := start(t, Config{Ready: ready})
	code, body, h := get(t, url+"/metrics", "")
	require.Equal(t, http.StatusOK, code)
	require.Contains(t, h.Get("Content-Type"), "text/plain; version=0.0.4")
	for _, want := range []string{"streamhouse_uptime_seconds ", "streamhouse_build_info{", "go_goroutines ", "process_cpu_seconds_total "} {
		require.Contains(t, body, "\n"+want)
	}
	_, body, h = get(t, url+"/metrics", "application/openmetrics-text; version=1.0.0")
	require.Contains(t, h.Get("Content-Type"), "application/openmetrics-text; version=1.0.0")
	require.True(t, strings.HasSuffix(body, "# EOF\n"))
}

func TestRoutes(t *testing.T) {
	url := start(t, Config{Ready: ready})
	for path, want := range map[string]int{"/": 200, "/debug/pprof/": 200, "/debug/pprof/goroutine?debug=1": 200, "/nothing": 404} {
		code, _, _ := get(t, url+path, "")
		require.Equal(t, want, code, path)
	}
	resp, err := http.Post(url+"/ready", "text/plain", nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	require.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
}

// A handler that panics is an error of the node's, whoever made the call; it has a line and no address in the message.
func TestPanicOfAHandler(t *testing.T) {
	var b lockedBuffer
	l, err := NewLogger(&b, "json", "info", "n1")
	require.NoError(t, err)
	url := start(t, Config{Ready: ready, Logger: l.Logger, Gatherer: prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { panic("boom") })})
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url+"/metrics", http.NoBody)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	if err == nil {
		_ = resp.Body.Close()
	}
	require.Error(t, err)
	require.Eventually(t, func() bool { return strings.Contains(b.String(), "boom") }, 10*time.Second, 5*time.Millisecond)
	require.Contains(t, b.String(), `"level":"ERROR","msg":"a handler panicked","logger":"http"`)
}

func TestLevelsOfHTTP(t *testing.T) {
	l, b := jsonLogger(t, "debug")
	w := log.New(&httpLog{l}, "", 0)
	w.Print("http: panic serving 127.0.0.1:1: boom\ngoroutine 1")
	w.Print("http: Accept error: too many open files; retrying in 5ms")
	w.Print("http: TLS handshake error from 127.0.0.1:1: EOF")
	var got []string
	for line := range strings.Lines(b.String()) {
		var f struct{ Level, Msg string }
		require.NoError(t, json.Unmarshal([]byte(line), &f))
		got = append(got, f.Level+" "+f.Msg)
	}
	require.Equal(t, []string{
		"ERROR a handler panicked", "WARN connection was not accepted", "DEBUG http: TLS handshake error from 127.0.0.1:1: EOF",
	}, got)
}

func TestListenRefuses(t *testing.T) {
	_, err := Listen(t.Context(), Config{Addr: "127.0.0.1:0"})
	require.ErrorContains(t, err, "required")
	taken := httptest.NewServer(http.NotFoundHandler())
	defer taken.Close()
	_, err = Listen(t.Context(), Config{Addr: taken.Listener.Addr().String(), Gatherer: prometheus.NewRegistry(), Ready: ready})
	require.ErrorContains(t, err, taken.Listener.Addr().String())
}

func TestCloseTwice(t *testing.T) {
	s, err := Listen(t.Context(), Config{Addr: "127.0.0.1:0", Gatherer: prometheus.NewRegistry(), Ready: ready})
	require.NoError(t, err)
	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	require.NoError(t, s.Run(t.Context()), "after Close")
}

func TestLogger(t *testing.T) {
	var b bytes.Buffer
	l, err := NewLogger(&b, "json", "info", "n1")
	require.NoError(t, err)
	l.Debug("not this")
	l.With("logger", "gossip").Info("a node came", "peer", "n2")
	var line map[string]string
	require.NoError(t, json.Unmarshal(b.Bytes(), &line))
	require.NotEmpty(t, line["time"])
	delete(line, "time")
	require.Equal(t, map[string]string{"level": "INFO", "msg": "a node came", "logger": "gossip", "node_id": "n1", "peer": "n2"}, line)

	b.Reset()
	l, err = NewLogger(&b, "text", "warn", "n1")
	require.NoError(t, err)
	l.Info("not this")
	l.Warn("careful")
	require.Regexp(t, `^time=\S+ level=WARN msg=careful logger=node node_id=n1\n$`, b.String())

	_, err = NewLogger(&b, "xml", "info", "n1")
	require.EqualError(t, err, `log format "xml": must be text or json`)
	_, err = NewLogger(&b, "text", "loud", "n1")
	require.EqualError(t, err, `log level "loud": must be debug, info, warn or error`)
}

func TestRaftMetrics(t *testing.T) {
	reg := prometheus.NewRegistry()
	require.NoError(t, BridgeRaftMetrics(reg))
	t.Cleanup(func() { require.NoError(t, BridgeRaftMetrics(prometheus.NewRegistry())) })

	metrics.IncrCounter([]string{"raft", "state", "leader"}, 1)
	metrics.IncrCounter([]string{"raft", "transition", "heartbeat_timeout"}, 2)
	metrics.AddSample([]string{"raft", "commitTime"}, 3)
	metrics.AddSampleWithLabels([]string{"raft", "thread", "fsm", "saturation"}, 0.5, []metrics.Label{{Name: "peer_id", Value: "x"}})
	metrics.IncrCounter([]string{"raft", "replication", "appendEntries", "logs", "n2/01J"}, 1)
	for _, took := range []float32{0.0039, 0.0035, 1000} { // what is beyond all buckets has one too
		metrics.AddSampleWithLabels([]string{tracing.CommitKey}, took, []metrics.Label{{Name: tracing.TraceLabel, Value: fmt.Sprint("t", took)}})
	}
	metrics.SetGauge([]string{"raft", "peers"}, 3)
	metrics.EmitKey([]string{"raft", "x"}, 3)

	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP streamhouse_raft_timeouts_total Elections called for want of a heartbeat, and leaders that lost their majority.
# TYPE streamhouse_raft_timeouts_total counter
streamhouse_raft_timeouts_total{kind="heartbeat"} 2
streamhouse_raft_timeouts_total{kind="leader_lease"} 0
# HELP streamhouse_raft_transitions_total Replicas of this node that became follower, candidate or leader.
# TYPE streamhouse_raft_transitions_total counter
streamhouse_raft_transitions_total{state="candidate"} 0
streamhouse_raft_transitions_total{state="follower"} 0
streamhouse_raft_transitions_total{state="leader"} 1
`), "streamhouse_raft_timeouts_total", "streamhouse_raft_transitions_total"))
	families, err := reg.Gather()
	require.NoError(t, err)
	for _, f := range families {
		if f.GetName() == "streamhouse_raft_commit_seconds" {
			h := f.GetMetric()[0].GetHistogram()
			require.InDelta(t, 0.003, h.GetSampleSum(), 1e-6)
			require.EqualValues(t, 1, h.GetSampleCount(), "traces tell nothing but exemplars")
			var ids []string
			for _, b := range h.GetBucket() {
				if e := b.GetExemplar(); e != nil {
					require.LessOrEqual(t, e.GetValue(), b.GetUpperBound())
					ids = append(ids, e.GetLabel()[0].GetValue())
				}
			}
			require.Equal(t, []string{"t0.0035", "t1000"}, ids, "the last one of each bucket")
		}
	}
	problems, err := testutil.GatherAndLint(reg)
	require.NoError(t, err)
	require.Empty(t, problems)

	commit, apply, rpc := []string{"raft", "commitTime"}, []string{"raft", "apply"}, []string{"raft", "replication", "appendEntries", "rpc"}
	labels := []metrics.Label{{Name: "peer_id", Value: "x"}}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		metrics.MeasureSince(commit, time.Now())
		metrics.IncrCounter(apply, 1)
		metrics.MeasureSinceWithLabels(rpc, time.Now(), labels)
	}), "what the library counts for every entry")
}

package integration_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// healthEvery is the time between two looks at a node's health.
	healthEvery = 500 * time.Millisecond
	// answersWithin bounds every answer about health. Tests that hold nodes to it don't run beside others.
	answersWithin = time.Second
	// turnsWithin bounds how long readiness may be behind the truth, by the contract.
	turnsWithin = 5 * time.Second
)

// answer is what one path said. A node without a process says nothing: then status is 0.
type answer struct {
	status int
	body   string
	took   time.Duration
}

// look is what a node said of its health at one time.
type look struct {
	at                  time.Time
	health, live, ready answer
	grpc                string
	metrics             answer // without the body
}

// healthRecorder looks at a node's health again and again.
type healthRecorder struct {
	t    *testing.T
	node *harness.Node

	mu    sync.Mutex
	looks []look // guarded by mu
}

// recordHealth looks at a node's health until the returned function is called, which then checks all that was said.
func recordHealth(t *testing.T, n *harness.Node) (r *healthRecorder, stop func()) {
	t.Helper()
	r = &healthRecorder{t: t, node: n}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { // joined by stop
		defer close(done)
		tick := time.NewTicker(healthEvery)
		defer tick.Stop()
		for ctx.Err() == nil {
			l := r.look(context.WithoutCancel(ctx)) // the last look is a whole one
			r.mu.Lock()
			r.looks = append(r.looks, l)
			r.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return r, func() {
		t.Helper()
		cancel()
		<-done
		r.check()
	}
}

func (r *healthRecorder) look(ctx context.Context) look {
	l := look{at: time.Now()}
	var wg sync.WaitGroup
	for path, to := range map[string]*answer{"/health": &l.health, "/live": &l.live, "/ready": &l.ready, "/metrics": &l.metrics} {
		wg.Go(func() { *to = ask(ctx, r.node.URL(path)) })
	}
	wg.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, answersWithin)
		defer cancel()
		res, err := healthpb.NewHealthClient(r.node.Conn).Check(ctx, &healthpb.HealthCheckRequest{})
		if l.grpc = res.GetStatus().String(); err != nil {
			l.grpc = "" // it does not serve
		}
	})
	wg.Wait()
	l.metrics.body = ""
	return l
}

// ask returns what a URL answers; a refused connection is no answer, and one that takes too long is.
func ask(ctx context.Context, url string) answer {
	ctx, cancel := context.WithTimeout(ctx, 4*answersWithin)
	defer cancel()
	began := time.Now()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return answer{body: err.Error()}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return answer{body: err.Error(), took: time.Since(began)}
	}
	body, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return answer{body: err.Error(), took: time.Since(began)}
	}
	return answer{status: resp.StatusCode, body: string(body), took: time.Since(began)}
}

// check holds every look against the contract.
func (r *healthRecorder) check() {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	slowest := time.Duration(0)
	for i, l := range r.looks {
		for path, a := range map[string]answer{"/health": l.health, "/live": l.live, "/ready": l.ready} {
			require.Lessf(r.t, a.took, answersWithin, "%s at %s: %+v", path, l.at, a)
			slowest = max(slowest, a.took)
		}
		for _, a := range []answer{l.health, l.live} {
			if a.status != 0 {
				require.Equal(r.t, http.StatusOK, a.status)
				require.JSONEq(r.t, `{"status":"ok"}`, a.body)
			}
		}
		r.checkReady(i)
	}
	r.t.Logf("%d looks at %s, the slowest answer took %v", len(r.looks), r.node.ID, slowest)
}

// checkReady checks the body of /ready, and that gRPC health says the same, but for a moment around a change.
func (r *healthRecorder) checkReady(i int) {
	r.t.Helper()
	l := r.looks[i]
	switch l.ready.status {
	case http.StatusOK:
		require.JSONEq(r.t, `{"status":"ready"}`, l.ready.body)
	case http.StatusServiceUnavailable:
		var body map[string]string
		require.NoError(r.t, json.Unmarshal([]byte(l.ready.body), &body), l.ready.body)
		require.Equal(r.t, "not_ready", body["status"])
		require.NotEmpty(r.t, body["reason"])
		require.Len(r.t, body, 2)
	default:
		require.Zero(r.t, l.ready.status)
	}
	if i == 0 || i == len(r.looks)-1 || r.looks[i-1].ready.status != l.ready.status || r.looks[i+1].ready.status != l.ready.status {
		return
	}
	if l.ready.status == http.StatusOK {
		require.Equal(r.t, "SERVING", l.grpc, "at %s", l.at)
	} else {
		require.NotEqual(r.t, "SERVING", l.grpc, "at %s", l.at)
	}
}

// turns waits until /ready says something within a bound, and goes on saying it for some looks. It returns the reasons
// that it gave.
func (r *healthRecorder) turns(to int, within time.Duration) string {
	r.t.Helper()
	began := time.Now()
	var at time.Time
	var reasons []string
	harness.Eventually(r.t, within+10*time.Second, fmt.Sprintf("/ready says %d", to), func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		steady := 0
		reasons = nil
		for i := len(r.looks) - 1; i >= 0 && r.looks[i].at.After(began) && r.looks[i].ready.status == to; i-- {
			steady++
			at, reasons = r.looks[i].at, append(reasons, r.looks[i].ready.body)
		}
		if steady < 3 {
			return fmt.Errorf("%d looks so far", steady)
		}
		return nil
	})
	require.LessOrEqual(r.t, at.Sub(began), within+healthEvery)
	r.t.Logf("/ready of %s says %d after %v: %s", r.node.ID, to, at.Sub(began).Round(time.Millisecond), reasons[0])
	return strings.Join(reasons, "\n")
}

// /health, /live and /ready say what the contract says, while a node waits for its cluster, is part of it, is cut off and
// comes back, is drained, and stops.
func TestHealthThroughTheLifeOfANode(t *testing.T) {
	c := harness.NewCluster(t, harness.Options{Nodes: 4, Network: true, Flags: quick(nil)})
	n := c.Nodes[2]
	r, stop := recordHealth(t, n)
	n.Start()
	require.Contains(t, r.turns(http.StatusServiceUnavailable, syncWithin), "starting")
	c.Start()
	r.turns(http.StatusOK, syncWithin)
	c.WaitInSync(syncWithin)

	c.Network.Isolate(n, c.Others(n)...)
	require.Contains(t, r.turns(http.StatusServiceUnavailable, turnsWithin), "leader")
	c.Network.Heal()
	r.turns(http.StatusOK, turnsWithin)

	for _, other := range c.Others(n) {
		require.NoError(t, other.Process().Pause())
	}
	require.Contains(t, r.turns(http.StatusServiceUnavailable, turnsWithin), "leader")
	for _, other := range c.Others(n) {
		require.NoError(t, other.Process().Resume())
	}
	r.turns(http.StatusOK, turnsWithin)
	c.WaitInSync(syncWithin)

	retry(t, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: n.ID})
		return err
	})
	require.Contains(t, r.turns(http.StatusServiceUnavailable, turnsWithin), "draining")
	retry(t, c, func(ctx context.Context, cl *harness.Client) error {
		_, err := cl.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: n.ID})
		return err
	})
	r.turns(http.StatusOK, turnsWithin)

	told := time.Now()
	n.Stop()
	r.turns(0, turnsWithin)
	stop()
	for _, l := range r.looks {
		if l.at.After(told.Add(healthEvery)) {
			require.NotEqual(t, http.StatusOK, l.ready.status, "it stops and says that it is ready")
		}
	}
}

package observability

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"sync"
	"time"
)

// checkTimeout bounds one look at readiness, so that /ready answers within a second.
const checkTimeout = 800 * time.Millisecond

// ReadyFunc returns nil when the node is ready, else an error that says why it
// is not. It returns soon after ctx has ended, and may be called at any time.
type ReadyFunc func(ctx context.Context) error

// errCheckTooSlow is the reason when a check does not answer.
var errCheckTooSlow = errors.New("the readiness check did not answer in " + checkTimeout.String())

// readiness runs at most one check at a time; who asks meanwhile shares its answer.
type readiness struct {
	check ReadyFunc

	mu     sync.Mutex
	flight *flight
	checks sync.WaitGroup
}

type flight struct {
	done chan struct{}
	err  error
}

// ask returns nil when the check does within checkTimeout.
func (r *readiness) ask(ctx context.Context) error {
	timer := time.NewTimer(checkTimeout)
	defer timer.Stop()
	f := r.join(context.WithoutCancel(ctx)) // the answer is for all who ask
	select {
	case <-f.done:
		return f.err
	case <-timer.C:
		return errCheckTooSlow
	}
}

func (r *readiness) join(ctx context.Context) *flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.flight != nil {
		return r.flight
	}
	f := &flight{done: make(chan struct{})}
	r.flight = f
	r.checks.Go(func() {
		ctx, cancel := context.WithTimeout(ctx, checkTimeout)
		defer cancel()
		f.err = r.check(ctx)
		r.mu.Lock()
		r.flight = nil
		r.mu.Unlock()
		close(f.done)
	})
	return f
}

// wait returns when no check is running.
func (r *readiness) wait() { r.checks.Wait() }

type statusBody struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

func (r *readiness) serveReady(w http.ResponseWriter, req *http.Request) {
	if err := r.ask(req.Context()); err != nil {
		writeStatus(w, http.StatusServiceUnavailable, statusBody{Status: "not_ready", Reason: err.Error()})
		return
	}
	writeStatus(w, http.StatusOK, statusBody{Status: "ready"})
}

func serveAlive(w http.ResponseWriter, _ *http.Request) {
	writeStatus(w, http.StatusOK, statusBody{Status: "ok"})
}

func writeStatus(w http.ResponseWriter, code int, body statusBody) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(body) // the client is gone: nothing to do about it
}

package shard

import (
	"slices"
	"sync"

	"go.opentelemetry.io/otel/trace"
)

// maxWaitingTraces bounds the links of one upload.
const maxWaitingTraces = 32

// waitingTraces are the traces of requests that wait for an upload. Safe for concurrent use.
type waitingTraces struct {
	mu    sync.Mutex
	links []trace.Link // guarded by mu
}

// add notes a trace where it is sampled; beyond the bound it is left out.
func (w *waitingTraces) add(sc trace.SpanContext) {
	if !sc.IsSampled() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.links) < maxWaitingTraces {
		w.links = append(w.links, trace.Link{SpanContext: sc})
	}
}

// giveBack notes again what take has returned, before all that was noted since; beyond the bound the newest are left out.
func (w *waitingTraces) giveBack(links []trace.Link) {
	w.mu.Lock()
	defer w.mu.Unlock()
	links = append(slices.Clip(links), w.links...)
	w.links = links[:min(len(links), maxWaitingTraces)]
}

// take returns what was noted, and forgets it.
func (w *waitingTraces) take() []trace.Link {
	w.mu.Lock()
	defer w.mu.Unlock()
	links := w.links
	w.links = nil
	return links
}

package harness

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Fault is what a proxy does to the requests that it matches, instead of passing them on.
type Fault struct {
	// Methods that are meant; none means all.
	Methods []string
	// Key must be in the path; empty means all.
	Key string
	// Times it happens; 0 means until it is removed.
	Times int
	// Delay comes first, before all else. A request that has none of the
	// following is passed on after it.
	Delay time.Duration
	// Status is answered as an S3 error without asking the server.
	Status int
	// Drop closes the connection.
	Drop bool
	// Hang answers nothing until the fault is removed or the client gives up.
	Hang bool
	// LoseAnswer passes the request on and closes the connection instead of
	// answering: the request succeeds, and the client does not know.
	LoseAnswer bool
	// Late takes the request in whole, answers nothing, and passes it on when the fault is removed: its client may be dead
	// by then, as that of a packet which was long under way.
	Late bool
}

// Request is one request that the proxy saw.
type Request struct {
	Method, Key string
	// Status is what was answered; 0 while nothing was, and for a connection that was closed instead.
	Status int
}

// Proxy stands before an S3 server, counts requests and makes them fail. Its methods are safe for concurrent use.
type Proxy struct {
	addr    string
	backend *httputil.ReverseProxy

	mu     sync.Mutex
	faults []*activeFault // guarded by mu
	seen   []Request      // guarded by mu
	late   []string       // guarded by mu; paths
}

type activeFault struct {
	Fault
	left    int // guarded by Proxy.mu; -1 is for ever
	removed chan struct{}
}

// StartProxy starts a proxy before the server at backend, for the time of the test.
func StartProxy(tb testing.TB, backend string) *Proxy {
	tb.Helper()
	return startProxyAt(tb, FreeAddr(tb), backend)
}

func startProxyAt(tb testing.TB, addr, backend string) *Proxy {
	tb.Helper()
	p := &Proxy{}
	p.backend = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: backend})
			r.Out.Host = r.In.Host // the signature covers it
		},
		ErrorLog: log.New(io.Discard, "", 0),
	}
	var lc net.ListenConfig
	l, err := lc.Listen(tb.Context(), "tcp", addr)
	if err != nil {
		tb.Fatal(err)
	}
	p.addr = l.Addr().String()
	srv := &http.Server{Handler: p, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0)}
	served := make(chan error, 1)
	go func() { served <- srv.Serve(l) }()
	tb.Cleanup(func() {
		p.Heal()
		_ = srv.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			tb.Errorf("S3 proxy: %v", err)
		}
	})
	return p
}

// Addr is the proxy's host and port.
func (p *Proxy) Addr() string { return p.addr }

// Inject makes requests fail until the function that it returns is called.
func (p *Proxy) Inject(f Fault) (remove func()) {
	a := &activeFault{Fault: f, left: f.Times, removed: make(chan struct{})}
	if f.Times == 0 {
		a.left = -1
	}
	p.mu.Lock()
	p.faults = append(p.faults, a)
	p.mu.Unlock()
	return sync.OnceFunc(func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		if i := slices.Index(p.faults, a); i >= 0 {
			p.faults = slices.Delete(p.faults, i, i+1)
			close(a.removed)
		}
	})
}

// Down closes every connection unanswered, as a server that is away, until the function is called.
func (p *Proxy) Down() (up func()) { return p.Inject(Fault{Drop: true}) }

// Heal removes all faults.
func (p *Proxy) Heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, a := range p.faults {
		close(a.removed)
	}
	p.faults = nil
}

// Requests returns what was seen so far.
func (p *Proxy) Requests() []Request {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.seen)
}

// Count returns how many requests of a method have key in their path. LIST is a GET of a bucket.
func (p *Proxy) Count(method, key string) int {
	n := 0
	for _, r := range p.Requests() {
		if r.Method == method && strings.Contains(r.Key, key) {
			n++
		}
	}
	return n
}

// Late returns the paths of the requests that faults have kept for later so far, also of those that were passed on since.
func (p *Proxy) Late() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.late)
}

// passLate passes a request on once the fault is removed.
func (p *Proxy) passLate(r *http.Request, removed <-chan struct{}) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return // the client died before it was under way
	}
	p.mu.Lock()
	p.late = append(p.late, r.URL.Path)
	p.mu.Unlock()
	<-removed
	r = r.Clone(context.WithoutCancel(r.Context()))
	r.Body = io.NopCloser(bytes.NewReader(body))
	p.backend.ServeHTTP(&discardWriter{header: make(http.Header)}, r)
}

// ServeHTTP passes a request on, or does what a fault says.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	rec := p.note(w, r)
	f := p.match(r)
	if f == nil {
		p.backend.ServeHTTP(rec, r)
		return
	}
	if f.Delay > 0 && !wait(r.Context(), f.removed, f.Delay) {
		panic(http.ErrAbortHandler)
	}
	switch {
	case f.Hang:
		wait(r.Context(), f.removed, time.Hour)
		panic(http.ErrAbortHandler)
	case f.Drop:
		panic(http.ErrAbortHandler)
	case f.Late:
		p.passLate(r, f.removed)
		panic(http.ErrAbortHandler)
	case f.LoseAnswer:
		p.backend.ServeHTTP(&discardWriter{header: make(http.Header)}, r)
		panic(http.ErrAbortHandler)
	case f.Status != 0:
		rec.Header().Set("Content-Type", "application/xml")
		rec.WriteHeader(f.Status)
		if r.Method != http.MethodHead {
			_, _ = io.WriteString(rec, `<?xml version="1.0" encoding="UTF-8"?><Error><Code>`+code(f.Status)+
				`</Code><Message>injected by the test</Message></Error>`)
		}
	default:
		p.backend.ServeHTTP(rec, r)
	}
}

// note adds a request to what was seen, with the status once one is answered.
func (p *Proxy) note(w http.ResponseWriter, r *http.Request) *statusRecorder {
	p.mu.Lock()
	defer p.mu.Unlock()
	i := len(p.seen)
	p.seen = append(p.seen, Request{Method: operation(r), Key: r.URL.Path})
	return &statusRecorder{ResponseWriter: w, note: func(status int) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.seen[i].Status = status
	}}
}

func (p *Proxy) match(r *http.Request) *activeFault {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, f := range p.faults {
		if len(f.Methods) > 0 && !slices.Contains(f.Methods, operation(r)) {
			continue
		}
		if !strings.Contains(r.URL.Path, f.Key) || f.left == 0 {
			continue
		}
		if f.left > 0 {
			f.left--
		}
		return f
	}
	return nil
}

// operation names a request as the metrics do.
func operation(r *http.Request) string {
	if r.Method == http.MethodGet && r.URL.Query().Has("list-type") {
		return "LIST"
	}
	return r.Method
}

func code(status int) string {
	switch status {
	case http.StatusServiceUnavailable:
		return "SlowDown"
	case http.StatusForbidden:
		return "AccessDenied"
	case http.StatusNotFound:
		return "NoSuchKey"
	default:
		return "InternalError"
	}
}

// wait reports whether it waited in full, or until the fault was removed.
func wait(ctx context.Context, removed <-chan struct{}, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-removed:
		return true
	case <-ctx.Done():
		return false
	}
}

// statusRecorder notes the status of an answer before it is sent.
type statusRecorder struct {
	http.ResponseWriter
	note func(status int)
}

// WriteHeader implements http.ResponseWriter.
func (s *statusRecorder) WriteHeader(status int) {
	s.note(status)
	s.ResponseWriter.WriteHeader(status)
}

// Unwrap serves http.ResponseController.
func (s *statusRecorder) Unwrap() http.ResponseWriter { return s.ResponseWriter }

// discardWriter takes an answer that nobody gets.
type discardWriter struct{ header http.Header }

// Header implements http.ResponseWriter.
func (d *discardWriter) Header() http.Header { return d.header }

// Write implements http.ResponseWriter.
func (d *discardWriter) Write(b []byte) (int, error) { return len(b), nil }

// WriteHeader implements http.ResponseWriter.
func (d *discardWriter) WriteHeader(int) {}

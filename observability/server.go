package observability

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Limits of the HTTP listener. An answer to a scrape may have megabytes: at most maxScrapes are made or held for a client
// that reads slowly; others wait for scrapePatience and are then refused. One that is not gathered in gatherTimeout is answered
// and gives its turn to another while it is still gathered: promhttp, with the same bound, refuses others at once when so many
// hang.
const (
	maxScrapes      = 8
	gatherTimeout   = 10 * time.Second
	scrapePatience  = 5 * time.Second
	scrapeTimeout   = 15 * time.Second
	writeTimeout    = 30 * time.Second
	maxHeaderBytes  = 16 << 10
	shutdownTimeout = 2 * time.Second
)

// Config sets up the HTTP listener.
type Config struct {
	// Addr is the host:port to listen on; port 0 takes a free one.
	Addr string
	// Gatherer is what /metrics shows.
	Gatherer prometheus.Gatherer
	// Ready is what /ready asks.
	Ready ReadyFunc
	// Listen takes the address; nil is the operating system's network.
	Listen func(ctx context.Context, addr string) (net.Listener, error)
	// Logger may be nil.
	Logger *slog.Logger
}

// Server serves /metrics, /health, /live, /ready and /debug/pprof/.
type Server struct {
	cfg       Config
	listener  net.Listener
	http      *http.Server
	readiness readiness
}

// Listen takes the address and serves nothing yet. Run must be called, or Close.
func Listen(ctx context.Context, cfg Config) (*Server, error) {
	if cfg.Gatherer == nil || cfg.Ready == nil {
		return nil, errors.New("observability: Gatherer and Ready are required")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Logger = cfg.Logger.With("logger", "http")
	if cfg.Listen == nil {
		cfg.Listen = func(ctx context.Context, addr string) (net.Listener, error) {
			return new(net.ListenConfig).Listen(ctx, "tcp", addr)
		}
	}
	l, err := cfg.Listen(ctx, cfg.Addr)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, listener: l}
	s.readiness.check = cfg.Ready
	s.http = &http.Server{
		Handler:           s.routes(),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          log.New(&httpLog{cfg.Logger}, "", 0),
	}
	return s, nil
}

// What net/http writes into its log, besides what clients do.
const (
	handlerPanicked = "http: panic serving "
	acceptFailed    = "http: Accept error: "
)

// httpLog takes the lines of net/http: a handler that panicked is our error, a connection that could not be taken a warning,
// and what clients do wrong is for debugging.
type httpLog struct{ log *slog.Logger }

// Write implements io.Writer. Each is a whole line, or one with a stack.
func (h *httpLog) Write(text []byte) (int, error) {
	ctx, line := context.Background(), strings.TrimSpace(string(text))
	if what, ok := strings.CutPrefix(line, handlerPanicked); ok {
		h.log.ErrorContext(ctx, "a handler panicked", "panic", what)
	} else if what, ok := strings.CutPrefix(line, acceptFailed); ok {
		h.log.WarnContext(ctx, "connection was not accepted", "error", what)
	} else {
		h.log.DebugContext(ctx, line)
	}
	return len(text), nil
}

// Addr returns the address that is bound.
func (s *Server) Addr() string { return s.listener.Addr().String() }

// Close ends Run, or gives the address back when Run was not called. It may be called twice.
func (s *Server) Close() error {
	err := s.http.Close()
	if lerr := s.listener.Close(); lerr != nil && !errors.Is(lerr, net.ErrClosed) {
		err = errors.Join(err, lerr)
	}
	return err
}

// Run serves until ctx ends, then gives requests a moment to finish. It
// returns nil after a clean end.
func (s *Server) Run(ctx context.Context) error {
	done := make(chan error, 1)
	go func() { done <- s.http.Serve(s.listener) }()
	defer s.readiness.wait()
	select {
	case err := <-done:
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := s.http.Shutdown(stop); err != nil {
		_ = s.http.Close() // what is still going on, a profile for example, is cut
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve HTTP: %w", err)
	}
	return nil
}

func (s *Server) routes() http.Handler {
	mux := http.NewServeMux()
	bounded := func(pattern string, h http.Handler) { mux.Handle("GET "+pattern, withWriteDeadline(h, writeTimeout)) }
	mux.Handle("GET /metrics", newTurnstile(s.metricsHandler(), maxScrapes, scrapePatience))
	bounded("/health", http.HandlerFunc(serveAlive))
	bounded("/live", http.HandlerFunc(serveAlive))
	bounded("/ready", http.HandlerFunc(s.readiness.serveReady))
	bounded("/{$}", http.HandlerFunc(serveIndex))

	// Profiles take as long as they are asked to.
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("POST /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

func (s *Server) metricsHandler() http.Handler {
	return promhttp.HandlerFor(s.cfg.Gatherer, promhttp.HandlerOpts{
		ErrorLog:            slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelError),
		ErrorHandling:       promhttp.ContinueOnError,
		MaxRequestsInFlight: maxScrapes,
		Timeout:             gatherTimeout,
		EnableOpenMetrics:   true,
	})
}

func serveIndex(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprint(w, "StreamHouse\n\n/metrics\n/health\n/live\n/ready\n/debug/pprof/\n")
}

// withWriteDeadline cuts off a client that does not read its answer.
func withWriteDeadline(next http.Handler, timeout time.Duration) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout)) // not there in tests
		next.ServeHTTP(w, r)
	})
}

// turnstile lets a few requests through at a time, until their answers are read. The others wait for their turn; they
// hold nothing but a connection.
type turnstile struct {
	next     http.Handler
	turns    chan struct{}
	patience time.Duration
}

func newTurnstile(next http.Handler, atOnce int, patience time.Duration) *turnstile {
	return &turnstile{next: withWriteDeadline(next, scrapeTimeout), turns: make(chan struct{}, atOnce), patience: patience}
}

// ServeHTTP implements http.Handler.
func (t *turnstile) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	timer := time.NewTimer(t.patience)
	defer timer.Stop()
	select {
	case t.turns <- struct{}{}:
	case <-timer.C:
		w.Header().Set("Retry-After", "1")
		http.Error(w, "too many scrapes at once", http.StatusServiceUnavailable)
		return
	case <-r.Context().Done():
		return
	}
	defer func() { <-t.turns }()
	t.next.ServeHTTP(w, r)
}

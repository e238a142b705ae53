package scrub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/storage/object"
)

// recheckInterval is how often what was found damaged is looked at again, if the interval of rounds is not shorter.
const recheckInterval = time.Minute

// Metadata gives what the manifest has. *metadata.Group is one. Safe for concurrent use.
type Metadata interface {
	// View returns the state that this node has applied. It never blocks.
	View() *fsm.View
	// Barrier returns once View has all that was committed before the call, or with the context's error.
	Barrier(ctx context.Context) error
}

// Bucket is where the objects are. object.Bucket is one. Safe for concurrent use.
type Bucket interface {
	// Get reads length bytes from offset. The caller closes the reader.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Head returns an object's attributes, or object.ErrNotFound.
	Head(ctx context.Context, name string) (object.Attributes, error)
}

// Peers give clients of other nodes. *peer.Pool is one. Safe for concurrent use.
type Peers interface {
	// Client returns a client of a node by its id.
	Client(nodeID string) (nodev1.NodeServiceClient, error)
}

// Config sets up a Scrubber. All fields are required unless said otherwise.
type Config struct {
	Metadata Metadata
	Bucket   Bucket
	Peers    Peers
	// Replicas returns those that this node holds now.
	Replicas func() []Local
	// Repair is called with a damaged replica, and a cause that is a *logstore.CorruptError or a *DivergedError. The error says
	// why nothing was done; it is called again a minute later, as it is while the replica is there. It may be called for a
	// replica twice at the same time.
	Repair func(ctx context.Context, r Local, cause error) error
	// Rewrite is called with an object that was found damaged twice, a minute apart, and what the manifest lists in it, and has the manifest list
	// that in a new object, made from a log of this node. It returns how many segments it did that for, also beside an error. That the
	// log has not what is wanted is shard.ErrBelowLocal or shard.ErrOtherRecords. It is called again a minute later for what is
	// left.
	Rewrite func(ctx context.Context, shard uint32, object string, listed []*metav1.SegmentEntry) (segments int, err error)
	// StatePath is the file in which it keeps what it has found, and when a round began last. Empty: only in memory.
	StatePath string
	// BytesPerSecond bounds what is read, and beside it what is read for other nodes; 0 switches the scrubber off.
	BytesPerSecond int64
	// Interval is the time from the beginning of one round to that of the next.
	Interval time.Duration
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Scrubber reads everything, round after round.
type Scrubber struct {
	cfg     Config
	log     *slog.Logger
	metrics *metrics

	serving chan struct{} // has one element while the disk is read for another node

	mu      sync.Mutex        // guards what follows
	damaged map[string]*noted // objects found damaged, by their names
	began   time.Time         // of the last whole round, or the first start
	unsaved bool              // damaged or began has changed since it was saved
	found   map[string]error  // replicas found damaged or different, by their ids, and why
}

// New starts nothing; Run does. It reads what was found before the last restart: that is told at once.
func New(cfg Config) (*Scrubber, error) {
	switch {
	case cfg.Metadata == nil || cfg.Bucket == nil || cfg.Peers == nil || cfg.Replicas == nil || cfg.Repair == nil || cfg.Rewrite == nil:
		return nil, errors.New("scrub: Metadata, Bucket, Peers, Replicas, Repair and Rewrite are required")
	case cfg.BytesPerSecond < 0 || cfg.Interval <= 0:
		return nil, fmt.Errorf("scrub: BytesPerSecond %d must not be negative and Interval %s must be positive", cfg.BytesPerSecond, cfg.Interval)
	}
	s := &Scrubber{
		cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer), serving: make(chan struct{}, 1),
		damaged: make(map[string]*noted), found: make(map[string]error),
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("logger", "scrub")
	s.load()
	return s, nil
}

// Run goes round after round until ctx ends, then returns nil. Beside that it looks again at what was found damaged.
func (s *Scrubber) Run(ctx context.Context) error {
	if s.cfg.BytesPerSecond == 0 {
		<-ctx.Done()
		return nil
	}
	defer s.save()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.rounds(ctx) })
	wg.Go(func() { every(ctx, s.recheckEvery(), s.recheck) })
	return nil
}

func (s *Scrubber) recheckEvery() time.Duration { return min(s.cfg.Interval, recheckInterval) }

// rounds goes round after round until ctx ends. A restart neither begins a round that is not due nor puts one off: otherwise a
// node that is restarted more often than once an interval would never read anything.
func (s *Scrubber) rounds(ctx context.Context) {
	wait := max(s.untilDue(), s.recheckEvery()) // soon after the start, and not while the node catches up
	for pause.For(ctx, wait) == nil {
		began := time.Now()
		if s.round(ctx); ctx.Err() != nil {
			return
		}
		s.noteRound(began)
		wait = s.untilDue()
	}
}

// untilDue returns how long it is until the next round is due, never more than an interval.
func (s *Scrubber) untilDue() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(s.cfg.Interval-time.Since(s.began), 0), s.cfg.Interval)
}

func (s *Scrubber) noteRound(began time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.began, s.unsaved = began, true
}

// every calls fn once an interval until ctx ends.
func every(ctx context.Context, interval time.Duration, fn func(context.Context)) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		fn(ctx)
	}
}

// recheck looks again at what was found damaged.
func (s *Scrubber) recheck(ctx context.Context) {
	s.recheckReplicas(ctx)
	s.recheckObjects(ctx)
	s.save()
}

// round reads all once. What can't be read now is left to the next one.
func (s *Scrubber) round(ctx context.Context) {
	leads := make(map[uint32]bool)
	for _, r := range s.cfg.Replicas() {
		if ctx.Err() != nil {
			return
		}
		s.replica(ctx, r)
		leads[r.Shard] = leads[r.Shard] || !r.IsMetadata && r.IsLeader()
	}
	s.objects(ctx, leads)
	if ctx.Err() == nil {
		s.metrics.rounds.Inc()
	}
}

// pace returns what counts bytes and waits as long as they may take.
func (s *Scrubber) pace(kind string) func(context.Context, int64) error {
	counted := s.metrics.bytes.WithLabelValues(kind)
	return func(ctx context.Context, bytes int64) error {
		counted.Add(float64(bytes))
		return pause.For(ctx, s.takes(bytes))
	}
}

// takes returns how long the reading of so many bytes takes at least.
func (s *Scrubber) takes(bytes int64) time.Duration {
	return time.Duration(float64(bytes) / float64(s.cfg.BytesPerSecond) * float64(time.Second))
}

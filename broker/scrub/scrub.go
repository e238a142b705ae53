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
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

// recheckInterval is how often what was found damaged is looked at again, if the interval of rounds is not shorter.
const recheckInterval = time.Minute

// Metadata gives what the manifest has. *metadata.Group is one. Safe for concurrent use.
type Metadata interface {
	// View returns the state that this node has applied. It never blocks.
	View() *fsm.View
}

// Bucket is where the objects are. object.Bucket is one. Safe for concurrent use.
type Bucket interface {
	// Get reads length bytes from offset. The caller closes the reader.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Head returns an object's attributes, or object.ErrNotFound.
	Head(ctx context.Context, name string) (object.Attributes, error)
}

// Replica is one that this node holds.
type Replica interface {
	// Scrub reads the log and the newest snapshot from the disk, and calls wait for the bytes that it has read. The error
	// is a *logstore.CorruptError that names the file, or wait's.
	Scrub(ctx context.Context, wait func(ctx context.Context, bytes int64) error) error
	// IsLeader says whether it leads its group. It never blocks.
	IsLeader() bool
}

// Local is a replica with its group, which is Metadata for that of the metadata.
type Local struct {
	Replica
	Shard      uint32
	IsMetadata bool
}

// Config sets up a Scrubber. All fields are required unless said otherwise.
type Config struct {
	Metadata Metadata
	Bucket   Bucket
	// Replicas returns those that this node holds now.
	Replicas func() []Local
	// Repair is called with a damaged replica. The error says why nothing was done; it is called again in the next round.
	Repair func(ctx context.Context, r Local, cause error) error
	// BytesPerSecond bounds what is read; 0 switches the scrubber off.
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

	mu      sync.Mutex
	damaged map[string][]*metav1.SegmentEntry // guarded by mu; objects found damaged, with what the manifest lists in them
}

// New starts nothing; Run does.
func New(cfg Config) (*Scrubber, error) {
	switch {
	case cfg.Metadata == nil || cfg.Bucket == nil || cfg.Replicas == nil || cfg.Repair == nil:
		return nil, errors.New("scrub: Metadata, Bucket, Replicas and Repair are required")
	case cfg.BytesPerSecond < 0 || cfg.Interval <= 0:
		return nil, fmt.Errorf("scrub: BytesPerSecond %d must not be negative and Interval %s must be positive", cfg.BytesPerSecond, cfg.Interval)
	}
	s := &Scrubber{cfg: cfg, log: cfg.Logger, metrics: newMetrics(cfg.Registerer), damaged: make(map[string][]*metav1.SegmentEntry)}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	s.log = s.log.With("logger", "scrub")
	return s, nil
}

// Run goes round after round until ctx ends, then returns nil. Beside that it looks again at what was found damaged.
func (s *Scrubber) Run(ctx context.Context) error {
	if s.cfg.BytesPerSecond == 0 {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() { every(ctx, s.cfg.Interval, s.round) })
	wg.Go(func() { every(ctx, min(s.cfg.Interval, recheckInterval), s.recheckObjects) })
	wg.Wait()
	return nil
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

// replica reads a replica, and has it repaired where it is damaged.
func (s *Scrubber) replica(ctx context.Context, r Local) {
	err := r.Scrub(ctx, s.pace("log"))
	if ctx.Err() != nil || err == nil {
		return
	}
	if _, corrupt := errors.AsType[*logstore.CorruptError](err); !corrupt {
		s.log.Info("a replica could not be read whole", "shard", r.Shard, "metadata", r.IsMetadata, "error", err)
		return
	}
	s.metrics.damaged.WithLabelValues("log").Inc()
	s.log.Error("a replica is damaged", "shard", r.Shard, "metadata", r.IsMetadata, "error", err)
	if err := s.cfg.Repair(ctx, r, err); err != nil && ctx.Err() == nil {
		s.log.Warn("the damaged replica is not rebuilt yet", "shard", r.Shard, "metadata", r.IsMetadata, "error", err)
	}
}

// pace returns what counts bytes and waits as long as they may take.
func (s *Scrubber) pace(kind string) func(context.Context, int64) error {
	counted := s.metrics.bytes.WithLabelValues(kind)
	return func(ctx context.Context, bytes int64) error {
		counted.Add(float64(bytes))
		timer := time.NewTimer(time.Duration(float64(bytes) / float64(s.cfg.BytesPerSecond) * float64(time.Second)))
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/streamhouse/streamhouse/fsm"
)

const (
	// checkpointTick is how often the leader looks for changes. One of the topics is written at the next look.
	checkpointTick = time.Second
	// checkpointInterval is how long only uploads and retention may wait: objects say it too.
	checkpointInterval = time.Minute
	// maxCheckpointRetry bounds the wait after a failure.
	maxCheckpointRetry = time.Minute
)

// Metadata is what a Checkpointer needs of the metadata group. *metadata.Group is one. Safe for concurrent use.
type Metadata interface {
	// View returns the state that this node has applied. It never blocks.
	View() *fsm.View
	// IsLeader reports whether this node leads the metadata group. It never blocks.
	IsLeader() bool
}

// Config sets up a Checkpointer. Metadata and Bucket must be set.
type Config struct {
	Metadata Metadata
	Bucket   Bucket
	// Grace is how long a checkpoint stays at least after newer ones have replaced it.
	Grace time.Duration
	// Superseded is called with the error that ends this node: the cluster was recovered without it.
	Superseded func(error)
	// Logger and Registerer may be nil.
	Logger     *slog.Logger
	Registerer prometheus.Registerer
}

// Checkpointer writes the metadata to the object store while its node leads the metadata group.
type Checkpointer struct {
	cfg     Config
	log     *slog.Logger
	written prometheus.Counter
	failed  prometheus.Counter

	// last is what was written here, and when. Only Run uses them.
	last   *fsm.View
	lastAt time.Time
	// changedAt is since when the topics are not in the object store as they are, Unix nanoseconds; 0 for not.
	changedAt atomic.Int64
}

// NewCheckpointer starts nothing; Run does.
func NewCheckpointer(cfg Config) (*Checkpointer, error) {
	if cfg.Metadata == nil || cfg.Bucket == nil {
		return nil, errors.New("recovery: Metadata and Bucket must be set")
	}
	c := &Checkpointer{cfg: cfg, log: cfg.Logger}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	c.log = c.log.With("logger", "recovery")
	f := promauto.With(cfg.Registerer)
	c.written = f.NewCounter(prometheus.CounterOpts{
		Name: "streamhouse_metadata_checkpoints_total",
		Help: "Checkpoints of the metadata that this node has put into the object store.",
	})
	c.failed = f.NewCounter(prometheus.CounterOpts{
		Name: "streamhouse_metadata_checkpoint_errors_total",
		Help: "Checkpoints of the metadata that this node could not put into the object store; they are tried again.",
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streamhouse_metadata_checkpoint_pending_seconds",
		Help: "For how long a change of topics waits to be in a checkpoint in the object store, on the leader of the metadata group; else 0.",
	}, c.pendingSeconds)
	return c, nil
}

func (c *Checkpointer) pendingSeconds() float64 {
	at := c.changedAt.Load()
	if at == 0 || !c.cfg.Metadata.IsLeader() {
		return 0
	}
	return max(time.Since(time.Unix(0, at)).Seconds(), 0)
}

// Run writes until ctx ends, then returns nil.
func (c *Checkpointer) Run(ctx context.Context) error {
	ticker := time.NewTicker(checkpointTick)
	defer ticker.Stop()
	var notBefore time.Time
	retry := checkpointTick
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		if !c.due(time.Now()) || time.Now().Before(notBefore) {
			continue
		}
		if err := c.write(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, ErrSuperseded) {
				c.superseded(err)
				return nil
			}
			c.failed.Inc()
			c.log.Warn("metadata checkpoint failed, trying again", "error", err, "retry_in", retry.String())
			notBefore = time.Now().Add(retry)
			retry = min(2*retry, maxCheckpointRetry)
			continue
		}
		retry = checkpointTick
	}
}

func (c *Checkpointer) superseded(err error) {
	if c.cfg.Superseded != nil {
		c.cfg.Superseded(err)
	}
}

// due says whether there is something to write.
func (c *Checkpointer) due(now time.Time) bool {
	if !c.cfg.Metadata.IsLeader() {
		c.last = nil // Another leader writes; what it has written is not known here.
		c.changedAt.Store(0)
		return false
	}
	v := c.cfg.Metadata.View()
	switch {
	case v.ClusterID() == "":
		return false
	case c.last == nil || !v.SameTopics(c.last):
		c.changedAt.CompareAndSwap(0, now.UnixNano())
		return true
	default:
		return v.Index() != c.last.Index() && now.Sub(c.lastAt) >= checkpointInterval
	}
}

// write writes one checkpoint, and removes what it replaces.
func (c *Checkpointer) write(ctx context.Context) error {
	v, began := c.cfg.Metadata.View(), time.Now()
	if err := Superseded(ctx, c.cfg.Bucket, v.ClusterID(), v.RecoveryID()); err != nil {
		return err
	}
	var data bytes.Buffer
	if err := fsm.WriteSnapshot(v, &data); err != nil {
		return fmt.Errorf("write the metadata: %w", err)
	}
	prefix := metadataPrefix(v.ClusterID())
	if err := put(ctx, c.cfg.Bucket, newPosition(v.RecoveryID(), v.Index()).name(prefix), data.Bytes()); err != nil {
		return err
	}
	c.written.Inc()
	c.last, c.lastAt = v, began
	c.changedAt.Store(0)
	c.log.Debug("metadata checkpoint is in the object store", "index", v.Index(), "bytes", data.Len())
	attempt, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := removeOld(attempt, c.cfg.Bucket, prefix, c.cfg.Grace, time.Now()); err != nil && ctx.Err() == nil {
		c.log.Warn("old checkpoints are not removed yet", "error", err)
	}
	return nil
}

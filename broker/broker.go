package broker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// Broker does what clients ask for, on any node. Safe for concurrent use.
type Broker struct {
	cfg     Config
	log     *slog.Logger
	meta    Metadata
	leaders *leaders
	marks   *watermarks
	ids     producerIDs
	metrics *Metrics
	tracer  tracing.Tracer

	pollsOnce sync.Once
	pollsEnd  chan struct{} // closed when long polls are to end
}

// New returns a Broker. It starts nothing.
func New(cfg Config) (*Broker, error) {
	cfg.setDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	return &Broker{
		cfg:      cfg,
		log:      cfg.Logger.With("logger", "broker"),
		meta:     cfg.Metadata,
		ids:      producerIDs{take: make(chan struct{}, 1)},
		leaders:  newLeaders(),
		marks:    newWatermarks(),
		metrics:  cfg.Metrics,
		tracer:   tracing.New(cfg.TracerProvider),
		pollsEnd: make(chan struct{}),
	}, nil
}

// syncDelay gathers changes of the metadata before Run looks at all topics again.
const syncDelay = 100 * time.Millisecond

// Run keeps the metrics' series in step with the topics and groups until ctx ends, then returns nil. Calls work without
// it.
func (b *Broker) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { b.syncGroupSeries(ctx) })
	for {
		changed := b.meta.Watch()
		b.syncTopics()
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		_ = pause.For(ctx, syncDelay) // the select sees the end of ctx
	}
}

// EndPolls ends the long polls and following streams that wait, now and from now on. It is idempotent.
func (b *Broker) EndPolls() {
	b.pollsOnce.Do(func() { close(b.pollsEnd) })
}

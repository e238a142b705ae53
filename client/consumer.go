package client

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Consumer reads records, of partitions that it names or as a member of a consumer group. It reads ahead in the
// background, and tells its group that it lives. It is safe for concurrent use; calls of Poll take turns.
type Consumer struct {
	c      *Client
	cfg    ConsumerConfig
	ctx    context.Context //nolint:containedctx // ends the background work
	cancel context.CancelFunc
	wg     sync.WaitGroup // fetchers, heartbeats, commits
	ready  chan struct{}  // has room for one: there may be something for Poll
	turn   chan struct{}  // holds a token while Poll or Close runs
	commit chan struct{}  // holds a token while offsets are committed, so that they are in order

	mu         sync.Mutex
	closed     bool
	partitions map[TopicPartition]*partition
	ring       []*partition // all of them, the next to be polled first
	ownership  uint64       // of the newest partition
	prefetched int          // bytes
	errs       []error      // to be told by Poll
	member     *membership  // nil where it is no member
	polled     time.Time    // end of the last Poll
	polling    bool
	discovers  bool // discover runs
	commits    bool // autoCommit runs
}

// NewConsumer returns a consumer, which begins to read with the first Poll. The error names a bad field of cfg. Close
// ends it.
func NewConsumer(c *Client, cfg ConsumerConfig) (*Consumer, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("consumer config: %w", err)
	}
	cfg = cfg.withDefaults()
	ctx, cancel := context.WithCancel(c.ctx)
	r := &Consumer{
		c: c, cfg: cfg, ctx: ctx, cancel: cancel, ready: make(chan struct{}, 1), turn: make(chan struct{}, 1), commit: make(chan struct{}, 1),
		partitions: make(map[TopicPartition]*partition), polled: time.Now(),
	}
	if cfg.member() {
		r.member = newMembership()
	}
	for _, tp := range cfg.Partitions {
		r.addLocked(tp)
	}
	return r, nil
}

// Poll returns records in the order of their partitions, at least one and at most MaxPollRecords. It waits for them until
// ctx ends, and then returns its error. Keys, values and headers stay valid, and hold the memory of the read that
// brought them.
//
// With the call the program says that it is done with what the calls before returned. Rebalances happen within Poll, and
// so do the callbacks for them.
//
// An error of one partition is a *PartitionError; the others are read on. ErrOffsetOutOfRange and ErrNoOffset come with
// ResetNone only. ErrTopicNotFound and ErrPartitionNotFound are told once, and the topic is read once it is there; so is
// ErrCorruptData, and the partition is tried on, without end unless Seek leaves the damage out. A topic that was deleted
// and created again is read anew, from where Reset says.
//
// ErrInstanceInUse, ErrGroupFull, ErrCoordinatorFull, ErrFeatureLevelTooLow and ErrInvalidField mean that the group does
// not take the member, which goes on trying. ErrMaxPollInterval is told once. What can be tried again is, without end.
// After an error Poll may be called again, except for ErrClosed.
func (r *Consumer) Poll(ctx context.Context) ([]Record, error) {
	if err := r.take(ctx, r.turn); err != nil {
		return nil, err
	}
	defer func() { <-r.turn }()
	if err := r.beginPoll(); err != nil { //nolint:contextcheck // a fetcher outlives the Poll
		return nil, err
	}
	defer r.endPoll()
	for {
		if err := r.rebalance(ctx); err != nil {
			return nil, err
		}
		records, err := r.next()
		if len(records) > 0 || err != nil {
			return records, err
		}
		select {
		case <-r.ready:
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-r.ctx.Done():
			return nil, ErrClosed
		}
	}
}

// take puts a token into a channel with room for one.
func (r *Consumer) take(ctx context.Context, token chan struct{}) error {
	select {
	case token <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-r.ctx.Done():
		return ErrClosed
	}
}

// beginPoll notes that the records of the calls before are done with, and starts what runs in the background.
func (r *Consumer) beginPoll() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.ctx.Err() != nil {
		return ErrClosed
	}
	r.polling = true
	for _, p := range r.partitions {
		p.processed = p.position
		r.startLocked(p)
	}
	if m := r.member; m != nil {
		m.resumeLocked()
		if !m.started {
			m.started = true
			r.wg.Go(r.heartbeats)
		}
	}
	if r.member == nil && len(r.cfg.Topics) > 0 && !r.discovers {
		r.discovers = true
		r.wg.Go(r.discover)
	}
	if !r.cfg.ManualCommit && r.cfg.Group != "" && !r.commits {
		r.commits = true
		r.wg.Go(r.autoCommit)
	}
	return nil
}

func (r *Consumer) endPoll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.polling, r.polled = false, time.Now()
}

// notify wakes Poll.
func (r *Consumer) notify() {
	select {
	case r.ready <- struct{}{}:
	default:
	}
}

// next takes records from what was read ahead, or an error that is to be told.
func (r *Consumer) next() ([]Record, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.member != nil && r.expiredLocked() {
		return nil, nil // the next round of Poll tells of it
	}
	if len(r.errs) > 0 {
		err := r.errs[0]
		r.errs = slices.Delete(r.errs, 0, 1)
		return nil, err
	}
	var out []Record
	for range len(r.ring) {
		p := r.ring[0]
		r.ring = append(r.ring[1:], p)
		if p.paused || p.revoked {
			continue
		}
		var err error
		if out, err = r.drainLocked(p, out); err != nil {
			r.failLocked(p, err)
		}
		if len(out) >= r.cfg.MaxPollRecords {
			break
		}
	}
	if len(out) == 0 && len(r.errs) > 0 {
		err := r.errs[0]
		r.errs = slices.Delete(r.errs, 0, 1)
		return nil, err
	}
	if len(out) > 0 && r.prefetched < r.cfg.PrefetchBytes {
		for _, p := range r.ring {
			p.notify()
		}
	}
	return out, nil
}

// Assignment returns the partitions that the consumer reads now, in order.
func (r *Consumer) Assignment() []TopicPartition {
	r.mu.Lock()
	defer r.mu.Unlock()
	return sorted(slices.Collect(maps.Keys(r.partitions)))
}

func sorted(tps []TopicPartition) []TopicPartition {
	slices.SortFunc(tps, func(a, b TopicPartition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Partition, b.Partition))
	})
	return tps
}

// Close commits what Poll has returned, unless with ManualCommit, leaves the group, and ends all that runs in the
// background. It waits for a Poll that is under way, which ends. A static member keeps its partitions for its session.
// The error tells that the commit or the leave failed, with ErrNotOwned where partitions were lost since the last Poll;
// the consumer is closed all the same. Closing again does nothing.
func (r *Consumer) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		r.wg.Wait()
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	defer r.wg.Wait()
	defer r.cancel()
	defer r.dropAll()
	r.notify() // Poll sees that it is closed
	select {
	case r.turn <- struct{}{}:
		defer func() { <-r.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return r.leave(ctx)
}

package shard

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/internal/tracing"
)

// Shard is one replica of a shard and, while it leads, the shard itself. Safe for concurrent use.
type Shard struct {
	cfg      Config
	log      *slog.Logger
	fsm      *replicaFSM
	replica  *replica.Replica
	proposer *proposer

	// readyTerm is the term in which this replica leads and has applied all that was committed before; 0 when none.
	readyTerm      atomic.Uint64
	sessions       *sessions
	durableWaiters atomic.Int64
	uploadNow      chan struct{}
	tracer         tracing.Tracer
	durableTraces  waitingTraces
	stopping       chan struct{} // closed when Run begins to end
	stopOnce       sync.Once
}

// Open opens the replica's files, which must exist, and starts Raft. A replica with missing or corrupt files is refused
// with the errors of replica.Open. Run must be called, and Close.
func Open(cfg Config) (*Shard, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	log := cfg.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	s := &Shard{
		cfg:       cfg,
		log:       log.With("logger", "shard", "shard", cfg.Shard),
		uploadNow: make(chan struct{}, 1),
		stopping:  make(chan struct{}),
		sessions:  newSessions(),
		tracer:    tracing.New(cfg.TracerProvider),
	}
	s.fsm = newReplicaFSM(cfg.Shard, cfg.TailBytes, cfg.Replica.Fatal)
	s.fsm.leads = s.readyTerm.Load
	s.fsm.replicaID = cfg.Replica.ID
	cfg.Replica.FSM = s.fsm
	cfg.Replica.SegmentBytes = segmentBytes(cfg.Replica.RetainBytes, cfg.CheckpointBytes)
	rep, err := replica.Open(cfg.Replica)
	if err != nil {
		return nil, err
	}
	s.replica = rep
	s.proposer = newProposer(rep.Raft().Apply, s.nowMs, cfg.Metrics, s.tracer)
	cfg.Budget.register(cfg.Shard, rep.LogBytes)
	return s, nil
}

// Replica returns the Raft replica, for membership and status.
func (s *Shard) Replica() *replica.Replica { return s.replica }

// Number returns the shard's number.
func (s *Shard) Number() uint32 { return s.cfg.Shard }

// AppliedIndex returns the last Raft index that this replica applied.
func (s *Shard) AppliedIndex() uint64 { return s.replica.Raft().AppliedIndex() }

// PendingBytes returns the bytes that are committed here and not in the object store.
func (s *Shard) PendingBytes() int64 { return s.pendingBytes() }

// BacklogAge returns for how long the oldest record waits for its upload, also while earlier leaders led: 0 where none waits,
// or this replica does not lead. The clock of the leader that stored it may differ from this one's.
func (s *Shard) BacklogAge() time.Duration {
	if s.readyTerm.Load() == 0 {
		return 0
	}
	s.fsm.mu.RLock()
	sinceMs, waits := s.fsm.state.pendingSinceMs()
	s.fsm.mu.RUnlock()
	if !waits {
		return 0
	}
	return max(time.Since(time.UnixMilli(sinceMs)), 0)
}

// nowMs is the leader's clock for entries; the state machine never lets it go back.
func (s *Shard) nowMs() int64 { return time.Now().UnixMilli() }

// Run proposes, uploads and checkpoints until ctx ends, and returns when all of that has ended. Waiting calls get ErrClosed.
func (s *Shard) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer s.stopOnce.Do(func() { close(s.stopping) })
	wg.Go(func() { s.proposer.run(ctx) })
	wg.Go(func() { s.runCheckpoints(ctx) })
	s.runLeadership(ctx)
	return nil
}

// Close stops Raft and closes the files. It is idempotent; call it after Run has returned.
func (s *Shard) Close() error {
	s.stopOnce.Do(func() { close(s.stopping) })
	s.cfg.Budget.unregister(s.cfg.Shard)
	return s.replica.Close()
}

// runLeadership follows gain and loss of leadership until ctx ends.
func (s *Shard) runLeadership(ctx context.Context) {
	stop := func() {}
	defer func() { stop() }()
	for {
		select {
		case <-ctx.Done():
			return
		case leads := <-s.replica.Raft().LeaderCh():
			stop()
			stop = func() {}
			if leads {
				stop = s.startLeading(ctx)
			}
		}
	}
}

// startLeading starts a leader's work; the returned function ends it and waits.
func (s *Shard) startLeading(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { s.lead(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// lead does a leader's work until ctx ends: it applies what earlier leaders committed, then serves, uploads and sweeps.
func (s *Shard) lead(ctx context.Context) {
	s.cfg.Metrics.segments.lead(s.cfg.Shard, s.ledPartitions)
	defer s.cfg.Metrics.segments.unlead(s.cfg.Shard)
	term, err := passBarrier(ctx, s.replica.Raft(), s.replica.IsLeader)
	if err != nil {
		s.log.Info("leadership ended before its barrier", "error", err)
		return
	}
	if err := s.seedUntil(ctx); err != nil {
		s.log.Info("leadership ended before the shard went on from the recovery", "error", err)
		return
	}
	s.sessions.begin(s.members(), time.Now().Add(inheritedGrace))
	s.readyTerm.Store(term)
	defer s.readyTerm.Store(0)
	s.log.Info("leads the shard", "term", term)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { s.runSweeps(ctx) })
	wg.Go(func() { s.runSessions(ctx) })
	wg.Go(func() { s.runGroupSaves(ctx) })
	for ctx.Err() == nil {
		if err := s.runUploader(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("uploader starts again", "error", err)
			_ = pause.For(ctx, minUploadRetry) // ends with ctx, as the loop does
		}
	}
}

// barrierRetry is how long a leader waits before it tries its barrier again.
const barrierRetry = 20 * time.Millisecond

// passBarrier waits until this leader has applied what earlier ones committed, and returns its term. Raft refuses a barrier
// while leadership is handed over, and where that fails the leader goes on, without a word: so it is tried again.
func passBarrier(ctx context.Context, r barrierer, leads func() bool) (term uint64, err error) {
	for {
		term = r.CurrentTerm()
		if err = r.Barrier(0).Error(); err == nil {
			return term, nil
		}
		if !leads() || pause.For(ctx, barrierRetry) != nil {
			return 0, err
		}
	}
}

// barrierer is what passBarrier needs of *raft.Raft.
type barrierer interface {
	CurrentTerm() uint64
	Barrier(timeout time.Duration) raft.Future
}

// sweepTick is how often a leader looks for deleted topics.
const sweepTick = time.Second

func (s *Shard) runSweeps(ctx context.Context) {
	tick := time.NewTicker(sweepTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := s.sweepDeleted(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("partitions of deleted topics are not dropped yet", "error", err)
		}
	}
}

// ledPartitions returns the shard's partitions, from the metadata.
func (s *Shard) ledPartitions() []ledPartition {
	view := s.cfg.Metadata.View()
	var led []ledPartition
	for t := range view.Topics() {
		for number, id := range t.PartitionIDs {
			if p, ok := view.Partition(id); ok && p.Shard == s.cfg.Shard {
				led = append(led, ledPartition{id: id, topic: t.Name, number: int32(number)})
			}
		}
	}
	return led
}

// Leader returns the replica id of the shard's leader.
func (s *Shard) Leader() (replicaID string, ok bool) { return s.replica.Leader() }

// checkLeader says whether this replica leads and has applied what was committed before it was elected.
func (s *Shard) checkLeader() error {
	if !s.replica.IsLeader() {
		return s.notLeader()
	}
	if s.readyTerm.Load() != s.replica.Raft().CurrentTerm() {
		return ErrNotReady
	}
	return nil
}

func (s *Shard) notLeader() error {
	id, _ := s.replica.Leader()
	if id == s.cfg.Replica.ID {
		id = "" // stepping down
	}
	return &NotLeaderError{Shard: s.cfg.Shard, Leader: id}
}

// Append stores batches of partitions of this shard and returns, once they are on the disks of a majority, one result
// for each. With durable it returns once they are in the object store and in the manifest. An error other than
// ErrUnknownOutcome says that nothing was written: *NotLeaderError, ErrLogFull, ErrDiskFull, ErrClosed, or ctx's.
func (s *Shard) Append(ctx context.Context, batches []AppendBatch, durable bool) ([]AppendResult, error) {
	wait, err := s.BeginAppend(ctx, batches, durable)
	if err != nil {
		return nil, err
	}
	return wait(ctx)
}

// BeginAppend begins what Append does, with the trace of ctx, and returns what waits for the end of it. Appends that began
// one after the other are stored in that order, but one may be stored where the one before it was not. The batches belong to
// the shard until wait has returned; it must be called once. Errors are those of Append, and from BeginAppend itself say that
// nothing was written.
func (s *Shard) BeginAppend(ctx context.Context, batches []AppendBatch, durable bool) (wait func(context.Context) ([]AppendResult, error), err error) {
	began := clock()
	if !s.replica.IsLeader() {
		return nil, s.notLeader()
	}
	if !s.seeded() {
		return nil, ErrNotReady
	}
	if err := s.cfg.Budget.Check(); err != nil {
		return nil, err
	}
	first := s.cfg.Metadata.View().FirstProducerID()
	if first > 0 && slices.ContainsFunc(batches, func(b AppendBatch) bool { return former(b, first) }) {
		return s.appendWithoutFormer(ctx, began, batches, durable, first)
	}
	return s.appendChecked(ctx, began, batches, durable)
}

// appendChecked is BeginAppend, which came at the time began, behind its checks.
func (s *Shard) appendChecked(ctx context.Context, began time.Duration, batches []AppendBatch, durable bool) (wait func(context.Context) ([]AppendResult, error), err error) {
	_, span := s.tracer.Child(ctx, "append")
	if span.IsRecording() {
		span.SetAttributes(attribute.Int64("streamhouse.shard", int64(s.cfg.Shard)), attribute.Int("streamhouse.batches", len(batches)),
			attribute.Bool("streamhouse.durable", durable))
	}
	r, err := s.proposer.begin(batches, span)
	if err != nil {
		tracing.End(span, err)
		return nil, err
	}
	origin := trace.SpanContextFromContext(ctx)
	return func(ctx context.Context) ([]AppendResult, error) {
		if span.IsRecording() {
			ctx = trace.ContextWithSpan(ctx, span)
		}
		results, err := s.awaitAppend(ctx, r, batches, durable)
		tracing.End(span, err)
		if err != nil {
			return nil, err
		}
		took := clock() - began
		for i := range results {
			if results[i].Reason == reasonNone {
				r.counts[i].acknowledged(took, origin)
			}
		}
		return results, nil
	}, nil
}

// awaitAppend waits for the commit, and with durable for the upload.
func (s *Shard) awaitAppend(ctx context.Context, r *request, batches []AppendBatch, durable bool) ([]AppendResult, error) {
	results, err := s.proposer.wait(ctx, r)
	if err != nil {
		return nil, s.withLeader(err)
	}
	if !durable {
		return results, nil
	}
	ctx, span := s.tracer.Child(ctx, "wait for upload")
	err = s.waitDurable(ctx, batches, results)
	tracing.End(span, err)
	if err != nil {
		return nil, errors.Join(ErrUnknownOutcome, err)
	}
	return results, nil
}

// waitDurable waits until all stored batches are in the manifest, a duplicate as well as its original.
func (s *Shard) waitDurable(ctx context.Context, batches []AppendBatch, results []AppendResult) error {
	s.durableTraces.add(trace.SpanContextFromContext(ctx)) // before the uploader sees somebody wait
	s.durableWaiters.Add(1)
	defer s.durableWaiters.Add(-1)
	select {
	case s.uploadNow <- struct{}{}:
	default:
	}
	for i, r := range results {
		var end int64
		switch r.Reason {
		case reasonNone:
			end = r.BaseOffset + int64(batches[i].Data.NumRecords())
		case reasonForgotten: // stored, at an offset that is forgotten
			end = s.HighWatermark(batches[i].PartitionID)
		default:
			continue
		}
		if err := s.waitUploaded(ctx, batches[i].PartitionID, end); err != nil {
			return fmt.Errorf("wait until offset %d is in the object store: %w", end-1, err)
		}
	}
	return nil
}

// withLeader fills in who leads instead.
func (s *Shard) withLeader(err error) error {
	if _, ok := errors.AsType[*NotLeaderError](err); ok {
		return s.notLeader()
	}
	return err
}

// propose applies an entry of the shard's own and waits until it is applied here.
func (s *Shard) propose(ctx context.Context, data []byte) (applied, error) {
	var future raft.ApplyFuture
	err := s.replica.Await(ctx, func(rf *raft.Raft) raft.Future {
		future = rf.Apply(data, enqueueTimeout)
		return future
	})
	switch {
	case errors.Is(err, replica.ErrClosed):
		return applied{}, ErrClosed
	case err != nil && ctx.Err() != nil:
		return applied{}, errors.Join(ErrUnknownOutcome, err)
	case err != nil:
		return applied{}, s.withLeader(proposeError(err))
	}
	res, _ := future.Response().(applied)
	return res, res.err
}

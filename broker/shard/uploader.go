package shard

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/internal/tracing"
	"github.com/streamhouse/streamhouse/storage/segment"
)

const (
	// ownObjectBytes is from where on a partition gets an object of its own.
	ownObjectBytes = 8 << 20
	// maxSharedPartitions have their segments listed by a command of about half a MiB, of the 1 MiB that pass between nodes
	// at least.
	maxSharedPartitions = 10_000
	// durableDelay is how long the uploader gathers for those that wait with acks=durable.
	durableDelay = 100 * time.Millisecond
	// minUploadRetry and maxUploadRetry bound the wait after a failed upload.
	minUploadRetry = 500 * time.Millisecond
	maxUploadRetry = 15 * time.Second
	// commitTimeout bounds one try to commit an object's segments; it is tried again for as long as the shard is led.
	commitTimeout = 10 * time.Second
)

// Uploads is where objects go. object.Bucket is one.
type Uploads interface {
	// Put creates an object and never replaces one. It reads body from its start on every try.
	Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error
}

// cut is what one upload takes: dense runs of batches, each from the partition's uploaded end.
type cut struct {
	runs  map[uint64]memRun
	bytes int64
}

// plannedObject is one object to be, and whose segments it holds.
type plannedObject struct {
	ids   []uint64
	bytes int64
}

// runUploader uploads what is committed, while this replica leads. It returns when ctx ends, or where what an earlier leader
// uploaded can't be logged.
func (s *Shard) runUploader(ctx context.Context) error {
	defer s.durableTraces.take() // who waits is told that another one leads, which uploads what is left
	if err := s.adoptManifest(ctx); err != nil {
		return err
	}
	timer := time.NewTicker(uploadTick)
	defer timer.Stop()
	// What the last leader left is uploaded at once: somebody may wait there for it with acks=durable.
	inherited := true
	since := time.Now() // what was committed before is uploaded, but for what is inherited
	retry := minUploadRetry
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-s.uploadNow:
			if err := pause.For(ctx, durableDelay); err != nil {
				return err
			}
		case <-s.fsm.wake:
		}
		pending := s.pendingBytes()
		if pending == 0 {
			since, inherited = time.Now(), false
			continue
		}
		if !inherited && pending < s.cfg.UploadBytes && time.Since(since) < s.cfg.UploadInterval && s.durableWaiters.Load() == 0 {
			continue
		}
		began := time.Now()
		switch err := s.uploadOnce(ctx); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			s.log.WarnContext(ctx, "upload failed, trying again", "error", err, "retry_in", retry.String(), "backlog_bytes", pending)
			if err := pause.For(ctx, retry/2+rand.N(retry/2)); err != nil {
				return err
			}
			retry = min(2*retry, maxUploadRetry)
		default:
			since, retry, inherited = began, minUploadRetry, false
		}
	}
}

// uploadTick is how often the age of what waits is looked at.
const uploadTick = 250 * time.Millisecond

func (s *Shard) pendingBytes() int64 {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.state.pendingBytes
}

// adoptManifest logs what an earlier leader committed to the manifest without logging it here.
func (s *Shard) adoptManifest(ctx context.Context) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, commitTimeout)
		err := s.cfg.Metadata.Barrier(attempt)
		cancel()
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.log.WarnContext(ctx, "manifest can't be read yet", "error", err)
		if err := pause.For(ctx, minUploadRetry); err != nil {
			return err
		}
	}
	return s.logUploaded(ctx, s.manifestEnds(s.fsm.partitionIDs()))
}

// manifestEnds returns the ends of partitions that the manifest has further than this shard knows.
func (s *Shard) manifestEnds(ids []uint64) []uploadedEnd {
	view := s.cfg.Metadata.View()
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	var ends []uploadedEnd
	for _, id := range ids {
		p, ok := view.Partition(id)
		if !ok {
			continue
		}
		end := max(p.UploadedEnd, p.LogStart)
		if here := s.fsm.state.partitions[id]; here != nil && end > here.uploaded {
			ends = append(ends, uploadedEnd{id, end})
		}
	}
	return ends
}

func (s *Shard) logUploaded(ctx context.Context, ends []uploadedEnd) error {
	if len(ends) == 0 {
		return nil
	}
	_, err := s.propose(ctx, encodeUploaded(s.nowMs(), ends))
	return err
}

// uploadOnce uploads up to UploadBytes of what waits, oldest first. The spans of its objects link to the requests with
// acks=durable that began to wait since the upload before, and may to one that came right after the cut. Where an upload
// failed, the next one has its links too, since it carries the same records.
func (s *Shard) uploadOnce(ctx context.Context) error {
	c, err := s.takeCut(ctx)
	if err != nil {
		return err
	}
	links := s.durableTraces.take()
	for _, o := range planObjects(c.runs) {
		if err := s.uploadObject(ctx, o, c.runs, links); err != nil {
			s.durableTraces.giveBack(links)
			return err
		}
	}
	return nil
}

// takeCut gathers what waits: what is pinned first, then the log in its order, so that every run is dense.
func (s *Shard) takeCut(ctx context.Context) (cut, error) {
	view := s.cfg.Metadata.View()
	c := cut{runs: make(map[uint64]memRun)}
	cursors := make(map[uint64]*cursor)
	s.fsm.mu.RLock()
	local, to, first := s.fsm.local, s.fsm.index, s.replica.FirstIndex()
	for id, p := range s.fsm.state.partitions {
		if _, known := view.Partition(id); !known || p.uploaded == p.next {
			continue
		}
		end := p.uploaded
		if run, ok := s.fsm.local.pinned[id].from(end); ok {
			c.runs[id] = append(memRun(nil), run...)
			end = run[len(run)-1].next()
			for _, m := range run {
				c.bytes += int64(len(m.data))
			}
		}
		if end == p.next {
			continue
		}
		cur, ok := s.fsm.cursorLocked(id, end, first)
		if !ok {
			s.fsm.mu.RUnlock()
			return cut{}, fmt.Errorf("partition id %d: offset %d is neither in memory nor in the log", id, end)
		}
		cursors[id] = &cur
	}
	ends, nexts := make(map[uint64]int64, len(cursors)), make(map[uint64]int64, len(cursors))
	for id := range cursors {
		p := s.fsm.state.partitions[id]
		ends[id], nexts[id] = p.uploaded, p.next
		if run := c.runs[id]; len(run) > 0 {
			ends[id] = run[len(run)-1].next()
		}
	}
	s.fsm.mu.RUnlock()
	if c.bytes >= s.cfg.UploadBytes || len(cursors) == 0 {
		return c, nil
	}
	whole := true
	err := s.scan(ctx, logRange{local: local, to: to}, cursors, func(id uint64, m memBatch) error {
		if m.base < ends[id] {
			return nil
		}
		c.runs[id] = append(c.runs[id], m)
		if c.bytes += int64(len(m.data)); c.bytes >= s.cfg.UploadBytes {
			whole = false
			return errEnough
		}
		return nil
	})
	if err == nil && whole {
		err = checkScanned(cursors, nexts)
	}
	return c, err
}

// planObjects gives a partition with at least ownObjectBytes an object of its own; the others share one, up to
// maxSharedPartitions of them, since the command that lists it has a bound.
func planObjects(runs map[uint64]memRun) []plannedObject {
	var own []plannedObject
	var shared plannedObject
	for _, id := range slices.Sorted(maps.Keys(runs)) {
		var bytes int64
		for _, m := range runs[id] {
			bytes += int64(len(m.data))
		}
		if bytes >= ownObjectBytes {
			own = append(own, plannedObject{ids: []uint64{id}, bytes: bytes})
			continue
		}
		shared.ids = append(shared.ids, id)
		shared.bytes += bytes
		if len(shared.ids) == maxSharedPartitions {
			own = append(own, shared)
			shared = plannedObject{}
		}
	}
	if len(shared.ids) > 0 {
		own = append(own, shared)
	}
	return own
}

// uploadObject uploads one object, in a span of its own.
func (s *Shard) uploadObject(ctx context.Context, o plannedObject, runs map[uint64]memRun, links []trace.Link) error {
	if !s.tracer.On() {
		return s.writeObject(ctx, o, runs)
	}
	ctx, span := s.tracer.Root(ctx, "upload", links...)
	if span.IsRecording() {
		span.SetAttributes(attribute.Int64("streamhouse.shard", int64(s.cfg.Shard)), attribute.Int("streamhouse.partitions", len(o.ids)),
			attribute.Int64("streamhouse.bytes", o.bytes))
	}
	err := s.writeObject(ctx, o, runs)
	tracing.End(span, err)
	return err
}

// writeObject writes one object, lists it in the manifest, and logs how far the partitions are now.
func (s *Shard) writeObject(ctx context.Context, o plannedObject, runs map[uint64]memRun) error {
	name, obj, err := s.buildObject(ulid.Make(), o.ids, runs)
	if err != nil || obj == nil {
		return err
	}
	for _, e := range obj.Segments {
		s.cfg.Metrics.segments.add(e.GetPartitionId(), 1, 0)
	}
	if err := s.cfg.Uploads.Put(ctx, name, obj.Body(), obj.SizeBytes); err != nil {
		return fmt.Errorf("put object %s: %w", name, err)
	}
	ends, err := s.commitSegments(ctx, name, obj)
	if err != nil {
		return err
	}
	return s.logUploaded(ctx, ends)
}

func segmentPartition(view *fsm.View, p *fsm.Partition) segment.Partition {
	sp := segment.Partition{ID: p.ID, Number: p.Number, TopicUUID: p.TopicUUID}
	if t, ok := view.TopicByUUID(p.TopicUUID); ok {
		sp.Topic = t.Name
	}
	return sp
}

// commitSegments lists the object until the metadata group has answered: a time-out leaves the outcome open, and the
// command may be repeated.
func (s *Shard) commitSegments(ctx context.Context, name string, obj *segment.Object) ([]uploadedEnd, error) {
	cmd := &metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: name, ObjectBytes: uint64(obj.SizeBytes), Shard: s.cfg.Shard, Segments: obj.Segments, TimeMs: s.nowMs(),
	}}}
	res, err := s.proposeListing(ctx, name, cmd)
	if err != nil {
		return nil, err
	}
	return s.commitOutcomes(ctx, obj, res)
}

// proposeListing proposes the command that lists an object until there is an answer, a rejection, or ctx ends.
func (s *Shard) proposeListing(ctx context.Context, name string, cmd *metav1.Command) (*metav1.Result, error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, commitTimeout)
		res, err := s.cfg.Metadata.Propose(attempt, cmd)
		cancel()
		_, rejected := errors.AsType[*fsm.Rejection](err)
		switch {
		case err == nil:
			return res, nil
		case rejected:
			return nil, fmt.Errorf("list object %s: %w", name, err)
		case ctx.Err() != nil:
			return nil, ctx.Err()
		}
		s.log.WarnContext(ctx, "object is uploaded and not listed yet, trying again", "object", name, "error", err)
		if err := pause.For(ctx, minUploadRetry); err != nil {
			return nil, err
		}
	}
}

func (s *Shard) commitOutcomes(ctx context.Context, obj *segment.Object, res *metav1.Result) ([]uploadedEnd, error) {
	var ends []uploadedEnd
	var stale []uint64
	for i, outcome := range res.GetSegments() {
		seg := obj.Segments[i]
		switch outcome {
		case metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED, metav1.SegmentOutcome_SEGMENT_OUTCOME_ALREADY_COMMITTED:
			ends = append(ends, uploadedEnd{seg.GetPartitionId(), seg.GetEndOffset()})
			s.cfg.Metrics.segments.add(seg.GetPartitionId(), 0, 1)
		case metav1.SegmentOutcome_SEGMENT_OUTCOME_STALE_BASE:
			stale = append(stale, seg.GetPartitionId())
		default: // the partition is gone; the sweep drops it
		}
	}
	if len(stale) > 0 {
		if err := s.cfg.Metadata.Barrier(ctx); err != nil {
			return nil, err
		}
		ends = append(ends, s.manifestEnds(stale)...)
	}
	return ends, nil
}

// sweepDeleted drops the partitions of deleted topics, on all replicas through the log, and reports it.
func (s *Shard) sweepDeleted(ctx context.Context) error {
	for _, t := range s.cfg.Metadata.View().DeletedTopics() {
		if !slices.Contains(t.PendingShards, s.cfg.Shard) {
			continue
		}
		if _, err := s.propose(ctx, encodeDrop(s.nowMs(), t.PartitionIDs)); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, commitTimeout)
		_, err := s.cfg.Metadata.Propose(attempt, &metav1.Command{Command: &metav1.Command_PurgeTopic{
			PurgeTopic: &metav1.PurgeTopic{Uuid: t.UUID[:], Shard: s.cfg.Shard},
		}})
		cancel()
		if err != nil {
			return fmt.Errorf("report that topic %s is purged: %w", t.Name, err)
		}
	}
	return nil
}

package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
	"github.com/streamhouse/streamhouse/internal/tracing"
	"github.com/streamhouse/streamhouse/storage/object"
)

// pollSlice is how long a long poll waits before it asks the leader again, in case that it is cut off from it.
const pollSlice = 5 * time.Second

// fetched is what one read found: whole batches from the one that holds the offset, or nothing at the high watermark.
type fetched struct {
	data          []byte
	highWatermark int64
	logStart      int64
}

// applyPatience is how long an acknowledged record may take to be applied here before it is read from the leader.
const applyPatience = 25 * time.Millisecond

var (
	// errNotHere says that a source does not have the offset, and another one must be asked.
	errNotHere = errors.New("offset is not here")
	// errBehind says that this node's replica has not applied yet, or would apply late, what the leader has.
	errBehind = errors.New("replica is behind")
	// errCameHere says that this node leads the shard now, and its replica is the one to read.
	errCameHere = errors.New("this node leads the shard")
)

// read returns batches from the offset on. At the high watermark it waits for a first record at most until wait has
// passed. It never says that there is nothing without the shard's leader having said so in this call.
func (b *Broker) read(ctx context.Context, at place, offset int64, maxBytes int, wait time.Duration) (fetched, error) {
	ctx, span := b.tracer.Child(ctx, "read")
	f, err := b.readOn(ctx, at, offset, maxBytes, wait)
	if span.IsRecording() {
		span.SetAttributes(attribute.String("messaging.destination.name", at.topic.Name),
			attribute.Int64("messaging.destination.partition.number", int64(at.partition.Number)), attribute.Int64("streamhouse.offset", offset),
			attribute.Int("streamhouse.bytes", len(f.data)))
	}
	tracing.End(span, err)
	return f, err
}

// readOn is read without its span.
func (b *Broker) readOn(ctx context.Context, at place, offset int64, maxBytes int, wait time.Duration) (fetched, error) {
	until := time.Now().Add(wait)
	for {
		p := at.partition
		if offset < p.LogStart {
			return fetched{}, outOfRange(offset, p.LogStart, b.askedMark(ctx, p))
		}
		var f fetched
		var err error
		if local, ok := b.cfg.Shards.Local(p.Shard); ok {
			f, err = b.readLocal(ctx, local, p, offset, maxBytes, until)
		} else {
			f, err = b.readRemote(ctx, p, offset, maxBytes, until)
		}
		switch {
		case errors.Is(err, errNotHere):
			// Uploaded and cut since this node's view of the manifest, or trimmed away.
			if at, err = b.newer(ctx, at, offset); err != nil {
				return fetched{}, err
			}
		case errors.Is(err, errCameHere), leftNode(err) && !b.ending():
			if err := pause.For(ctx, minRetryDelay); err != nil {
				return fetched{}, err
			}
		case err != nil:
			return fetched{}, err
		default:
			f.logStart = p.LogStart
			f.highWatermark = b.marks.told(p.ID, f.highWatermark)
			return f, nil
		}
	}
}

// leftNode reports whether this node's replica was closed while it was read.
func leftNode(err error) bool {
	_, fromElsewhere := errors.AsType[*Error](err)
	return !fromElsewhere && errors.Is(err, shard.ErrClosed)
}

// newer returns the place after a barrier; it is an error where that has not brought anything new.
func (b *Broker) newer(ctx context.Context, at place, offset int64) (place, error) {
	old := at.partition
	at, err := b.refresh(ctx, at)
	if err == nil {
		at, err = b.expect(ctx, at, old.ID)
	}
	if err != nil {
		return place{}, err
	}
	p := at.partition
	if p.LogStart == old.LogStart && p.UploadedEnd == old.UploadedEnd {
		return place{}, newError(reasonInternal,
			"offset %d of partition id %d is neither in a replica nor in the manifest, which goes from %d to %d",
			offset, p.ID, p.LogStart, p.UploadedEnd)
	}
	return at, nil
}

// readLocal reads from this node's replica, and below what it keeps from the history.
func (b *Broker) readLocal(ctx context.Context, local LocalShard, p *fsm.Partition, offset int64, maxBytes int, until time.Time) (fetched, error) {
	if offset >= local.HighWatermark(p.ID) {
		if offset < p.UploadedEnd { // this replica is far behind
			return b.readRemote(ctx, p, offset, maxBytes, until)
		}
		err := b.await(ctx, local, p, offset, until)
		if errors.Is(err, errBehind) {
			return b.readRemote(ctx, p, offset, maxBytes, until)
		}
		if err != nil {
			return fetched{}, err
		}
	}
	f := fetched{highWatermark: local.HighWatermark(p.ID)}
	if offset >= f.highWatermark {
		f.highWatermark = offset // the leader said that it is the end
		return f, nil
	}
	data, err := local.Read(ctx, p.ID, offset, maxBytes)
	if errors.Is(err, shard.ErrBelowLocal) {
		data, err = b.readHistory(ctx, p, offset, maxBytes)
	}
	f.data = data
	return f, err
}

// await asks the leader where the log ends. It returns once this node has applied a record at offset, or when the leader
// says that offset is the end and the wait for more is over. Only the leader itself waits here: others hear of a commit
// later, and wait at the leader.
func (b *Broker) await(ctx context.Context, local LocalShard, p *fsm.Partition, offset int64, until time.Time) error {
	for {
		end, err := b.leaderMark(ctx, p)
		if err != nil {
			return err
		}
		switch {
		case offset > end:
			return outOfRange(offset, p.LogStart, end)
		case offset < end:
			// Acknowledged, and about to be applied here.
			if came, err := b.poll(ctx, local, p.ID, offset+1, applyPatience); came || err != nil {
				return err
			}
			return errBehind
		}
		slice := min(time.Until(until), pollSlice)
		if slice <= 0 || b.ending() {
			return nil
		}
		if leader, ok := local.Leader(); ok && fsm.NodeOf(leader) != b.cfg.NodeID {
			return errBehind
		}
		came, err := b.poll(ctx, local, p.ID, offset+1, slice)
		if came || err != nil {
			return err
		}
	}
}

// poll waits for a high watermark here, at most for d and not while polls are ended.
func (b *Broker) poll(ctx context.Context, local LocalShard, partitionID uint64, atLeast int64, d time.Duration) (came bool, err error) {
	waitCtx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	defer b.onEnd(cancel)()
	err = local.WaitHighWatermark(waitCtx, partitionID, atLeast)
	if err == nil {
		return true, nil
	}
	if ctx.Err() == nil && waitCtx.Err() != nil && !errors.Is(err, shard.ErrClosed) {
		return false, nil
	}
	return false, err
}

// onEnd calls cancel when polls are ended. The result takes that back.
func (b *Broker) onEnd(cancel context.CancelFunc) (stop func()) {
	done := make(chan struct{})
	finished := make(chan struct{})
	go func() { // joined by stop
		defer close(finished)
		select {
		case <-b.pollsEnd:
			cancel()
		case <-done:
		}
	}()
	return func() {
		close(done)
		<-finished
	}
}

func (b *Broker) ending() bool {
	select {
	case <-b.pollsEnd:
		return true
	default:
		return false
	}
}

// readRemote reads a partition that this node has no replica of: what is in the object store from there, newer records
// from the leader, and without one from any replica that has them.
func (b *Broker) readRemote(ctx context.Context, p *fsm.Partition, offset int64, maxBytes int, until time.Time) (fetched, error) {
	if offset < p.UploadedEnd {
		data, err := b.readHistory(ctx, p, offset, maxBytes)
		if err != nil {
			return fetched{}, err
		}
		return fetched{data: data, highWatermark: b.knownMark(ctx, p)}, nil
	}
	for {
		slice := min(time.Until(until), pollSlice)
		if b.ending() {
			slice = 0
		}
		f, err := b.fetchLeader(ctx, p, offset, maxBytes, max(slice, 0))
		if errors.Is(err, errNotHere) || errors.Is(err, errCameHere) {
			return fetched{}, err
		}
		if err != nil {
			if f, ok := b.fetchAny(ctx, p, offset, maxBytes); ok {
				return f, nil
			}
			_, bounded := ctx.Deadline()
			if AsError(err).Reason == reasonNoLeader && bounded && !b.ending() && pause.For(ctx, minRetryDelay) == nil {
				continue
			}
			return fetched{}, err
		}
		b.marks.note(p.ID, f.highWatermark)
		switch {
		case offset > f.highWatermark:
			return fetched{}, outOfRange(offset, p.LogStart, f.highWatermark)
		case len(f.data) > 0 || time.Until(until) <= 0 || b.ending():
			return f, nil
		}
		// The leader waited, unless it is about to stop: then it is not asked over and over.
		if err := pause.For(ctx, minRetryDelay); err != nil {
			return fetched{}, err
		}
	}
}

// fetchLeader reads from the shard's leader, which waits at the high watermark.
func (b *Broker) fetchLeader(ctx context.Context, p *fsm.Partition, offset int64, maxBytes int, wait time.Duration) (fetched, error) {
	var f fetched
	var elsewhere error
	outer, cancel := context.WithTimeout(ctx, leaderPatience+wait)
	defer cancel()
	defer b.onEnd(cancel)()
	call := leaderCall{shard: p.Shard, repeatable: true, read: true, attemptTimeout: askTimeout + wait}
	err := b.onLeader(outer, call, func(ctx context.Context, t target) error {
		if t.client == nil {
			elsewhere = errCameHere
			return nil
		}
		var err error
		f, err = b.fetchOn(ctx, t.client, p, offset, maxBytes, wait)
		if errors.Is(err, errNotHere) {
			elsewhere = errNotHere
			return nil
		}
		return err
	})
	if elsewhere != nil {
		return fetched{}, elsewhere
	}
	if err != nil && b.ending() && ctx.Err() == nil {
		return fetched{}, newError(reasonShuttingDown, "the node is shutting down")
	}
	if err != nil {
		return fetched{}, notFound(err, p.Shard)
	}
	return f, nil
}

// fetchAny reads what some replica has, without waiting. It is the way while there is no leader.
func (b *Broker) fetchAny(ctx context.Context, p *fsm.Partition, offset int64, maxBytes int) (fetched, bool) {
	for _, nodeID := range b.replicaNodes(p.Shard) {
		client, err := b.cfg.Peers.Client(nodeID)
		if err != nil {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, askTimeout)
		f, err := b.fetchOn(attempt, client, p, offset, maxBytes, 0)
		cancel()
		if err == nil && len(f.data) > 0 {
			return f, true
		}
	}
	return fetched{}, false
}

func (b *Broker) fetchOn(ctx context.Context, client nodev1.NodeServiceClient, p *fsm.Partition, offset int64, maxBytes int, wait time.Duration) (fetched, error) {
	res, err := ask(ctx, b, &nodev1.FetchRequest{
		Shard: p.Shard, PartitionId: p.ID, Offset: offset, MaxBytes: int64(maxBytes), MaxWaitMs: wait.Milliseconds(),
	}, client.Fetch)
	if err != nil {
		return fetched{}, err
	}
	if res.GetBelowLocal() {
		return fetched{}, errNotHere
	}
	return fetched{data: res.GetRecordBatches(), highWatermark: res.GetHighWatermark()}, nil
}

// readHistory reads from the object store.
func (b *Broker) readHistory(ctx context.Context, p *fsm.Partition, offset int64, maxBytes int) ([]byte, error) {
	ref, ok := p.FindSegment(offset)
	if !ok {
		return nil, errNotHere
	}
	if fsm.IsLost(ref.GetObject()) {
		return nil, lostError(ref)
	}
	ctx, span := b.tracer.Child(ctx, "read history")
	if span.IsRecording() {
		span.SetAttributes(attribute.String("streamhouse.object", ref.GetObject()))
	}
	data, err := b.cfg.History.Read(ctx, ref, offset, maxBytes)
	tracing.End(span, err)
	if err != nil {
		return nil, b.historyError(ctx, p, ref, err)
	}
	return data, nil
}

// lostError says that no object had the records when the cluster was recovered, and where to read on.
func lostError(ref *metav1.SegmentRef) *Error {
	e := ref.GetEntry()
	next := strconv.FormatInt(e.GetEndOffset(), 10)
	return &Error{
		Reason: reasonCorruptData,
		Message: fmt.Sprintf("the records from offset %d to %d were lost before the cluster was recovered from the object store; read on from offset %s",
			e.GetBaseOffset(), e.GetEndOffset()-1, next),
		Metadata: map[string]string{"next_offset": next},
	}
}

// historyError says what is wrong with an object. One that is gone may have been trimmed away since this node's view.
func (b *Broker) historyError(ctx context.Context, p *fsm.Partition, ref *metav1.SegmentRef, err error) error {
	if !errors.Is(err, object.ErrNotFound) {
		return err
	}
	if err := b.meta.Barrier(ctx); err != nil {
		return err
	}
	now, ok := b.meta.View().Partition(p.ID)
	if !ok || now.LogStart != p.LogStart {
		return errNotHere
	}
	return &Error{
		Reason: reasonCorruptData, Message: "object " + ref.GetObject() + " is in the manifest and not in the object store",
		Metadata: map[string]string{"object": ref.GetObject()}, Cause: err,
	}
}

package scrub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/segment"
)

const (
	// callTimeout bounds one call to the object store.
	callTimeout = time.Minute
	// maxDamagedObjects bounds how many damaged objects are remembered.
	maxDamagedObjects = 10_000
	// recheckedObjects bounds how many of them are looked at again at once.
	recheckedObjects = 100
)

// errManifest says that an object has not what the manifest says.
var errManifest = errors.New("the object has not the segment that the manifest lists")

// listing is what the manifest lists in an object, which is all of one shard.
type listing struct {
	shard   uint32
	entries []*metav1.SegmentEntry
}

// listed returns what the manifest lists in those objects that want takes.
func listed(view *fsm.View, want func(p *fsm.Partition, object string) bool) map[string]listing {
	found := make(map[string]listing)
	for t := range view.Topics() {
		for _, id := range t.PartitionIDs {
			p, ok := view.Partition(id)
			if !ok {
				continue
			}
			for i := range p.Segments {
				name := p.Segments[i].Object
				if fsm.IsLost(name) || !want(p, name) {
					continue
				}
				l := found[name]
				l.shard, l.entries = p.Shard, append(l.entries, p.Segments[i].Ref(id).GetEntry())
				found[name] = l
			}
		}
	}
	return found
}

// objects checks what the manifest lists for the shards that this node leads.
func (s *Scrubber) objects(ctx context.Context, leads map[uint32]bool) {
	view := s.cfg.Metadata.View()
	for name, l := range listed(view, func(p *fsm.Partition, _ string) bool { return leads[p.Shard] }) {
		err := s.object(ctx, view, name, l.entries)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !isDamage(err):
			s.log.Info("an object could not be read", "object", name, "error", err)
		case err != nil && s.isListed(name):
			s.noteObject(name, true)
			s.metrics.damaged.WithLabelValues("object").Inc()
			s.log.Error("an object is damaged", "object", name, "error", err)
		default:
			s.noteObject(name, false)
		}
	}
}

// noted is what is remembered of a damaged object.
type noted struct {
	// at is when it was found, or the node started with it.
	at time.Time
	// isTold is set once it was told that it is not written anew.
	isTold bool
}

// noteObject remembers a damaged object, or forgets it where there is no damage.
func (s *Scrubber) noteObject(name string, damaged bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.damaged[name]
	switch {
	case !damaged && known:
		delete(s.damaged, name)
	case damaged && !known && len(s.damaged) < maxDamagedObjects:
		s.damaged[name] = &noted{at: time.Now()}
	default:
		return
	}
	s.unsaved = true
	s.metrics.objects.Set(float64(len(s.damaged)))
}

// recheckObjects looks again at objects that were found damaged, whoever leads their shards by now: what was mended, or is
// needed no more, is not told for another interval, and what is damaged is not forgotten with the leadership. What is damaged
// still, and was found long enough ago that it is not the same moment of the object store, is written anew where a log here has
// it. It ends early where the object store does not answer or takes nothing: the next time it begins with other ones.
func (s *Scrubber) recheckObjects(ctx context.Context) {
	again := s.toRecheck()
	if len(again) == 0 || s.barrier(ctx) != nil {
		return // nobody knows what the manifest lists by now
	}
	view := s.cfg.Metadata.View()
	known := listed(view, func(_ *fsm.Partition, object string) bool { _, ok := again[object]; return ok })
	for name, isOld := range again {
		l, needed := known[name]
		var err error
		if needed {
			err = s.object(ctx, view, name, l.entries)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			s.log.Info("an object that was damaged is whole, or needed no more", "object", name)
			s.noteObject(name, false)
		case !isDamage(err):
			s.log.Info("an object that was damaged could not be read", "object", name, "error", err)
			return // the others would wait for a store that does not answer as well, and the replicas behind them
		case isOld && !s.rewrite(ctx, name, l):
			return
		}
	}
}

// toRecheck returns some of the objects that were found damaged, and of each whether that is as long ago as from one look to the
// next: looks and rounds have nothing to do with each other, and the first one may be right behind a round.
func (s *Scrubber) toRecheck() (isOld map[string]bool) {
	isOld = make(map[string]bool)
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, n := range s.damaged {
		isOld[name] = time.Since(n.at) >= s.recheckEvery()
		if len(isOld) == recheckedObjects {
			break // the order of a map is another one each time
		}
	}
	return isOld
}

// rewrite has a damaged object written anew, as far as the log of this node's replica has what it had. It stays noted until
// the manifest lists nothing of it any more. That it needs an older version is told once, and only where nothing else is left to
// wait for. It returns false after an error that others would have as well by now, as of an object store that takes nothing.
func (s *Scrubber) rewrite(ctx context.Context, name string, l listing) (others bool) {
	err := s.replicaError(l.shard)
	segments := 0
	if err == nil {
		segments, err = s.cfg.Rewrite(ctx, l.shard, name, l.entries)
	}
	if segments > 0 {
		s.metrics.rewritten.Inc()
		s.log.Warn("a damaged object was written anew from the log", "object", name, "segments", segments, "of", len(l.entries))
	}
	switch {
	case ctx.Err() != nil:
		return false
	case err == nil && !s.isListed(name):
		s.noteObject(name, false)
		return true
	case err == nil:
		err = errNotAll
	case segments > 0:
		s.log.Info("this node does not know yet that an object was written anew", "object", name, "error", err)
		return false
	case !isFinal(err):
		s.log.Info("a damaged object could not be written anew yet", "object", name, "error", err)
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.damaged[name]; n != nil && !n.isTold {
		n.isTold = true
		s.log.Error("a damaged object, or a part of it, is not written anew from the log of this node; bring an older version of it back", "object", name, "error", err)
	}
	return true
}

// Why an object is not written anew.
var (
	errNoReplica  = errors.New("this node has no replica of its shard any more")
	errOwnReplica = errors.New("the replica of this node is damaged, or differs from others")
	errNotAll     = errors.New("the log has not all of it")
)

// isFinal tells that this node has not what an object had from what may be another thing at the next try.
func isFinal(err error) bool {
	return errors.Is(err, errNoReplica) || errors.Is(err, errOwnReplica) || errors.Is(err, shard.ErrBelowLocal) || errors.Is(err, shard.ErrOtherRecords)
}

// replicaError says why nothing can be taken from this node's replica of a shard: there is none, or it was found damaged or
// different.
func (s *Scrubber) replicaError(number uint32) error {
	err := errNoReplica
	for _, r := range s.cfg.Replicas() {
		if r.IsMetadata || r.Shard != number {
			continue
		}
		err = nil
		id := r.Status().ReplicaID
		s.mu.Lock()
		found := s.found[id] != nil
		s.mu.Unlock()
		if found {
			return errOwnReplica
		}
	}
	return err
}

func (s *Scrubber) barrier(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return s.cfg.Metadata.Barrier(ctx)
}

// isDamage tells what is wrong with an object from a store that does not answer.
func isDamage(err error) bool {
	return errors.Is(err, segment.ErrCorrupt) || errors.Is(err, segment.ErrVersion) || errors.Is(err, object.ErrNotFound) || errors.Is(err, errManifest)
}

// isListed says whether the object is in the manifest yet: retention may have removed it meanwhile.
func (s *Scrubber) isListed(name string) bool { return s.cfg.Metadata.View().ObjectListed(name) }

// object checks one object: that it is there with the size it was written with, every byte of it, and that it has what the
// manifest lists.
func (s *Scrubber) object(ctx context.Context, view *fsm.View, name string, entries []*metav1.SegmentEntry) error {
	head, cancel := context.WithTimeout(ctx, callTimeout)
	attrs, err := s.cfg.Bucket.Head(head, name)
	cancel()
	if err != nil {
		return err
	}
	if want, ok := view.ObjectBytes(name); ok && int64(want) != attrs.SizeBytes {
		return fmt.Errorf("%w: it has %d bytes, written were %d", errManifest, attrs.SizeBytes, want)
	}
	in, err := segment.Inspect(ctx, pacedRanges{s.cfg.Bucket, s.pace("object")}, name, attrs.SizeBytes)
	if err != nil {
		return err
	}
	for _, e := range entries {
		found := false
		for i := range in.Segments {
			found = found || proto.Equal(in.Segments[i].Entry, e)
		}
		if !found {
			return fmt.Errorf("%w: partition id %d, offsets %d to %d", errManifest, e.GetPartitionId(), e.GetBaseOffset(), e.GetEndOffset())
		}
	}
	return nil
}

// pacedRanges reads ranges of objects, no faster than it may.
type pacedRanges struct {
	bucket Bucket
	pace   func(context.Context, int64) error
}

// ReadRange returns length bytes from offset, fewer where the object ends.
func (r pacedRanges) ReadRange(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	data, err := object.Ranges{Getter: r.bucket}.ReadRange(call, name, offset, length)
	if err != nil {
		return nil, err
	}
	return data, r.pace(ctx, int64(len(data)))
}

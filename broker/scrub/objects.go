package scrub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
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

// objects checks what the manifest lists for the shards that this node leads.
func (s *Scrubber) objects(ctx context.Context, leads map[uint32]bool) {
	listed := make(map[string][]*metav1.SegmentEntry)
	view := s.cfg.Metadata.View()
	for t := range view.Topics() {
		for _, id := range t.PartitionIDs {
			p, ok := view.Partition(id)
			if !ok || !leads[p.Shard] {
				continue
			}
			for i := range p.Segments {
				if ref := p.Segments[i].Ref(id); !fsm.IsLost(ref.GetObject()) {
					listed[ref.GetObject()] = append(listed[ref.GetObject()], ref.GetEntry())
				}
			}
		}
	}
	for name, entries := range listed {
		err := s.object(ctx, view, name, entries)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && !isDamage(err):
			s.log.Info("an object could not be read", "object", name, "error", err)
		case err != nil && s.stillListed(name, entries):
			s.noteObject(name, entries)
			s.metrics.damaged.WithLabelValues("object").Inc()
			s.log.Error("an object is damaged; bring an older version of it back", "object", name, "error", err)
		default:
			s.noteObject(name, nil)
		}
	}
}

// noteObject remembers a damaged object with what the manifest lists in it, or forgets it where there is no damage.
func (s *Scrubber) noteObject(name string, damaged []*metav1.SegmentEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if damaged == nil {
		delete(s.damaged, name)
	} else if _, known := s.damaged[name]; known || len(s.damaged) < maxDamagedObjects {
		s.damaged[name] = damaged
	}
	s.metrics.objects.Set(float64(len(s.damaged)))
}

// recheckObjects looks again at objects that were found damaged, whoever leads their shards by now: what was mended, or is
// needed no more, is not told for another interval, and what is damaged is not forgotten with the leadership.
func (s *Scrubber) recheckObjects(ctx context.Context) {
	again := make(map[string][]*metav1.SegmentEntry)
	s.mu.Lock()
	for name, entries := range s.damaged {
		if again[name] = entries; len(again) == recheckedObjects {
			break // the order of a map is another one each time
		}
	}
	s.mu.Unlock()
	for name, entries := range again {
		if s.stillListed(name, entries) && s.object(ctx, s.cfg.Metadata.View(), name, entries) != nil {
			continue // damaged still, or not to be read
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Info("an object that was damaged is whole, or needed no more", "object", name)
		s.noteObject(name, nil)
	}
}

// isDamage tells what is wrong with an object from a store that does not answer.
func isDamage(err error) bool {
	return errors.Is(err, segment.ErrCorrupt) || errors.Is(err, segment.ErrVersion) || errors.Is(err, object.ErrNotFound) || errors.Is(err, errManifest)
}

// stillListed says whether the object is in the manifest yet: retention may have removed it meanwhile.
func (s *Scrubber) stillListed(name string, entries []*metav1.SegmentEntry) bool {
	for _, e := range entries {
		p, ok := s.cfg.Metadata.View().Partition(e.GetPartitionId())
		if !ok {
			continue
		}
		if ref, ok := p.FindSegment(e.GetEndOffset() - 1); ok && ref.GetObject() == name {
			return true
		}
	}
	return false
}

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

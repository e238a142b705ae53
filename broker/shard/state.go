package shard

import (
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/storage/record"
)

// MaxSubscriptionBytes bounds the names of the topics that one member subscribes to, together.
const MaxSubscriptionBytes = 32 << 10

const (
	// droppedKeepMs is how long a dropped partition is remembered, so that a late append can't revive it.
	droppedKeepMs = 24 * 60 * 60 * 1000
	// maxGroupOffsets bounds the committed offsets that one shard holds, maxGroups its groups, with members or without,
	// maxMembers the members of all of them, and maxTopicBytes the names of the topics that each of these subscribes to.
	maxGroupOffsets = 1_000_000
	maxGroups       = 100_000
	maxMembers      = 10_000
	maxTopicBytes   = 64 << 20
)

// state is the shard's replicated state machine. It is pure: what it becomes depends on the entries alone. It is not
// safe for concurrent use; the adapter's mutex guards it.
type state struct {
	timeMs     int64
	partitions map[uint64]*partition
	producers  *producers
	groups     map[string]*consumerGroup
	offsets    int        // of all groups
	size       group.Size // of all groups
	dropped    map[uint64]int64
	// pendingBytes are the bytes of batches that are not in the object store.
	pendingBytes int64
	// recoveryID is the recovery from the object store that the shard goes on from; empty for none.
	recoveryID string
	// groupsIndex is the index of the last entry that may have changed committed offsets.
	groupsIndex uint64
}

// partition is the replicated part of one partition's log.
type partition struct {
	next     int64 // high watermark
	uploaded int64 // offset behind what is in the object store
	// pending are the batches from uploaded to next, in runs, to know how many bytes an Uploaded takes off, and since when the
	// oldest waits.
	pending      []pendingRun
	pendingBytes int64
}

// pendingRun counts bytes of batches from an offset up to another. Runs are coarse: a batch is added to the last run until that
// has pendingRunBytes, so their number stays small, or until some of it is uploaded, so that none is much older than its newest
// batch while uploads go well.
type pendingRun struct {
	base  int64
	end   int64
	bytes int64
	// sinceMs is the entries' time at which the first batch was stored. Batches that came with a snapshot have the snapshot's:
	// they are as old at least.
	sinceMs int64
}

const pendingRunBytes = 256 << 10

func newState() *state {
	return &state{
		partitions: make(map[uint64]*partition),
		producers:  newProducers(),
		groups:     make(map[string]*consumerGroup),
		dropped:    make(map[uint64]int64),
	}
}

// tick moves the entries' clock, which never goes back, and lets expire what is due.
func (s *state) tick(timeMs int64) {
	if timeMs <= s.timeMs {
		return
	}
	minute := timeMs/60_000 != s.timeMs/60_000
	s.timeMs = timeMs
	s.producers.expire(timeMs)
	if !minute {
		return
	}
	for id, at := range s.dropped {
		if timeMs-at > droppedKeepMs {
			delete(s.dropped, id)
		}
	}
}

// append applies one batch: it checks the producer's sequence and gives the batch its offset.
func (s *state) append(partitionID uint64, b record.Batch) AppendResult {
	if _, gone := s.dropped[partitionID]; gone {
		return AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND}
	}
	p := s.partitions[partitionID]
	if p == nil {
		p = &partition{}
	}
	n := b.NumRecords()
	if id := b.ProducerID(); id >= 0 {
		key := producerKey{partitionID, id}
		res := s.producers.check(key, b.ProducerEpoch(), b.BaseSequence(), n)
		if res.Reason != reasonNone || res.Duplicate {
			return res
		}
		s.producers.record(key, s.timeMs, producerBatch{
			epoch: b.ProducerEpoch(), baseSequence: b.BaseSequence(), records: n, baseOffset: p.next,
		})
	}
	s.partitions[partitionID] = p
	base := p.next
	p.next += int64(n)
	p.addPending(pendingRun{base: base, end: p.next, bytes: int64(len(b)), sinceMs: s.timeMs})
	s.pendingBytes += int64(len(b))
	return AppendResult{BaseOffset: base}
}

// addPending adds a batch, as a run of its own, behind the others.
func (p *partition) addPending(batch pendingRun) {
	p.pendingBytes += batch.bytes
	if k := len(p.pending) - 1; k >= 0 && p.pending[k].bytes < pendingRunBytes && p.pending[k].base >= p.uploaded {
		p.pending[k].end = batch.end
		p.pending[k].bytes += batch.bytes
		return
	}
	p.pending = append(p.pending, batch)
}

// pendingSinceMs is the entries' time since when the oldest batch waits for its upload; false where none waits. A batch that
// others of its run have left behind counts as old as they.
func (s *state) pendingSinceMs() (sinceMs int64, waits bool) {
	for _, p := range s.partitions {
		if len(p.pending) > 0 && (!waits || p.pending[0].sinceMs < sinceMs) {
			sinceMs, waits = p.pending[0].sinceMs, true
		}
	}
	return sinceMs, waits
}

// markUploaded notes how far partitions are in the object store. An end never goes back, and never beyond the log.
func (s *state) markUploaded(ends []uploadedEnd) {
	for _, e := range ends {
		p := s.partitions[e.partitionID]
		if p == nil || e.end <= p.uploaded {
			continue
		}
		p.uploaded = min(e.end, p.next)
		s.pendingBytes -= p.takePending()
	}
}

// takePending drops the runs below uploaded and returns their bytes.
func (p *partition) takePending() int64 {
	var taken int64
	k := 0
	for k < len(p.pending) && p.pending[k].end <= p.uploaded {
		taken += p.pending[k].bytes
		k++
	}
	p.pending = append(p.pending[:0], p.pending[k:]...)
	p.pendingBytes -= taken
	return taken
}

// drop forgets partitions whose topic was deleted, with their producers and committed offsets.
func (s *state) drop(ids []uint64) {
	gone := make(map[uint64]bool, len(ids))
	for _, id := range ids {
		gone[id] = true
		s.dropped[id] = s.timeMs
		if p := s.partitions[id]; p != nil {
			s.pendingBytes -= p.pendingBytes
			delete(s.partitions, id)
		}
	}
	s.producers.drop(gone)
	for name, g := range s.groups {
		for id := range g.offsets {
			if gone[id] {
				delete(g.offsets, id)
				s.offsets--
			}
		}
		s.forgetIdle(name, g)
	}
}

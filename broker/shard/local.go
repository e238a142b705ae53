package shard

import (
	"slices"
	"sort"

	"github.com/streamhouse/streamhouse/storage/record"
)

const (
	// pointBytes and pointEntries are how far apart the index points of a partition are at most, whichever comes first.
	pointBytes   = 64 << 10
	pointEntries = 64
)

// memBatch is a batch in memory. Its data aliases a Raft entry and is never written; its base offset is kept beside it.
type memBatch struct {
	base int64
	data record.Batch
}

func (m memBatch) next() int64 { return m.base + int64(m.data.NumRecords()) }

// memRun is a dense run of one partition's batches.
type memRun []memBatch

// from returns the batches from the one that holds offset. ok is false when the run does not hold it.
func (r memRun) from(offset int64) (rest memRun, ok bool) {
	if len(r) == 0 || offset < r[0].base || offset >= r[len(r)-1].next() {
		return nil, false
	}
	i := sort.Search(len(r), func(i int) bool { return r[i].base > offset }) - 1
	return r[i:], true
}

// tail keeps the newest batches of all partitions in memory, bounded in bytes, oldest out first.
type tail struct {
	maxBytes int64
	bytes    int64
	order    []uint64 // partition ids of the batches, oldest first
	runs     map[uint64]memRun
}

func newTail(maxBytes int64) *tail {
	return &tail{maxBytes: maxBytes, runs: make(map[uint64]memRun)}
}

func (t *tail) add(partitionID uint64, m memBatch) {
	t.runs[partitionID] = append(t.runs[partitionID], m)
	t.order = append(t.order, partitionID)
	t.bytes += int64(len(m.data))
	for t.bytes > t.maxBytes && len(t.order) > 1 {
		t.evict()
	}
}

func (t *tail) evict() {
	id := t.order[0]
	t.order = t.order[1:]
	run := t.runs[id]
	if len(run) == 0 {
		return // dropped in the meantime
	}
	t.bytes -= int64(len(run[0].data))
	run[0] = memBatch{}
	if len(run) == 1 {
		delete(t.runs, id)
		return
	}
	t.runs[id] = run[1:]
}

func (t *tail) drop(partitionID uint64) {
	for _, m := range t.runs[partitionID] {
		t.bytes -= int64(len(m.data))
	}
	delete(t.runs, partitionID)
}

// point says that the first batch of a partition in the Raft entry index has this base offset.
type point struct {
	base  int64
	index uint64
}

// pointIndex is the sparse index of one partition over the local Raft log.
type pointIndex struct {
	points []point
	bytes  int64  // behind the last point
	last   uint64 // Raft index of the newest batch
}

// add notes a batch of this many bytes. Only the first of an entry can be a point.
func (x *pointIndex) add(p point, bytes int64) {
	if first := p.index != x.last; first {
		k := len(x.points) - 1
		if k < 0 || x.bytes >= pointBytes || p.index-x.points[k].index >= pointEntries {
			x.points = append(x.points, p)
			x.bytes = 0
		}
		x.last = p.index
	}
	x.bytes += bytes
}

// floor returns the last point at or below offset that lies at or behind the Raft index first.
func (x *pointIndex) floor(offset int64, first uint64) (point, bool) {
	i := sort.Search(len(x.points), func(i int) bool { return x.points[i].base > offset }) - 1
	if i < 0 || x.points[i].index < first {
		return point{}, false
	}
	return x.points[i], true
}

// trim drops the points before the Raft index first.
func (x *pointIndex) trim(first uint64) {
	i := sort.Search(len(x.points), func(i int) bool { return x.points[i].index >= first })
	x.points = append([]point(nil), x.points[i:]...)
}

// batchPlace is a batch by its Raft entry, and its place in that.
type batchPlace struct {
	index uint64
	place int
}

// rejectedFrom returns those at and behind a Raft index.
func rejectedFrom(rejected []batchPlace, index uint64) []batchPlace {
	return rejected[sort.Search(len(rejected), func(i int) bool { return rejected[i].index >= index }):]
}

// local is what this replica keeps beside the replicated state to read its log: it differs from replica to replica.
type local struct {
	tail  *tail
	index map[uint64]*pointIndex
	// pinned are batches that a snapshot carries because the object store did not have them; they stay until it has.
	pinned map[uint64]memRun
	// pin says where a stored batch is pinned at once, while a checkpoint runs.
	pin pinMode
	// fresh are the batches applied while the checkpoint reads the older ones.
	fresh map[uint64]memRun
	// rejected are the batches that were not stored, in the order of the log.
	rejected []batchPlace
	// trimmed is the Raft index before which rejected, and the index, know nothing; 0 before the first entry.
	trimmed uint64
}

func newLocal(tailBytes int64) *local {
	return &local{
		tail:   newTail(tailBytes),
		index:  make(map[uint64]*pointIndex),
		pinned: make(map[uint64]memRun),
	}
}

// pinMode is what happens to a batch that is applied while a checkpoint runs.
type pinMode int

const (
	pinOff    pinMode = iota
	pinFresh          // older batches are being read: collect apart
	pinDirect         // all older ones are pinned: append
)

// stored notes a batch that was given its offset by the Raft entry index.
func (l *local) stored(partitionID uint64, index uint64, m memBatch) {
	x := l.index[partitionID]
	if x == nil {
		x = &pointIndex{}
		l.index[partitionID] = x
	}
	x.add(point{base: m.base, index: index}, int64(len(m.data)))
	l.tail.add(partitionID, m)
	switch l.pin {
	case pinFresh:
		l.fresh[partitionID] = append(l.fresh[partitionID], m)
	case pinDirect:
		l.pinned[partitionID] = append(l.pinned[partitionID], m)
	case pinOff:
	}
}

// pinOlder puts the batches that a checkpoint read between what was pinned before and what came meanwhile.
func (l *local) pinOlder(older map[uint64]memRun) {
	for id, run := range older {
		l.pinned[id] = append(l.pinned[id], run...)
	}
	for id, run := range l.fresh {
		l.pinned[id] = append(l.pinned[id], run...)
	}
	l.fresh, l.pin = nil, pinDirect
}

func (l *local) refused(index uint64, place int) {
	l.rejected = append(l.rejected, batchPlace{index, place})
}

// unpin lets go of the pinned batches of a partition below end.
func (l *local) unpin(partitionID uint64, end int64) {
	run := l.pinned[partitionID]
	i := 0
	for i < len(run) && run[i].next() <= end {
		i++
	}
	if i == len(run) {
		delete(l.pinned, partitionID)
		return
	}
	l.pinned[partitionID] = append(memRun(nil), run[i:]...)
}

func (l *local) drop(partitionID uint64) {
	l.tail.drop(partitionID)
	delete(l.index, partitionID)
	delete(l.pinned, partitionID)
	delete(l.fresh, partitionID)
}

// trim forgets what points at Raft entries before first.
func (l *local) trim(first uint64) {
	l.trimmed = max(l.trimmed, first)
	for id, x := range l.index {
		if x.trim(first); len(x.points) == 0 {
			delete(l.index, id)
		}
	}
	l.rejected = slices.Clone(rejectedFrom(l.rejected, first))
}

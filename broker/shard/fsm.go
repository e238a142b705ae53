package shard

import (
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/hashicorp/raft"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/storage/record"
)

var _ raft.FSM = (*replicaFSM)(nil)

// applied is what Apply answers for one entry.
type applied struct {
	results []AppendResult
	group   group.Answer
	// refused is why a group's command changed nothing.
	refused error
	err     error
}

// replicaFSM is the Raft adapter of one replica: it feeds entries to the state and keeps what is needed to read them.
type replicaFSM struct {
	shard uint32
	fatal func(error)
	// replicaID says whose log a snapshot tells of; empty: it tells of none.
	replicaID string
	// wake is poked, without blocking, whenever something was applied.
	wake chan struct{}

	mu      sync.RWMutex
	state   *state
	local   *local
	waiters map[uint64]chan struct{} // closed when the partition's high watermark or uploaded end moves
	index   uint64                   // last applied
	// snapshotted is the last index that the newest snapshot taken here has.
	snapshotted uint64
	failed      error
	// leads returns the term in which this replica leads; 0 when it does not.
	leads func() uint64
	// rebalances counts, by group, the generations that completed while this replica led.
	rebalances map[string]uint64
}

func newReplicaFSM(shard uint32, tailBytes int64, fatal func(error)) *replicaFSM {
	return &replicaFSM{
		shard:      shard,
		fatal:      fatal,
		wake:       make(chan struct{}, 1),
		state:      newState(),
		local:      newLocal(tailBytes),
		waiters:    make(map[uint64]chan struct{}),
		leads:      func() uint64 { return 0 },
		rebalances: make(map[string]uint64),
	}
}

// Apply applies one committed entry. An entry that this binary does not know ends the node: going on would let the
// replicas differ.
func (f *replicaFSM) Apply(l *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return applied{err: f.failed}
	}
	if f.local.trimmed == 0 {
		f.local.trimmed = l.Index
	}
	res := f.applyLocked(l)
	f.index = l.Index
	if res.err != nil {
		f.failed = res.err
		f.fatal(res.err)
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return res
}

func (f *replicaFSM) applyLocked(l *raft.Log) applied {
	kind, timeMs, body, err := entryHeader(l.Data)
	if err != nil {
		return applied{err: entryError(f.shard, l.Index, err)}
	}
	f.state.tick(timeMs)
	var res applied
	switch kind {
	case kindAppend:
		res.results, err = f.applyAppendLocked(l.Index, body)
	case kindUploaded:
		err = f.applyUploadedLocked(body)
	case kindDrop:
		err = f.applyDropLocked(body)
	case kindOffsetCommit, kindMemberCommit, kindNumberedCommit:
		var c offsetCommit
		if c, err = decodeCommit(kind, body); err == nil {
			res.refused = f.state.commitOffsets(c)
		}
	case kindGroup:
		var cmd *metav1.GroupCommand
		if cmd, err = decodeGroup(body); err == nil {
			res.group, res.refused = f.state.applyGroup(cmd)
			f.countRebalanceLocked(l.Term, cmd.GetGroup(), res.group)
		}
	case kindSeed:
		err = f.applySeedLocked(body)
	}
	if kind.changesGroups() {
		f.state.groupsIndex = l.Index
	}
	if err != nil {
		return applied{err: entryError(f.shard, l.Index, err)}
	}
	return res
}

func (f *replicaFSM) applyAppendLocked(index uint64, body []byte) ([]AppendResult, error) {
	var results []AppendResult
	err := eachAppend(body, func(i int, id uint64, b record.Batch) error {
		res := f.state.append(id, b)
		results = append(results, res)
		if res.Reason != reasonNone || res.Duplicate {
			f.local.refused(index, i)
			return nil
		}
		f.local.stored(id, index, memBatch{base: res.BaseOffset, data: b})
		f.notifyLocked(id)
		return nil
	})
	return results, err
}

func (f *replicaFSM) applyUploadedLocked(body []byte) error {
	ends, err := decodeUploaded(body)
	if err != nil {
		return err
	}
	f.state.markUploaded(ends)
	for _, e := range ends {
		f.local.unpin(e.partitionID, e.end)
		f.notifyLocked(e.partitionID)
	}
	return nil
}

func (f *replicaFSM) applyDropLocked(body []byte) error {
	ids, err := decodeDrop(body)
	if err != nil {
		return err
	}
	f.state.drop(ids)
	for _, id := range ids {
		f.local.drop(id)
		f.notifyLocked(id)
	}
	return nil
}

// countRebalanceLocked counts what this replica proposed as leader, so that a generation is counted by one node.
func (f *replicaFSM) countRebalanceLocked(term uint64, name string, answer group.Answer) {
	if answer.Completed && f.leads() == term {
		f.rebalances[name]++
	}
	if f.state.groups[name] == nil {
		delete(f.rebalances, name)
	}
}

func (f *replicaFSM) notifyLocked(id uint64) {
	if ch := f.waiters[id]; ch != nil {
		close(ch)
		delete(f.waiters, id)
	}
}

// changedLocked returns a channel that is closed when the partition's high watermark or uploaded end moves.
func (f *replicaFSM) changedLocked(id uint64) <-chan struct{} {
	ch := f.waiters[id]
	if ch == nil {
		ch = make(chan struct{})
		f.waiters[id] = ch
	}
	return ch
}

// Snapshot takes a handle on the state. It runs on Raft's FSM goroutine and copies only small things; the batches that
// the object store does not have were pinned before (see checkpoint) and are carried by reference.
func (f *replicaFSM) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil {
		return nil, f.failed
	}
	sn, err := newSnapshot(f.shard, f.state, f.local)
	if err != nil {
		return nil, err
	}
	if f.replicaID != "" {
		sn.log = f.local.save(f.replicaID, f.index)
	}
	f.snapshotted = f.index
	return sn, nil
}

// Restore replaces the state by a snapshot's. Raft calls nothing else meanwhile; readers wait.
func (f *replicaFSM) Restore(r io.ReadCloser) error {
	read, err := readSnapshot(r, f.shard)
	closeErr := r.Close()
	if err != nil {
		return err
	}
	if closeErr != nil {
		return closeErr
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.state = read.state
	f.local = newLocal(f.local.tail.maxBytes)
	f.local.pinned = read.pinned
	if log := read.log; log != nil {
		f.index = log.last
		if log.replicaID == f.replicaID {
			f.local.resume(log)
		}
	}
	for id, ch := range f.waiters {
		close(ch)
		delete(f.waiters, id)
	}
	return nil
}

// partitionIDs returns the partitions that have a log here, in order.
func (f *replicaFSM) partitionIDs() []uint64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return slices.Sorted(maps.Keys(f.state.partitions))
}

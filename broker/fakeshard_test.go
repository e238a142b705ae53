package broker

import (
	"context"
	"maps"
	"slices"
	"sync"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
)

// fakeLog is the log of one partition, shared by the replicas of a shard.
type fakeLog struct {
	batches []record.Batch
	next    int64
}

// fakeShard is a shard: what its leader has stored, and how much each replica has applied.
type fakeShard struct {
	mu      sync.Mutex
	logs    map[uint64]*fakeLog
	leader  string           // replica id, empty for none
	applied map[string]int64 // node → high watermark of all partitions there, absent: all
	cut     map[string]int64 // node → first offset that it still has
	changed chan struct{}
	answers []func() error // of the next appends, in order; nil answers store
	appends [][]shard.AppendBatch
	durable []bool
	offsets map[string][]shard.GroupOffset
	// committer has made the newest commit.
	committer shard.Committer
	members   map[string]*group.Group // by the group's name
	// groupTopics are the partitions of what its members subscribe to.
	groupTopics map[string][]uint64
	reasons     map[uint64]Reason // what appends to a partition are refused with
}

func newFakeShard(leader string) *fakeShard {
	return &fakeShard{
		logs: make(map[uint64]*fakeLog), leader: leader, applied: make(map[string]int64), cut: make(map[string]int64),
		changed: make(chan struct{}), offsets: make(map[string][]shard.GroupOffset),
		members: make(map[string]*group.Group), reasons: make(map[uint64]Reason),
	}
}

func (s *fakeShard) wakeLocked() {
	close(s.changed)
	s.changed = make(chan struct{})
}

func (s *fakeShard) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.wakeLocked()
}

// on returns the shard as the node sees it.
func (s *fakeShard) on(node string) *fakeReplica { return &fakeReplica{s, node} }

// fakeReplica is one node's replica of a fakeShard.
type fakeReplica struct {
	*fakeShard
	node string
}

var _ LocalShard = (*fakeReplica)(nil)

func (r *fakeReplica) Leader() (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.leader, r.leader != ""
}

func (r *fakeReplica) checkLocked() error {
	if fsm.NodeOf(r.leader) != r.node {
		return &shard.NotLeaderError{Leader: r.leader}
	}
	return nil
}

func (r *fakeReplica) Append(ctx context.Context, batches []shard.AppendBatch, durable bool) ([]shard.AppendResult, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) > 0 {
		answer := r.answers[0]
		r.answers = r.answers[1:]
		if answer != nil {
			if err := answer(); err != nil {
				return nil, err
			}
		}
	}
	if err := r.checkLocked(); err != nil {
		return nil, err
	}
	r.appends = append(r.appends, batches)
	r.durable = append(r.durable, durable)
	results := make([]shard.AppendResult, len(batches))
	for i, b := range batches {
		if reason := r.reasons[b.PartitionID]; reason != reasonNone {
			results[i].Reason = reason
			continue
		}
		results[i].BaseOffset = r.storeLocked(b.PartitionID, b.Data)
	}
	r.wakeLocked()
	return results, nil
}

func (s *fakeShard) storeLocked(id uint64, b record.Batch) int64 {
	l := s.logs[id]
	if l == nil {
		l = &fakeLog{}
		s.logs[id] = l
	}
	own := append(record.Batch(nil), b...)
	own.SetBaseOffset(l.next)
	l.batches = append(l.batches, own)
	l.next = own.NextOffset()
	return own.BaseOffset()
}

// BeginAppend stores at once, and answers when it is waited for.
func (r *fakeReplica) BeginAppend(ctx context.Context, batches []shard.AppendBatch, durable bool) (func(context.Context) ([]shard.AppendResult, error), error) {
	results, err := r.Append(context.WithoutCancel(ctx), batches, durable)
	return func(context.Context) ([]shard.AppendResult, error) { return results, err }, nil
}

func (r *fakeReplica) LeaderHighWatermark(id uint64) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return 0, err
	}
	return r.markLocked(id), nil
}

func (r *fakeReplica) markLocked(id uint64) int64 {
	next := int64(0)
	if l := r.logs[id]; l != nil {
		next = l.next
	}
	if applied, ok := r.applied[r.node]; ok {
		return min(applied, next)
	}
	return next
}

func (r *fakeReplica) HighWatermark(id uint64) int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.markLocked(id)
}

// fakeApplied is the Raft index that a replica which is not behind has applied.
const fakeApplied = 7

func (r *fakeReplica) AppliedIndex() uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, behind := r.applied[r.node]; behind {
		return fakeApplied - 1
	}
	return fakeApplied
}

func (r *fakeReplica) WaitHighWatermark(ctx context.Context, id uint64, atLeast int64) error {
	for {
		r.mu.Lock()
		reached, changed := r.markLocked(id) >= atLeast, r.changed
		r.mu.Unlock()
		if reached {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *fakeReplica) Read(_ context.Context, id uint64, offset int64, maxBytes int) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset < r.cut[r.node] {
		return nil, shard.ErrBelowLocal
	}
	return readFrom(r.logs[id], offset, r.markLocked(id), maxBytes), nil
}

func readFrom(l *fakeLog, offset, end int64, maxBytes int) []byte {
	var out []byte
	for _, b := range l.batches {
		if b.NextOffset() <= offset || b.BaseOffset() >= end {
			continue
		}
		if len(out) > 0 && len(out)+len(b) > maxBytes {
			break
		}
		out = append(out, b...)
	}
	return out
}

func (r *fakeReplica) FindTime(_ context.Context, id uint64, timestampMs int64) (offset, foundMs int64, found bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logs[id] == nil {
		return 0, 0, false, nil
	}
	for _, b := range r.logs[id].batches {
		if b.BaseOffset() < r.cut[r.node] {
			continue
		}
		for rec, err := range b.All() {
			if err != nil {
				return 0, 0, false, err
			}
			if rec.TimestampMs >= timestampMs {
				return rec.Offset, rec.TimestampMs, true, nil
			}
		}
	}
	return 0, 0, false, nil
}

func (r *fakeReplica) RunGroup(_ context.Context, cmd *metav1.GroupCommand) (group.Answer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return group.Answer{}, err
	}
	g := r.members[cmd.GetGroup()]
	if g == nil {
		g = &group.Group{}
	}
	switch c := cmd.GetCommand().(type) {
	case *metav1.GroupCommand_Heartbeat:
		r.members[cmd.GetGroup()] = g
		h := shard.ToHeartbeat(c.Heartbeat)
		h.Topics = r.groupTopics
		return g.Heartbeat(h)
	case *metav1.GroupCommand_Leave:
		_, err := g.Leave(c.Leave.GetMemberId(), c.Leave.GetEpoch(), c.Leave.GetAway())
		return group.Answer{}, err
	default:
		if r.members[cmd.GetGroup()] == nil {
			return group.Answer{}, shard.ErrNoGroup
		}
		delete(r.members, cmd.GetGroup())
		return group.Answer{}, nil
	}
}

func (r *fakeReplica) GroupStates(names []string) ([]*metav1.ShardGroup, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return nil, err
	}
	var out []*metav1.ShardGroup
	for _, name := range slices.Sorted(maps.Keys(r.members)) {
		if len(names) == 0 || slices.Contains(names, name) {
			out = append(out, shard.FromState(name, 0, r.members[name].State()))
		}
	}
	return out, nil
}

func (r *fakeReplica) AppliedProgress() []shard.GroupProgress {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []shard.GroupProgress
	for name, offsets := range r.offsets {
		for _, o := range offsets {
			out = append(out, shard.GroupProgress{Group: name, PartitionID: o.PartitionID, Committed: o.Offset})
		}
	}
	return out
}

func (r *fakeReplica) CommitOffsets(_ context.Context, group string, by shard.Committer, offsets []shard.GroupOffset) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return err
	}
	r.offsets[group], r.committer = append(r.offsets[group], offsets...), by
	return nil
}

func (r *fakeReplica) Offsets(group string, ids []uint64) ([]shard.GroupOffset, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLocked(); err != nil {
		return nil, err
	}
	var out []shard.GroupOffset
	for _, o := range r.offsets[group] {
		for _, id := range ids {
			if o.PartitionID == id {
				out = append(out, o)
			}
		}
		if len(ids) == 0 {
			out = append(out, o)
		}
	}
	return out, nil
}

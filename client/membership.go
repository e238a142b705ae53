package client

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// membership is a consumer's part in its group, after KIP-848: the member says with each heartbeat what it still works
// on, and is told what it may work on. The consumer's mutex guards it.
//
// What the member may work on is at any time the union of the consumer's partitions and of assigned: that is what a
// heartbeat tells, so that nothing counts as given up that Poll is about to take.
type membership struct {
	id       string
	sequence int64 // of the newest heartbeat
	commits  int64 // so many commits were made: the sequence of the newest
	epoch    int32 // 0 while it is not in the group
	interval time.Duration
	// alive is when the last heartbeat was sent that was answered. The coordinator ends the session no sooner than
	// SessionTimeout after it.
	alive     time.Time
	assigned  map[TopicPartition]uint64 // ids of the partitions; 0 where the node did not say
	handover  *handover                 // the commit before partitions are given up; nil where none is under way
	lost      []TopicPartition          // to be told by Poll
	overslept bool                      // it has left since Poll was not called
	told      bool                      // Poll has told of that
	refused   string                    // reason why the group did not take it, as told last
	started   bool
	wake      chan struct{} // has room for one: send a heartbeat now
}

func newMembership() *membership {
	return &membership{id: strings.ToLower(ulid.Make().String()), wake: make(chan struct{}, 1), assigned: make(map[TopicPartition]uint64)}
}

func (m *membership) notify() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// resumeLocked lets a member join again that has overslept and been told so.
func (m *membership) resumeLocked() {
	m.refused = ""
	if m.overslept && m.told {
		m.overslept, m.told = false, false
		m.notify()
	}
}

// heartbeats tells the group that the member lives, until the consumer ends.
func (r *Consumer) heartbeats() {
	m := r.member
	timer := time.NewTimer(0)
	defer timer.Stop()
	for tries := 0; ; {
		select {
		case <-timer.C:
		case <-m.wake:
		case <-r.ctx.Done():
			return
		}
		wait := r.cfg.MaxPollInterval
		if !r.oversleeps() {
			var err error
			if wait, err = r.heartbeat(); err == nil {
				tries = 0
			} else {
				tries++
				e, _ := errors.AsType[*Error](err)
				wait = max(backoffAfter(tries), e.delay())
			}
			wait = min(wait, r.untilOverslept())
		}
		timer.Reset(wait)
	}
}

// untilOverslept returns for how long Poll need not be called yet.
func (r *Consumer) untilOverslept() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.polling {
		return r.cfg.MaxPollInterval
	}
	return max(time.Until(r.polled.Add(r.cfg.MaxPollInterval)), time.Millisecond)
}

// oversleeps reports whether Poll was not called for too long. Then the member leaves.
func (r *Consumer) oversleeps() bool {
	r.mu.Lock()
	m := r.member
	if m.overslept {
		r.mu.Unlock()
		return true
	}
	if r.polling || time.Since(r.polled) < r.cfg.MaxPollInterval {
		r.mu.Unlock()
		return false
	}
	m.overslept = true
	epoch := m.epoch
	r.loseLocked("Poll was not called for " + r.cfg.MaxPollInterval.String())
	r.mu.Unlock()
	ctx, cancel := context.WithTimeout(r.ctx, r.cfg.SessionTimeout)
	defer cancel()
	if err := r.leaveGroup(ctx, epoch, false); err != nil {
		r.c.cfg.Logger.Warn("group was not told that the member leaves", "group", r.cfg.Group, "err", err)
	}
	return true
}

// heartbeat sends one and takes the answer. It returns when the next is due.
func (r *Consumer) heartbeat() (time.Duration, error) {
	req, sent := r.heartbeatRequest()
	ctx, cancel := context.WithTimeout(r.ctx, max(r.cfg.SessionTimeout/2, time.Second))
	defer cancel()
	res, err := call(ctx, r.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.GroupHeartbeatResponse, error) {
		return n.api().GroupHeartbeat(ctx, req)
	})
	if r.ctx.Err() != nil {
		return 0, ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.heartbeatFailedLocked(err)
		return 0, err
	}
	m := r.member
	if m.overslept || r.expiredLocked() || r.expiredAt(sent) {
		return 0, nil // the answer came too late to be worth anything
	}
	m.alive, m.epoch, m.refused = sent, res.GetMemberEpoch(), ""
	m.interval = time.Duration(res.GetHeartbeatIntervalMs()) * time.Millisecond
	assigned := make(map[TopicPartition]uint64)
	for _, tp := range res.GetAssigned() {
		for i, number := range tp.GetPartitions() {
			id := uint64(0)
			if ids := tp.GetPartitionIds(); i < len(ids) {
				id = ids[i]
			}
			assigned[TopicPartition{tp.GetTopic(), number}] = id
		}
	}
	if !maps.Equal(m.assigned, assigned) {
		m.assigned = assigned
		r.c.metrics.rebalances.Inc()
		r.c.cfg.Logger.Info("group has assigned partitions", "group", r.cfg.Group, "member", m.id, "epoch", m.epoch, "partitions", len(assigned))
	}
	if r.pendingLocked() {
		r.notify()
	}
	return m.interval, nil
}

func (r *Consumer) heartbeatRequest() (req *streamhousev1.GroupHeartbeatRequest, sent time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := r.member
	r.expiredLocked()
	m.sequence++
	req = &streamhousev1.GroupHeartbeatRequest{
		Group: r.cfg.Group, MemberId: m.id, InstanceId: r.cfg.InstanceID, ClientId: r.c.cfg.ClientID,
		MemberEpoch: m.epoch, Sequence: m.sequence, Topics: r.cfg.Topics,
		SessionTimeoutMs: int32(r.cfg.SessionTimeout.Milliseconds()), RebalanceTimeoutMs: int32(r.cfg.MaxPollInterval.Milliseconds()),
	}
	req.Owned = r.ownedProtoLocked()
	return req, time.Now()
}

// ownedProtoLocked returns what a heartbeat tells: what the member works on or may be about to. A partition whose topic
// was created anew counts twice for a while, with the id that it had and the one that it has.
func (r *Consumer) ownedProtoLocked() []*streamhousev1.TopicPartitions {
	owned := make(map[string]*streamhousev1.TopicPartitions)
	add := func(tp TopicPartition, id uint64) {
		o := owned[tp.Topic]
		if o == nil {
			o = &streamhousev1.TopicPartitions{Topic: tp.Topic}
			owned[tp.Topic] = o
		}
		o.Partitions, o.PartitionIds = append(o.Partitions, tp.Partition), append(o.PartitionIds, id)
	}
	for tp, p := range r.partitions {
		add(tp, p.id)
	}
	for tp, id := range r.member.assigned {
		if p := r.partitions[tp]; p == nil || p.isAnother(id) {
			add(tp, id)
		}
	}
	var list []*streamhousev1.TopicPartitions
	for _, topic := range slices.Sorted(maps.Keys(owned)) {
		o := owned[topic]
		if slices.Contains(o.PartitionIds, 0) {
			o.PartitionIds = nil // some are not known: names must do
		}
		list = append(list, o)
	}
	return list
}

// heartbeatFailedLocked looks what a failed heartbeat means for the member.
func (r *Consumer) heartbeatFailedLocked(err error) {
	m := r.member
	switch {
	case errors.Is(err, ErrUnknownMember), errors.Is(err, ErrFencedMember):
		r.loseLocked(err.Error())
		m.notify() // join again at once
	case retryable(err, idempotent):
		// The session goes on until it ends.
	case m.refused != string(reasonOf(err)):
		m.refused = string(reasonOf(err))
		r.raiseLocked(err)
	}
}

// expiredAt reports whether a session whose last sign of life was sent then may have ended. Both clocks count: the
// monotonic one stands still while a machine is suspended, the other may be set back.
func (r *Consumer) expiredAt(alive time.Time) bool {
	now := time.Now()
	return max(now.Sub(alive), now.Round(0).Sub(alive.Round(0))) >= r.cfg.SessionTimeout
}

// expiredLocked drops everything where the session may have ended: the coordinator may have given the partitions to
// others.
func (r *Consumer) expiredLocked() bool {
	m := r.member
	if m.epoch == 0 || !r.expiredAt(m.alive) {
		return false
	}
	r.loseLocked("no heartbeat was answered for " + r.cfg.SessionTimeout.String())
	return true
}

// loseLocked takes it that the member owns nothing any more, and has to join again.
func (r *Consumer) loseLocked(reason string) {
	m := r.member
	lost := r.dropAllLocked()
	m.epoch, m.assigned, m.handover = 0, make(map[TopicPartition]uint64), nil
	m.lost = sorted(append(m.lost, lost...))
	r.c.metrics.lost.Add(float64(len(lost)))
	r.c.cfg.Logger.Warn("membership is lost", "group", r.cfg.Group, "member", m.id, "partitions", len(lost), "reason", reason)
	r.notify()
}

func (r *Consumer) dropAllLocked() []TopicPartition {
	var dropped []TopicPartition
	for tp, p := range r.partitions {
		dropped = append(dropped, tp)
		r.removeLocked(p)
	}
	return dropped
}

func (r *Consumer) dropAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropAllLocked()
}

// leave commits what Poll has returned, and leaves the group.
func (r *Consumer) leave(ctx context.Context) error {
	r.mu.Lock()
	var owned []*partition
	for _, p := range r.partitions {
		p.processed = p.position
		owned = append(owned, p)
	}
	r.mu.Unlock()
	var errs []error
	if r.cfg.Group != "" && !r.cfg.ManualCommit {
		errs = append(errs, r.commitProcessed(ctx), r.untoldLoss())
	}
	if r.member == nil {
		return errors.Join(errs...)
	}
	r.mu.Lock()
	r.expiredLocked()
	lost := r.member.lost
	r.member.lost = nil
	owned = slices.DeleteFunc(owned, func(p *partition) bool { return r.partitions[p.TopicPartition] != p }) // lost since
	r.mu.Unlock()
	r.callback(ctx, r.cfg.OnLost, lost)
	r.callback(ctx, r.cfg.OnRevoked, names(owned))
	r.cancel() // no heartbeat may join again
	r.wg.Wait()
	r.mu.Lock()
	epoch, sent := r.member.epoch, r.member.sequence > 0
	r.mu.Unlock()
	if sent { // one that joins may have been taken, though its answer was not waited for
		errs = append(errs, r.leaveGroup(ctx, epoch, r.cfg.InstanceID != ""))
	}
	return errors.Join(errs...)
}

func (r *Consumer) leaveGroup(ctx context.Context, epoch int32, away bool) error {
	_, err := call(ctx, r.c, idempotent, func(ctx context.Context, n *conn) (*streamhousev1.LeaveGroupResponse, error) {
		return n.api().LeaveGroup(ctx, &streamhousev1.LeaveGroupRequest{Group: r.cfg.Group, MemberId: r.member.id, MemberEpoch: epoch, Away: away})
	})
	return err
}

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
	sequence int64
	epoch    int32 // 0 while it is not in the group
	interval time.Duration
	// alive is when the last heartbeat was sent that was answered. The coordinator ends the session no sooner than
	// SessionTimeout after it.
	alive     time.Time
	assigned  map[TopicPartition]bool
	lost      []TopicPartition // to be told by Poll
	overslept bool             // it has left since Poll was not called
	told      bool             // Poll has told of that
	refused   string           // reason why the group did not take it, as told last
	started   bool
	wake      chan struct{} // has room for one: send a heartbeat now
}

func newMembership() *membership {
	return &membership{id: strings.ToLower(ulid.Make().String()), wake: make(chan struct{}, 1), assigned: make(map[TopicPartition]bool)}
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
	ctx, cancel := context.WithTimeout(r.ctx, max(r.cfg.SessionTimeout/3, time.Second))
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
	assigned := make(map[TopicPartition]bool)
	for _, tp := range res.GetAssigned() {
		for _, number := range tp.GetPartitions() {
			assigned[TopicPartition{tp.GetTopic(), number}] = true
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
	owned := make(map[string][]int32)
	for tp := range r.partitions {
		owned[tp.Topic] = append(owned[tp.Topic], tp.Partition)
	}
	for tp := range m.assigned {
		if r.partitions[tp] == nil {
			owned[tp.Topic] = append(owned[tp.Topic], tp.Partition)
		}
	}
	for _, topic := range slices.Sorted(maps.Keys(owned)) {
		slices.Sort(owned[topic])
		req.Owned = append(req.Owned, &streamhousev1.TopicPartitions{Topic: topic, Partitions: owned[topic]})
	}
	return req, time.Now()
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
		r.errs = append(r.errs, err)
		r.notify()
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
	m.epoch, m.assigned = 0, make(map[TopicPartition]bool)
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

// pendingLocked reports whether there is a rebalance for Poll.
func (r *Consumer) pendingLocked() bool {
	m := r.member
	if len(m.lost) > 0 || len(m.assigned) != len(r.partitions) {
		return true
	}
	for tp := range m.assigned {
		if r.partitions[tp] == nil {
			return true
		}
	}
	return false
}

// rebalance does what the group has decided: it tells of what was lost, gives up what is to be given up, after it has
// committed its positions, and takes what was assigned.
func (r *Consumer) rebalance(ctx context.Context) error {
	r.mu.Lock()
	closed := r.closed
	if r.member == nil || closed {
		r.mu.Unlock()
		if closed {
			return ErrClosed
		}
		return nil
	}
	m := r.member
	r.expiredLocked()
	lost, overslept := m.lost, m.overslept
	m.lost, m.told = nil, overslept
	r.mu.Unlock()
	r.callback(ctx, r.cfg.OnLost, lost)
	if overslept {
		return ErrMaxPollInterval
	}
	if err := r.giveUp(ctx); err != nil {
		return err
	}
	r.takeOver(ctx)
	return nil
}

// giveUp gives up what is not assigned any more. It fails only where ctx ends before the positions are committed; then
// the partitions are kept, and nothing is returned of them, until the next Poll.
func (r *Consumer) giveUp(ctx context.Context) error {
	r.mu.Lock()
	var revoked []*partition
	for tp, p := range r.partitions {
		if p.revoked = !r.member.assigned[tp]; p.revoked {
			revoked = append(revoked, p)
		}
	}
	r.mu.Unlock()
	if len(revoked) == 0 {
		return nil
	}
	if !r.cfg.ManualCommit {
		err := r.commitProcessed(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			r.c.cfg.Logger.Warn("offsets are not committed before partitions are given up", "group", r.cfg.Group, "err", err)
		}
	}
	r.callback(ctx, r.cfg.OnRevoked, names(revoked))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range revoked {
		if r.partitions[p.TopicPartition] == p { // not lost meanwhile
			r.removeLocked(p)
		}
	}
	r.member.notify()
	return nil
}

// callback tells the program of partitions. Its context does not end with the Poll's: what it has begun is brought to an
// end.
func (r *Consumer) callback(ctx context.Context, fn func(context.Context, []TopicPartition), tps []TopicPartition) {
	if fn == nil || len(tps) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.c.cfg.RequestTimeout)
	defer cancel()
	fn(ctx, tps)
}

// takeOver takes what was assigned.
func (r *Consumer) takeOver(ctx context.Context) {
	r.mu.Lock()
	var added []*partition
	for tp := range r.member.assigned {
		if r.partitions[tp] == nil {
			added = append(added, r.addLocked(tp))
		}
	}
	r.mu.Unlock()
	if len(added) == 0 {
		return
	}
	r.callback(ctx, r.cfg.OnAssigned, names(added))
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range added {
		if r.partitions[p.TopicPartition] == p {
			r.startLocked(p) //nolint:contextcheck // a fetcher outlives the Poll
		}
	}
}

func names(list []*partition) []TopicPartition {
	out := make([]TopicPartition, len(list))
	for i, p := range list {
		out[i] = p.TopicPartition
	}
	return sorted(out)
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

package shard

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/fsm"
)

// The leader of a shard coordinates the consumer groups whose names hash to it.

// removeTimeout bounds one try to remove a member, so that one that hangs does not keep the others.
const removeTimeout = 10 * time.Second

// RunGroup applies a command to a group, on the coordinator. A heartbeat's topics are filled in here, and one that
// changes nothing is answered without a log entry. Errors are those of broker/group, ErrNoGroup, ErrFeatureLevel,
// *FieldError, and those of Append.
func (s *Shard) RunGroup(ctx context.Context, cmd *metav1.GroupCommand) (group.Answer, error) {
	if err := checkCommand(cmd); err != nil {
		return group.Answer{}, err
	}
	if err := s.checkLeader(); err != nil {
		return group.Answer{}, err
	}
	if err := s.checkGroupLevel(); err != nil {
		return group.Answer{}, err
	}
	hb := cmd.GetHeartbeat()
	if hb == nil {
		return s.proposeGroup(ctx, cmd)
	}
	h := ToHeartbeat(hb)
	if err := s.sessions.seen(memberKey{cmd.GetGroup(), h.Spec.MemberID}, h.Epoch, h.Sequence, time.Now()); err != nil {
		return group.Answer{}, err
	}
	return s.heartbeat(ctx, cmd.GetGroup(), h)
}

// heartbeat answers a heartbeat that was seen. The member's session may end while the entry is under way; the member must
// then not be told that all is well.
func (s *Shard) heartbeat(ctx context.Context, name string, h group.Heartbeat) (group.Answer, error) {
	key := memberKey{name, h.Spec.MemberID}
	if answer, settled := s.settled(name, &h); settled {
		return answer, nil
	}
	answer, err := s.proposeGroup(ctx, &metav1.GroupCommand{
		Group: name, Command: &metav1.GroupCommand_Heartbeat{Heartbeat: FromHeartbeat(h)},
	})
	switch {
	case err == nil && s.sessions.hasEnded(key):
		return group.Answer{}, group.ErrFencedEpoch
	case errors.Is(err, group.ErrInstanceInUse):
		return group.Answer{}, s.instanceInUse(key, h.Spec.InstanceID)
	default:
		return answer, err
	}
}

// instanceInUse says who has an instance id that a member wants, and for how long at most if it is dead.
func (s *Shard) instanceInUse(key memberKey, instanceID string) error {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	g := s.fsm.state.groups[key.group]
	if g == nil {
		return group.ErrInstanceInUse
	}
	holder, ok := g.members.Instance(instanceID)
	if !ok || holder.MemberID == key.member {
		return group.ErrInstanceInUse
	}
	left := s.sessions.left(knownMember{key: memberKey{key.group, holder.MemberID}, spec: holder}, time.Now())
	return &InstanceInUseError{Member: holder, Wait: (left + sessionTick).Round(time.Millisecond)}
}

// proposeGroup logs a command to a group.
func (s *Shard) proposeGroup(ctx context.Context, cmd *metav1.GroupCommand) (group.Answer, error) {
	data, err := encodeGroup(s.nowMs(), cmd)
	if err != nil {
		return group.Answer{}, err
	}
	res, err := s.propose(ctx, data)
	if err != nil {
		return group.Answer{}, err
	}
	return res.group, res.refused
}

// settled fills in the partitions of the topics, and answers a heartbeat that changes nothing.
func (s *Shard) settled(name string, h *group.Heartbeat) (group.Answer, bool) {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	g := s.fsm.state.groups[name]
	topics := h.Spec.Topics
	if g != nil {
		topics = slices.Concat(topics, g.members.Topics())
	}
	view := s.cfg.Metadata.View()
	h.Topics = make(map[string][]uint64, len(topics))
	for _, topic := range topics {
		if t, ok := view.Topic(topic); ok {
			ids := slices.Clone(t.PartitionIDs)
			slices.Sort(ids)
			h.Topics[topic] = ids
		}
	}
	if g == nil {
		return group.Answer{}, false
	}
	return g.members.Settled(*h)
}

// members returns the members of all groups, as applied here.
func (s *Shard) members() []knownMember {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	var all []knownMember
	for name, g := range s.fsm.state.groups {
		g.members.Each(func(spec group.Spec, revoking bool) {
			all = append(all, knownMember{memberKey{name, spec.MemberID}, spec, revoking})
		})
	}
	return all
}

// runSessions removes members whose session has ended, and groups that nobody has used for the retention of offsets,
// until ctx ends.
func (s *Shard) runSessions(ctx context.Context) {
	tick := time.NewTicker(sessionTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, m := range s.sessions.expired(s.members(), time.Now()) {
			s.remove(ctx, m)
		}
		s.expireGroups(ctx)
	}
}

// remove takes a member whose session has ended out of its group. Where that fails, the session stays ended, and the
// next tick tries again.
func (s *Shard) remove(ctx context.Context, m knownMember) {
	leave := &metav1.GroupLeave{MemberId: m.key.member, Epoch: -1}
	cmd := &metav1.GroupCommand{Group: m.key.group, Command: &metav1.GroupCommand_Leave{Leave: leave}}
	attempt, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	_, err := s.proposeGroup(attempt, cmd)
	if err != nil && !errors.Is(err, group.ErrUnknownMember) {
		if ctx.Err() == nil {
			s.log.Warn("a member whose session has ended is not removed yet", "group", m.key.group, "member", m.key.member, "error", err)
		}
		return
	}
	s.sessions.removed(m.key, time.Now())
	s.log.Info("removed a member: it was silent, or did not give up its partitions in time",
		"group", m.key.group, "member", m.key.member, "client", m.spec.ClientID, "host", m.spec.ClientHost)
}

// expireGroups deletes the groups that have no members and were not used for the retention of offsets.
func (s *Shard) expireGroups(ctx context.Context) {
	if s.cfg.GroupOffsetsRetention <= 0 || s.checkGroupLevel() != nil {
		return
	}
	before := s.nowMs() - s.cfg.GroupOffsetsRetention.Milliseconds()
	for _, name := range s.idleGroups(before) {
		cmd := &metav1.GroupCommand{Group: name, Command: &metav1.GroupCommand_Delete{Delete: &metav1.GroupDelete{UnchangedSinceMs: before}}}
		if _, err := s.RunGroup(ctx, cmd); err != nil && ctx.Err() == nil {
			s.log.Warn("an unused group is not deleted yet", "group", name, "error", err)
		}
	}
}

func (s *Shard) idleGroups(beforeMs int64) []string {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	var idle []string
	for name, g := range s.fsm.state.groups {
		if g.members.Empty() && g.changedMs <= beforeMs {
			idle = append(idle, name)
		}
	}
	slices.Sort(idle)
	return idle
}

// Committer says who commits: a member in its epoch, or nobody, where the group has no members.
type Committer struct {
	MemberID string
	Epoch    int32
	// Sequence grows with every commit of the member and is the same for all tries of one; 0 where it gives none.
	Sequence int64
}

// CommitOffsets stores a group's offsets, all or none, on the leader. A member's commit that was stored before, by its
// sequence, is no error. While nodes may be too old to know of sequences, it counts as one without. Errors are those of broker/group, ErrDropped,
// ErrTooManyOffsets, ErrTooManyGroups, ErrFeatureLevel, *FieldError, and those of Append.
func (s *Shard) CommitOffsets(ctx context.Context, name string, by Committer, offsets []GroupOffset) error {
	c := offsetCommit{group: name, member: by.MemberID, epoch: by.Epoch, sequence: by.Sequence, offsets: offsets}
	if err := checkCommit(c); err != nil {
		return err
	}
	if !s.replica.IsLeader() {
		return s.notLeader()
	}
	if !s.seeded() {
		return ErrNotReady
	}
	data := encodeOffsetCommit(s.nowMs(), c)
	if by.MemberID != "" {
		if err := s.checkGroupLevel(); err != nil {
			return err
		}
		if s.cfg.Metadata.View().FeatureLevel() < fsm.FeatureLevelCommitSequence {
			c.sequence = 0
		}
		data = encodeMemberCommit(s.nowMs(), c)
	}
	res, err := s.propose(ctx, data)
	if err != nil {
		return err
	}
	return res.refused
}

// Offsets returns a group's committed offsets of these partitions, or of all when ids is empty, on the leader.
func (s *Shard) Offsets(name string, ids []uint64) ([]GroupOffset, error) {
	if err := s.checkLeader(); err != nil {
		return nil, err
	}
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.state.groupOffsets(name, ids), nil
}

// GroupStates returns these groups, or all that the shard coordinates when names is empty, in order, on the leader.
// What does not exist is left out.
func (s *Shard) GroupStates(names []string) ([]*metav1.ShardGroup, error) {
	if err := s.checkLeader(); err != nil {
		return nil, err
	}
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	if len(names) == 0 {
		names = slices.Sorted(maps.Keys(s.fsm.state.groups))
	}
	var out []*metav1.ShardGroup
	for _, name := range names {
		if g := s.fsm.state.groups[name]; g != nil {
			out = append(out, FromState(name, g.changedMs, g.members.State()))
		}
	}
	return out, nil
}

// GroupProgress is where a group is in one partition.
type GroupProgress struct {
	Group       string
	PartitionID uint64
	// Committed is the committed offset, -1 where a member owns the partition and nothing was committed yet.
	Committed int64
}

// Progress returns where all groups that this shard coordinates are, in every partition that has a committed offset or an
// owner, while this replica leads.
func (s *Shard) Progress() []GroupProgress {
	if s.checkLeader() != nil {
		return nil
	}
	return s.AppliedProgress()
}

// AppliedProgress is Progress as this replica has applied it, on a follower too.
func (s *Shard) AppliedProgress() []GroupProgress {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	return s.fsm.state.progress()
}

// Rebalances returns, for every group of the shard, how many generations completed while this replica led.
func (s *Shard) Rebalances() map[string]uint64 {
	s.fsm.mu.RLock()
	defer s.fsm.mu.RUnlock()
	all := make(map[string]uint64, len(s.fsm.state.groups))
	for name := range s.fsm.state.groups {
		all[name] = s.fsm.rebalances[name]
	}
	return all
}

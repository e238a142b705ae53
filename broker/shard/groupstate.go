package shard

import (
	"fmt"
	"maps"
	"slices"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
)

// consumerGroup is one consumer group that the shard coordinates.
type consumerGroup struct {
	members group.Group
	offsets map[uint64]groupOffset
	// changedMs is when the last member left or the last offset was committed.
	changedMs int64
}

type groupOffset struct {
	offset   int64
	metadata string
	timeMs   int64
}

// group returns a group, which it makes where there is none.
func (s *state) group(name string) *consumerGroup {
	g := s.groups[name]
	if g == nil {
		g = &consumerGroup{offsets: make(map[uint64]groupOffset), changedMs: s.timeMs}
		s.groups[name] = g
	}
	return g
}

// forgetIdle forgets a group that has neither members nor offsets.
func (s *state) forgetIdle(name string, g *consumerGroup) {
	if g.members.Empty() && len(g.offsets) == 0 {
		delete(s.groups, name)
	}
}

// applyGroup applies a command to a group. The error is a refusal.
func (s *state) applyGroup(cmd *metav1.GroupCommand) (group.Answer, error) {
	name := cmd.GetGroup()
	switch c := cmd.GetCommand().(type) {
	case *metav1.GroupCommand_Heartbeat:
		return s.heartbeat(name, ToHeartbeat(c.Heartbeat))
	case *metav1.GroupCommand_Leave:
		return s.leave(name, c.Leave)
	case *metav1.GroupCommand_Delete:
		return group.Answer{}, s.deleteGroup(name, c.Delete.GetUnchangedSinceMs())
	default:
		return group.Answer{}, nil // decodeGroup refuses what is not known
	}
}

func (s *state) heartbeat(name string, h group.Heartbeat) (group.Answer, error) {
	if err := s.checkGrowth(name, h); err != nil {
		return group.Answer{}, err
	}
	g := s.group(name)
	before := g.members.Size()
	answer, err := g.members.Heartbeat(h)
	s.resized(before, g)
	s.forgetIdle(name, g)
	return answer, err
}

// checkGrowth refuses a heartbeat that would make the groups of the shard larger than they may be.
func (s *state) checkGrowth(name string, h group.Heartbeat) error {
	g := s.groups[name]
	if g == nil {
		if h.Epoch != 0 {
			return group.ErrUnknownMember
		}
		if len(s.groups) >= maxGroups {
			return ErrTooManyGroups
		}
		g = &consumerGroup{}
	}
	growth := g.members.Growth(h)
	after := s.size.Add(growth)
	switch {
	case growth.Members > 0 && after.Members > maxMembers:
		return ErrTooManyMembers
	case growth.TopicBytes > 0 && after.TopicBytes > maxTopicBytes:
		return ErrTooManyTopics
	default:
		return nil
	}
}

// resized counts what a group has become larger or smaller.
func (s *state) resized(before group.Size, g *consumerGroup) {
	s.size = s.size.Add(g.members.Size().Sub(before))
}

func (s *state) leave(name string, c *metav1.GroupLeave) (group.Answer, error) {
	g := s.groups[name]
	if g == nil {
		return group.Answer{}, group.ErrUnknownMember
	}
	before := g.members.Size()
	completed, err := g.members.Leave(c.GetMemberId(), c.GetEpoch(), c.GetAway())
	s.resized(before, g)
	if err == nil && g.members.Empty() {
		g.changedMs = s.timeMs
		s.forgetIdle(name, g)
	}
	return group.Answer{Completed: completed}, err
}

func (s *state) deleteGroup(name string, unchangedSinceMs int64) error {
	g := s.groups[name]
	switch {
	case g == nil:
		return ErrNoGroup
	case !g.members.Empty():
		return group.ErrNotEmpty
	case unchangedSinceMs != 0 && g.changedMs > unchangedSinceMs:
		return nil // it came to life again
	}
	s.offsets -= len(g.offsets)
	delete(s.groups, name)
	return nil
}

// commitOffsets stores a group's offsets, all or none. What was stored before changes nothing, and is no error.
func (s *state) commitOffsets(c offsetCommit) error {
	var has map[uint64]groupOffset
	g := s.groups[c.group]
	if g != nil {
		has = g.offsets
	}
	if stored, err := checkMember(g, c); stored || err != nil {
		return err
	}
	added := 0
	for _, o := range c.offsets {
		if _, gone := s.dropped[o.PartitionID]; gone {
			return fmt.Errorf("partition id %d: %w", o.PartitionID, ErrDropped)
		}
		if _, had := has[o.PartitionID]; !had {
			added++
		}
	}
	switch {
	case s.offsets+added > maxGroupOffsets:
		return ErrTooManyOffsets
	case g == nil && len(s.groups) >= maxGroups:
		return ErrTooManyGroups
	}
	g = s.group(c.group)
	g.changedMs = s.timeMs
	before := len(g.offsets)
	for _, o := range c.offsets {
		g.offsets[o.PartitionID] = groupOffset{offset: o.Offset, metadata: o.Metadata, timeMs: s.timeMs}
	}
	s.offsets += len(g.offsets) - before
	g.members.Committed(c.member, c.sequence)
	return nil
}

// checkMember: where a group has members, they alone may commit, each for what it owns, and none behind a newer commit of its
// own. It reports whether the commit was stored before.
func checkMember(g *consumerGroup, c offsetCommit) (stored bool, err error) {
	if c.member == "" {
		if g != nil && !g.members.Empty() {
			return false, group.ErrNotEmpty
		}
		return false, nil
	}
	if g == nil {
		return false, group.ErrUnknownMember
	}
	if stored, err := g.members.Stored(c.member, c.sequence); stored || err != nil {
		return stored, err
	}
	for _, o := range c.offsets {
		if err := g.members.Check(c.member, c.epoch, o.PartitionID); err != nil {
			return false, err
		}
	}
	return false, nil
}

// groupOffsets returns a group's offsets of these partitions, or of all in order of their ids when ids is empty.
func (s *state) groupOffsets(name string, ids []uint64) []GroupOffset {
	g := s.groups[name]
	if g == nil {
		return nil
	}
	if len(ids) == 0 {
		ids = slices.Sorted(maps.Keys(g.offsets))
	}
	var out []GroupOffset
	for _, id := range ids {
		if o, ok := g.offsets[id]; ok {
			out = append(out, GroupOffset{PartitionID: id, Offset: o.offset, Metadata: o.metadata})
		}
	}
	return out
}

// progress returns where all groups are, in no order.
func (s *state) progress() []GroupProgress {
	all := make([]GroupProgress, 0, s.offsets)
	for name, g := range s.groups {
		for id, o := range g.offsets {
			all = append(all, GroupProgress{Group: name, PartitionID: id, Committed: o.offset})
		}
		g.members.EachOwned(func(id uint64) {
			if _, committed := g.offsets[id]; !committed {
				all = append(all, GroupProgress{Group: name, PartitionID: id, Committed: -1})
			}
		})
	}
	return all
}

package shard

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/group"
)

func encodeGroup(timeMs int64, cmd *metav1.GroupCommand) ([]byte, error) {
	return proto.MarshalOptions{Deterministic: true}.MarshalAppend(appendHeader(nil, kindGroup, timeMs), cmd)
}

func decodeGroup(body []byte) (*metav1.GroupCommand, error) {
	cmd := &metav1.GroupCommand{}
	if err := proto.Unmarshal(body, cmd); err != nil {
		return nil, fmt.Errorf("%w: group command: %w", errEntryCorrupt, err)
	}
	if cmd.GetGroup() == "" || cmd.GetCommand() == nil {
		return nil, fmt.Errorf("%w: group command of group %q has no kind that is known", errEntryVersion, cmd.GetGroup())
	}
	return cmd, nil
}

// encodeMemberCommit is an offset commit behind the member and the epoch in which it owns the partitions, and before these
// the sequence where there is one.
func encodeMemberCommit(timeMs int64, c offsetCommit) []byte {
	var dst []byte
	if c.sequence > 0 {
		dst = binary.BigEndian.AppendUint64(appendHeader(nil, kindNumberedCommit, timeMs), uint64(c.sequence))
	} else {
		dst = appendHeader(nil, kindMemberCommit, timeMs)
	}
	dst = appendString(dst, c.member)
	dst = binary.BigEndian.AppendUint32(dst, uint32(c.epoch))
	return appendCommitBody(dst, c)
}

// decodeCommit decodes a commit of any of the three kinds.
func decodeCommit(kind entryKind, body []byte) (offsetCommit, error) {
	switch kind {
	case kindMemberCommit:
		return decodeMemberCommit(body)
	case kindNumberedCommit:
		return decodeNumberedCommit(body)
	default:
		return decodeOffsetCommit(body)
	}
}

func decodeMemberCommit(body []byte) (offsetCommit, error) {
	member, body, err := takeString(body)
	if err != nil {
		return offsetCommit{}, err
	}
	if len(body) < 4 || member == "" {
		return offsetCommit{}, fmt.Errorf("%w: commit of member %q is cut", errEntryCorrupt, member)
	}
	epoch := int32(binary.BigEndian.Uint32(body))
	c, err := decodeOffsetCommit(body[4:])
	c.member, c.epoch = member, epoch
	return c, err
}

func decodeNumberedCommit(body []byte) (offsetCommit, error) {
	if len(body) < 8 {
		return offsetCommit{}, fmt.Errorf("%w: commit of %d bytes has no sequence", errEntryCorrupt, len(body))
	}
	sequence := int64(binary.BigEndian.Uint64(body))
	if sequence <= 0 {
		return offsetCommit{}, fmt.Errorf("%w: commit has the sequence %d", errEntryCorrupt, sequence)
	}
	c, err := decodeMemberCommit(body[8:])
	c.sequence = sequence
	return c, err
}

// FromSpec returns a member's description as it is stored.
func FromSpec(s group.Spec) *metav1.GroupMemberSpec {
	return &metav1.GroupMemberSpec{
		MemberId: s.MemberID, InstanceId: s.InstanceID, ClientId: s.ClientID, ClientHost: s.ClientHost,
		Topics: s.Topics, SessionTimeoutMs: s.SessionTimeoutMs, RebalanceTimeoutMs: s.RebalanceTimeoutMs,
	}
}

// toSpec is the way back from FromSpec.
func toSpec(s *metav1.GroupMemberSpec) group.Spec {
	return group.Spec{
		MemberID: s.GetMemberId(), InstanceID: s.GetInstanceId(), ClientID: s.GetClientId(), ClientHost: s.GetClientHost(),
		Topics: s.GetTopics(), SessionTimeoutMs: s.GetSessionTimeoutMs(), RebalanceTimeoutMs: s.GetRebalanceTimeoutMs(),
	}
}

// FromHeartbeat returns a heartbeat as it is logged.
func FromHeartbeat(h group.Heartbeat) *metav1.GroupHeartbeat {
	return &metav1.GroupHeartbeat{
		Member: FromSpec(h.Spec), Sequence: h.Sequence, Epoch: h.Epoch, Owned: h.Owned, Topics: fromTopics(h.Topics),
	}
}

// ToHeartbeat is the way back from FromHeartbeat.
func ToHeartbeat(h *metav1.GroupHeartbeat) group.Heartbeat {
	return group.Heartbeat{
		Spec: toSpec(h.GetMember()), Sequence: h.GetSequence(), Epoch: h.GetEpoch(), Owned: h.GetOwned(), Topics: toTopics(h.GetTopics()),
	}
}

func fromTopics(topics map[string][]uint64) []*metav1.GroupTopic {
	var out []*metav1.GroupTopic
	for _, name := range slices.Sorted(maps.Keys(topics)) {
		out = append(out, &metav1.GroupTopic{Name: name, PartitionIds: topics[name]})
	}
	return out
}

func toTopics(topics []*metav1.GroupTopic) map[string][]uint64 {
	out := make(map[string][]uint64, len(topics))
	for _, t := range topics {
		out[t.GetName()] = t.GetPartitionIds()
	}
	return out
}

// FromState returns a group's membership as a snapshot has it.
func FromState(name string, changedMs int64, s group.State) *metav1.ShardGroup {
	out := &metav1.ShardGroup{Group: name, Epoch: s.Epoch, Moving: s.Moving, Topics: fromTopics(s.Topics), ChangedMs: changedMs}
	for _, m := range s.Members {
		out.Members = append(out.Members, &metav1.ShardGroupMember{
			Spec: FromSpec(m.Spec), Sequence: m.Sequence, CommitSequence: m.CommitSequence, Epoch: m.Epoch, PreviousEpoch: m.PreviousEpoch, Away: m.Away,
			Assigned: m.Assigned, Revoking: m.Revoking, Target: m.Target,
		})
	}
	return out
}

// toState is the way back from FromState.
func toState(g *metav1.ShardGroup) group.State {
	s := group.State{Epoch: g.GetEpoch(), Moving: g.GetMoving(), Topics: toTopics(g.GetTopics())}
	for _, m := range g.GetMembers() {
		s.Members = append(s.Members, group.Member{
			Spec: toSpec(m.GetSpec()), Sequence: m.GetSequence(), CommitSequence: m.GetCommitSequence(), Epoch: m.GetEpoch(), PreviousEpoch: m.GetPreviousEpoch(), Away: m.GetAway(),
			Assigned: m.GetAssigned(), Revoking: m.GetRevoking(), Target: m.GetTarget(),
		})
	}
	return s
}

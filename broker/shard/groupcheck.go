package shard

import (
	"fmt"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

// What a leader logs, every replica has to apply, and to read from a snapshot again. So a leader checks whatever it did
// not make itself, wherever it came from.

const (
	// maxClientBytes bounds what a member says of its client and its host.
	maxClientBytes = 255
	// MaxCommitMetadata bounds the free text of a committed offset.
	MaxCommitMetadata = 4096
)

func badField(field, format string, args ...any) error {
	return &FieldError{Field: field, Message: fmt.Sprintf(format, args...)}
}

// checkCommand checks a group's command before it is logged. The error is a *FieldError.
func checkCommand(cmd *metav1.GroupCommand) error {
	if err := fsm.ValidateName(cmd.GetGroup()); err != nil {
		return badField("group", "%s", err)
	}
	switch c := cmd.GetCommand().(type) {
	case *metav1.GroupCommand_Heartbeat:
		return checkHeartbeat(c.Heartbeat)
	case *metav1.GroupCommand_Leave:
		if err := fsm.ValidateName(c.Leave.GetMemberId()); err != nil {
			return badField("leave.member_id", "%s", err)
		}
		if c.Leave.GetEpoch() < 0 {
			return badField("leave.epoch", "%d is below 0", c.Leave.GetEpoch())
		}
		return nil
	case *metav1.GroupCommand_Delete:
		if c.Delete.GetUnchangedSinceMs() < 0 {
			return badField("delete.unchanged_since_ms", "%d is below 0", c.Delete.GetUnchangedSinceMs())
		}
		return nil
	default:
		return badField("command", "it is none that this node knows")
	}
}

func checkHeartbeat(h *metav1.GroupHeartbeat) error {
	switch {
	case h.GetEpoch() < 0:
		return badField("heartbeat.epoch", "%d is below 0", h.GetEpoch())
	case h.GetSequence() <= 0:
		return badField("heartbeat.sequence", "%d is not above 0", h.GetSequence())
	}
	return checkSpec(h.GetMember())
}

func checkSpec(m *metav1.GroupMemberSpec) error {
	if err := fsm.ValidateName(m.GetMemberId()); err != nil {
		return badField("member.member_id", "%s", err)
	}
	if id := m.GetInstanceId(); id != "" && fsm.ValidateName(id) != nil {
		return badField("member.instance_id", "%s", fsm.ValidateName(id))
	}
	switch {
	case len(m.GetClientId()) > maxClientBytes, len(m.GetClientHost()) > maxClientBytes:
		return badField("member.client_id", "client and host have %d and %d bytes, at most %d are allowed",
			len(m.GetClientId()), len(m.GetClientHost()), maxClientBytes)
	case m.GetSessionTimeoutMs() <= 0 || m.GetRebalanceTimeoutMs() <= 0:
		return badField("member.session_timeout_ms", "timeouts of %d ms and %d ms are not above 0", m.GetSessionTimeoutMs(), m.GetRebalanceTimeoutMs())
	}
	for _, t := range m.GetTopics() {
		if err := fsm.ValidateName(t); err != nil {
			return badField("member.topics", "%s", err)
		}
	}
	if n := toSpec(m).TopicBytes(); n == 0 || n > MaxSubscriptionBytes {
		return badField("member.topics", "their names have %d bytes together, 1 to %d are allowed", n, MaxSubscriptionBytes)
	}
	return nil
}

// checkCommit checks an offset commit before it is logged. The error is a *FieldError.
func checkCommit(c offsetCommit) error {
	if err := fsm.ValidateName(c.group); err != nil {
		return badField("group", "%s", err)
	}
	if c.member != "" && fsm.ValidateName(c.member) != nil {
		return badField("member_id", "%s", fsm.ValidateName(c.member))
	}
	switch {
	case c.sequence < 0:
		return badField("commit_sequence", "%d is below 0", c.sequence)
	case c.sequence > 0 && c.member == "":
		return badField("commit_sequence", "it is %d, and only members count their commits", c.sequence)
	}
	for _, o := range c.offsets {
		if o.Offset < 0 || len(o.Metadata) > MaxCommitMetadata {
			return badField("offsets", "offset %d of partition id %d with %d bytes of metadata is out of bounds", o.Offset, o.PartitionID, len(o.Metadata))
		}
	}
	return nil
}

// checkGroupLevel refuses what nodes of an older feature level could not apply.
func (s *Shard) checkGroupLevel() error {
	if level := s.cfg.Metadata.View().FeatureLevel(); level < fsm.FeatureLevelGroups {
		return fmt.Errorf("%w: it is at feature level %d, level %d is needed: upgrade every node, or remove those that stay old",
			ErrFeatureLevel, level, fsm.FeatureLevelGroups)
	}
	return nil
}

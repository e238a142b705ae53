package shard

import (
	"errors"
	"fmt"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/group"
)

var (
	// ErrUnknownOutcome says that the write may or may not have happened: leadership was lost, or the wait ended, after
	// the entry was handed to Raft. Only what carries a producer id may be sent again.
	ErrUnknownOutcome = errors.New("outcome of the write is unknown")
	// ErrNotReady says that this node was just elected and still applies what was committed before. Nothing was written.
	ErrNotReady = errors.New("leader is not ready yet")
	// ErrLogFull says that the local log is at its budget, because the object store does not take uploads. Nothing was written.
	ErrLogFull = errors.New("local log is at its budget (--log-max-bytes) and waits for the object store")
	// ErrDiskFull says that the disk has less free space than --disk-min-free. Nothing was written.
	ErrDiskFull = errors.New("disk has less free space than --disk-min-free")
	// ErrBelowLocal says that the offset is no longer in this replica's memory or log; the manifest has it.
	ErrBelowLocal = errors.New("offset is below the local log")
	// ErrOtherRecords says that this replica's log has other records at these offsets than the manifest says.
	ErrOtherRecords = errors.New("the log has other records than the manifest lists")
	// ErrBehind says that the offset is beyond what this replica has applied.
	ErrBehind = errors.New("offset is beyond what this replica has applied")
	// ErrClosed says that the shard is stopping. Nothing was written.
	ErrClosed = errors.New("shard is closed")
)

// A shard coordinates groups within these bounds. Each error says that one is reached and nothing has changed.
var (
	// ErrTooManyOffsets is about committed offsets.
	ErrTooManyOffsets = fmt.Errorf("the group's shard holds %d committed offsets, as many as it may", maxGroupOffsets)
	// ErrTooManyGroups is about groups, with members or without.
	ErrTooManyGroups = fmt.Errorf("the group's shard holds %d groups, as many as it may", maxGroups)
	// ErrTooManyMembers is about the members of all groups.
	ErrTooManyMembers = fmt.Errorf("the groups of the group's shard have %d members together, as many as they may", maxMembers)
	// ErrTooManyTopics is about the names of the topics that each of the members subscribes to.
	ErrTooManyTopics = fmt.Errorf("the members of all groups of the group's shard subscribe to topics with names of %d bytes together, as many as they may", maxTopicBytes)
)

// ErrDropped says that the topic of a partition was deleted.
var ErrDropped = errors.New("partition was deleted")

// ErrNoGroup says that there is no group of this name.
var ErrNoGroup = errors.New("there is no such group")

// ErrFeatureLevel says that nodes of the cluster may be too old to understand the entry. Nothing was written.
var ErrFeatureLevel = errors.New("consumer groups with members need a newer cluster")

// FieldError says that a field of a group's command is out of its bounds. Nothing was written.
type FieldError struct {
	// Field is the command's, Message says what is wrong with it.
	Field, Message string
}

// Error names the field.
func (e *FieldError) Error() string { return e.Field + ": " + e.Message }

// NotLeaderError says that this replica does not lead the shard. Nothing was written.
type NotLeaderError struct {
	// Shard is the shard's number.
	Shard uint32
	// Leader is the replica id of the leader, empty when it is not known.
	Leader string
}

// InstanceInUseError is a group.ErrInstanceInUse that says who has the instance id.
type InstanceInUseError struct {
	// Member is the one that has it.
	Member group.Spec
	// Wait is how much of its session is left: if it is dead, that is when it is removed.
	Wait time.Duration
}

// Error says whom to end, or how long to wait.
func (e *InstanceInUseError) Error() string {
	return fmt.Sprintf("%s: member %q (client %q on %q); end it with a leave, or wait %s until its session has ended if it does not live any more",
		group.ErrInstanceInUse, e.Member.MemberID, e.Member.ClientID, e.Member.ClientHost, e.Wait)
}

// Unwrap returns group.ErrInstanceInUse.
func (e *InstanceInUseError) Unwrap() error { return group.ErrInstanceInUse }

// Error names the shard and its leader.
func (e *NotLeaderError) Error() string {
	if e.Leader == "" {
		return fmt.Sprintf("shard %d has no known leader", e.Shard)
	}
	return fmt.Sprintf("shard %d is led by %s", e.Shard, e.Leader)
}

// reasonNone is the reason of a result that is no failure.
const reasonNone = streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED

// reasonForgotten is the reason of a batch that was stored before, nobody knows where.
const reasonForgotten = streamhousev1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE

func entryError(shard uint32, index uint64, err error) error {
	return fmt.Errorf("shard %d, log index %d: %w", shard, index, err)
}

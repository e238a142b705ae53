package broker

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/group"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// Reason is why a call failed.
type Reason = streamhousev1.ErrorReason

// The reasons, under shorter names.
const (
	reasonNone              = streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED
	reasonInvalidField      = streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD
	reasonTopicNotFound     = streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND
	reasonPartitionNotFound = streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND
	reasonNodeNotFound      = streamhousev1.ErrorReason_ERROR_REASON_NODE_NOT_FOUND
	reasonShardNotFound     = streamhousev1.ErrorReason_ERROR_REASON_SHARD_NOT_FOUND
	reasonTopicExists       = streamhousev1.ErrorReason_ERROR_REASON_TOPIC_EXISTS
	reasonCorruptBatch      = streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_BATCH
	reasonRecordTooLarge    = streamhousev1.ErrorReason_ERROR_REASON_RECORD_TOO_LARGE
	reasonRequestTooLarge   = streamhousev1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE
	reasonOffsetOutOfRange  = streamhousev1.ErrorReason_ERROR_REASON_OFFSET_OUT_OF_RANGE
	reasonOutOfOrder        = streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE
	reasonFenced            = streamhousev1.ErrorReason_ERROR_REASON_PRODUCER_FENCED
	reasonUnknownProducer   = streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_PRODUCER
	reasonDuplicate         = streamhousev1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE
	reasonNoLeader          = streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER
	reasonNotLeader         = streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER
	reasonShuttingDown      = streamhousev1.ErrorReason_ERROR_REASON_SHUTTING_DOWN
	reasonOutcomeUnknown    = streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN
	reasonLogFull           = streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL
	reasonDiskFull          = streamhousev1.ErrorReason_ERROR_REASON_DISK_FULL
	reasonTooManyInflight   = streamhousev1.ErrorReason_ERROR_REASON_TOO_MANY_INFLIGHT_BYTES
	reasonStoreUnavailable  = streamhousev1.ErrorReason_ERROR_REASON_OBJECT_STORE_UNAVAILABLE
	reasonCorruptData       = streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_DATA
	reasonDeadline          = streamhousev1.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED
	reasonCannotPlace       = streamhousev1.ErrorReason_ERROR_REASON_CANNOT_PLACE_REPLICAS
	reasonReplicaNotReady   = streamhousev1.ErrorReason_ERROR_REASON_REPLICA_NOT_READY
	reasonInternal          = streamhousev1.ErrorReason_ERROR_REASON_INTERNAL
	reasonCanceled          = streamhousev1.ErrorReason_ERROR_REASON_CANCELED
	reasonUnknownMember     = streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_MEMBER
	reasonFencedMember      = streamhousev1.ErrorReason_ERROR_REASON_FENCED_MEMBER_EPOCH
	reasonInstanceInUse     = streamhousev1.ErrorReason_ERROR_REASON_INSTANCE_ID_IN_USE
	reasonNotOwned          = streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_OWNED
	reasonGroupNotFound     = streamhousev1.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND
	reasonGroupNotEmpty     = streamhousev1.ErrorReason_ERROR_REASON_GROUP_NOT_EMPTY
	reasonGroupFull         = streamhousev1.ErrorReason_ERROR_REASON_GROUP_FULL
	reasonCoordinatorFull   = streamhousev1.ErrorReason_ERROR_REASON_COORDINATOR_FULL
	reasonFeatureLevel      = streamhousev1.ErrorReason_ERROR_REASON_FEATURE_LEVEL_TOO_LOW
	reasonStaleCommit       = streamhousev1.ErrorReason_ERROR_REASON_STALE_COMMIT
)

// Error is a failure with its reason. broker/rpc turns it into a gRPC status and back.
type Error struct {
	Reason  Reason
	Message string
	// Metadata is the reason's data, as the ErrorReason says.
	Metadata map[string]string
	// Cause may be nil. It is for logs.
	Cause error
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

func newError(reason Reason, format string, args ...any) *Error {
	return &Error{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// InvalidField says that a field of a request is out of its bounds.
func InvalidField(field, format string, args ...any) *Error {
	e := newError(reasonInvalidField, "%s: %s", field, fmt.Sprintf(format, args...))
	e.Metadata = map[string]string{"field": field}
	return e
}

func topicNotFound(name string) *Error {
	e := newError(reasonTopicNotFound, "topic %q does not exist", name)
	e.Metadata = map[string]string{"topic": name}
	return e
}

func partitionNotFound(topic string, partition int32) *Error {
	e := newError(reasonPartitionNotFound, "topic %q has no partition %d", topic, partition)
	e.Metadata = map[string]string{"topic": topic, "partition": strconv.Itoa(int(partition))}
	return e
}

func outOfRange(offset, logStart, highWatermark int64) *Error {
	e := newError(reasonOffsetOutOfRange, "offset %d is outside of the log, which goes from %d to %d", offset, logStart, highWatermark)
	e.Metadata = map[string]string{
		"log_start_offset": strconv.FormatInt(logStart, 10),
		"high_watermark":   strconv.FormatInt(highWatermark, 10),
	}
	return e
}

func noLeader(shardNumber uint32) *Error {
	e := newError(reasonNoLeader, "shard %d has no leader that this node can reach", shardNumber)
	e.Metadata = map[string]string{"shard": strconv.FormatUint(uint64(shardNumber), 10)}
	return e
}

// TooLarge says that something is larger than its bound.
func TooLarge(reason Reason, what string, size, limit int) *Error {
	e := newError(reason, "%s has %d bytes, at most %d are allowed", what, size, limit)
	e.Metadata = map[string]string{"size": strconv.Itoa(size), "limit": strconv.Itoa(limit)}
	return e
}

func outcomeUnknown(cause error) *Error {
	e := newError(reasonOutcomeUnknown, "the write may or may not have happened")
	if cause != nil {
		e.Message += ": " + cause.Error()
	}
	e.Cause = cause
	return e
}

// AsError gives every error of the packages below its reason; nil for nil. The order of the cases counts: what may have
// been written is said before why the wait for it ended.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if rej, ok := errors.AsType[*fsm.Rejection](err); ok {
		return fromRejection(rej)
	}
	if e := fromShard(err); e != nil {
		return e
	}
	if e := fromGroup(err); e != nil {
		return e
	}
	if e := fromStorage(err); e != nil {
		return e
	}
	reason := reasonInternal
	switch {
	case errors.Is(err, metadata.ErrOutcomeUnknown):
		reason = reasonOutcomeUnknown
	case errors.Is(err, metadata.ErrNotLeader), errors.Is(err, replica.ErrNotLeader):
		reason = reasonNotLeader
	case errors.Is(err, metadata.ErrNoLeader):
		reason = reasonNoLeader
	case errors.Is(err, metadata.ErrClosed):
		reason = reasonShuttingDown
	case errors.Is(err, replica.ErrStale), errors.Is(err, replica.ErrNoServer), errors.Is(err, replica.ErrNoSuccessor):
		reason = reasonReplicaNotReady
	case errors.Is(err, metadata.ErrBadCommand):
		reason = reasonInvalidField
	case errors.Is(err, context.DeadlineExceeded):
		reason = reasonDeadline
	case errors.Is(err, context.Canceled):
		reason = reasonCanceled
	}
	return &Error{Reason: reason, Message: err.Error(), Cause: err}
}

func fromRejection(rej *fsm.Rejection) *Error {
	e := &Error{Reason: rej.Reason, Message: rej.Message, Cause: rej}
	if rej.Field != "" {
		e.Metadata = map[string]string{"field": rej.Field}
	}
	return e
}

func fromShard(err error) *Error {
	e := &Error{Message: err.Error(), Cause: err}
	if nl, ok := errors.AsType[*shard.NotLeaderError](err); ok && !errors.Is(err, shard.ErrUnknownOutcome) {
		e.Reason = reasonNotLeader
		e.Metadata = map[string]string{"shard": strconv.FormatUint(uint64(nl.Shard), 10), "leader": nl.Leader}
		return e
	}
	if bad, ok := errors.AsType[*shard.FieldError](err); ok {
		return InvalidField(bad.Field, "%s", bad.Message)
	}
	switch {
	case errors.Is(err, shard.ErrUnknownOutcome):
		e.Reason = reasonOutcomeUnknown
	case errors.Is(err, shard.ErrFeatureLevel):
		e.Reason = reasonFeatureLevel
	case errors.Is(err, shard.ErrNotReady):
		e.Reason = reasonReplicaNotReady
	case errors.Is(err, shard.ErrLogFull):
		e.Reason = reasonLogFull
	case errors.Is(err, shard.ErrDiskFull):
		e.Reason = reasonDiskFull
	case errors.Is(err, shard.ErrClosed):
		e.Reason = reasonShuttingDown
	case errors.Is(err, shard.ErrDropped):
		e.Reason = reasonPartitionNotFound
	default:
		return nil
	}
	return e
}

func fromStorage(err error) *Error {
	e := &Error{Message: err.Error(), Cause: err}
	if corrupt, ok := errors.AsType[*segment.CorruptError](err); ok {
		e.Reason = reasonCorruptData
		e.Metadata = map[string]string{"object": corrupt.Object}
		return e
	}
	if corrupt, ok := errors.AsType[*logstore.CorruptError](err); ok {
		e.Reason = reasonCorruptData
		e.Metadata = map[string]string{"file": corrupt.File}
		return e
	}
	switch {
	case errors.Is(err, object.ErrNotFound):
		e.Reason = reasonCorruptData // the manifest has it, so it must be there
	case errors.Is(err, object.ErrUnavailable), errors.Is(err, object.ErrDenied):
		e.Reason = reasonStoreUnavailable
	case errors.Is(err, record.ErrTooLarge):
		e.Reason = reasonRecordTooLarge
	case errors.Is(err, record.ErrCorrupt), errors.Is(err, record.ErrTruncated):
		e.Reason = reasonCorruptBatch
	default:
		return nil
	}
	return e
}

// fromGroup gives the errors of groups their reasons; nil for others.
func fromGroup(err error) *Error {
	e := &Error{Message: err.Error(), Cause: err}
	switch {
	case errors.Is(err, group.ErrUnknownMember):
		e.Reason = reasonUnknownMember
	case errors.Is(err, group.ErrFencedEpoch):
		e.Reason = reasonFencedMember
	case errors.Is(err, group.ErrInstanceInUse):
		e.Reason = reasonInstanceInUse
		if held, ok := errors.AsType[*shard.InstanceInUseError](err); ok {
			e.Metadata = map[string]string{
				"member_id": held.Member.MemberID, "wait_ms": strconv.FormatInt(held.Wait.Milliseconds(), 10),
			}
		}
	case errors.Is(err, group.ErrNotOwned):
		e.Reason = reasonNotOwned
	case errors.Is(err, group.ErrStaleCommit):
		e.Reason = reasonStaleCommit
	case errors.Is(err, group.ErrNotEmpty):
		e.Reason = reasonGroupNotEmpty
	case errors.Is(err, group.ErrFull):
		e.Reason = reasonGroupFull
	case errors.Is(err, shard.ErrTooManyGroups), errors.Is(err, shard.ErrTooManyMembers),
		errors.Is(err, shard.ErrTooManyTopics), errors.Is(err, shard.ErrTooManyOffsets):
		e.Reason = reasonCoordinatorFull
	case errors.Is(err, shard.ErrNoGroup):
		e.Reason = reasonGroupNotFound
	default:
		return nil
	}
	return e
}

package client

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// Reason says why a cluster refused a call: one of the reasons of docs/errors.md, such as "TOPIC_NOT_FOUND". It is an
// error, so that errors.Is(err, client.ErrTopicNotFound) asks for the reason of any error of this package.
type Reason string

// Error returns the reason's name.
func (r Reason) Error() string { return string(r) }

// Reasons that programs tell apart. The others can be had as Error.Reason.
const (
	// ErrInvalidField: a field of the request is out of its bounds; Error.Metadata["field"] names it.
	ErrInvalidField Reason = "INVALID_FIELD"
	// ErrTopicNotFound: the cluster has no topic of this name.
	ErrTopicNotFound Reason = "TOPIC_NOT_FOUND"
	// ErrPartitionNotFound: the topic has no partition of this number.
	ErrPartitionNotFound Reason = "PARTITION_NOT_FOUND"
	// ErrTopicExists: another topic has the name.
	ErrTopicExists Reason = "TOPIC_EXISTS"
	// ErrNodeNotFound: the cluster has no node of this id.
	ErrNodeNotFound Reason = "NODE_NOT_FOUND"
	// ErrRecordTooLarge: a record is above max.message.bytes of its topic, a bound of the node, or the producer's buffer.
	ErrRecordTooLarge Reason = "RECORD_TOO_LARGE"
	// ErrOffsetOutOfRange: the offset is below the log start or above the high watermark.
	ErrOffsetOutOfRange Reason = "OFFSET_OUT_OF_RANGE"
	// ErrNoLeader: no leader was found in time. Nothing was written.
	ErrNoLeader Reason = "NO_LEADER"
	// ErrOutcomeUnknown: the write may or may not have happened.
	ErrOutcomeUnknown Reason = "OUTCOME_UNKNOWN"
	// ErrLogFull: a node's local log is full, since its object store takes no uploads. Nothing was written.
	ErrLogFull Reason = "LOG_FULL"
	// ErrDiskFull: a node's disk is full. Nothing was written.
	ErrDiskFull Reason = "DISK_FULL"
	// ErrCorruptData: stored data fails its checksum or is gone.
	ErrCorruptData Reason = "CORRUPT_DATA"
	// ErrUnknownMember: the group has no such member: its session has ended. A Consumer joins again by itself.
	ErrUnknownMember Reason = "UNKNOWN_MEMBER"
	// ErrFencedMember: the member's epoch is stale. A Consumer joins again by itself.
	ErrFencedMember Reason = "FENCED_MEMBER_EPOCH"
	// ErrInstanceInUse: another live member has this instance id.
	ErrInstanceInUse Reason = "INSTANCE_ID_IN_USE"
	// ErrNotOwned: the partition is not this consumer's, or no longer.
	ErrNotOwned Reason = "PARTITION_NOT_OWNED"
	// ErrGroupNotFound: the group has neither members nor committed offsets.
	ErrGroupNotFound Reason = "GROUP_NOT_FOUND"
	// ErrGroupNotEmpty: the group has members, and they alone commit.
	ErrGroupNotEmpty Reason = "GROUP_NOT_EMPTY"
	// ErrGroupFull: the group has as many members as it may.
	ErrGroupFull Reason = "GROUP_FULL"
	// ErrCoordinatorFull: the shard that coordinates the group holds as many groups, members, subscriptions or committed
	// offsets as it may.
	ErrCoordinatorFull Reason = "COORDINATOR_FULL"
	// ErrFeatureLevelTooLow: a node of the cluster is too old for the call. Nothing was written.
	ErrFeatureLevelTooLow Reason = "FEATURE_LEVEL_TOO_LOW"
)

const (
	reasonNotLeader       Reason = "NOT_LEADER"
	reasonShuttingDown    Reason = "SHUTTING_DOWN"
	reasonInflight        Reason = "TOO_MANY_INFLIGHT_BYTES"
	reasonOutOfOrder      Reason = "OUT_OF_ORDER_SEQUENCE"
	reasonUnknownProducer Reason = "UNKNOWN_PRODUCER"
	reasonFencedProducer  Reason = "PRODUCER_FENCED"
	reasonDuplicate       Reason = "DUPLICATE_SEQUENCE"
)

// Errors of the client itself.
var (
	// ErrClosed: the Client, Producer or Consumer is closed.
	ErrClosed = errors.New("client is closed")
	// ErrDeliveryTimeout: a record was not acknowledged within ProducerConfig.DeliveryTimeout, counted from the first record
	// of its batch. Where the error is ErrOutcomeUnknown too, it may have been written.
	ErrDeliveryTimeout = errors.New("delivery timed out")
	// ErrMaxPollInterval: Poll was not called for ConsumerConfig.MaxPollInterval, so the consumer left its group and lost
	// its partitions. The next Poll joins again.
	ErrMaxPollInterval = errors.New("max poll interval exceeded: the consumer has left its group")
	// ErrNoOffset: a partition has no committed offset, and ConsumerConfig.Reset is ResetNone.
	ErrNoOffset = errors.New("no committed offset, and no reset policy")
)

// Error is a call that a node refused, or that reached none.
type Error struct {
	// Code is the gRPC code.
	Code codes.Code
	// Reason is empty where no node gave one.
	Reason Reason
	// Message is for people.
	Message string
	// Metadata has what docs/errors.md names for the reason, such as "log_start_offset".
	Metadata map[string]string
	// RetryDelay is how long the node wants to be left alone; 0 where it does not say.
	RetryDelay time.Duration
	// NotSent is set where the call surely did not reach a node.
	NotSent bool
}

// Error gives the node's own words and the reason.
func (e *Error) Error() string {
	msg := e.Message
	if msg == "" {
		msg = strings.ToLower(e.Code.String())
	}
	if e.Reason == "" {
		return msg
	}
	return msg + " (" + string(e.Reason) + ")"
}

// delay is RetryDelay, 0 of nil.
func (e *Error) delay() time.Duration {
	if e == nil {
		return 0
	}
	return e.RetryDelay
}

// GRPCStatus lets status.Code see through.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// Is makes an error match its Reason, and a call that ended with its context the context's error.
func (e *Error) Is(target error) bool {
	if r, ok := target.(Reason); ok {
		return r == e.Reason
	}
	switch e.Code {
	case codes.Canceled:
		return target == context.Canceled
	case codes.DeadlineExceeded:
		return target == context.DeadlineExceeded
	default:
		return false
	}
}

// ConfigError is a bad value in a Config, ProducerConfig or ConsumerConfig.
type ConfigError struct {
	// Field of the config.
	Field string
	// Problem says what is wrong with it, and what would be right.
	Problem string
}

// Error names the field.
func (e *ConfigError) Error() string { return e.Field + ": " + e.Problem }

func badField(field, format string, args ...any) error {
	return &ConfigError{field, fmt.Sprintf(format, args...)}
}

// PartitionError is an error of one partition.
type PartitionError struct {
	TopicPartition

	// Err is what happened to it.
	Err error
}

// Error names the partition.
func (e *PartitionError) Error() string { return fmt.Sprintf("%s: %v", e.TopicPartition, e.Err) }

// Unwrap returns the error of the partition.
func (e *PartitionError) Unwrap() error { return e.Err }

// fromStatus makes an *Error of what gRPC returned. dialErr is why there is no connection to addr, if the call was not
// sent for want of one.
func fromStatus(err error, addr string, sent bool, dialErr error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*Error](err); known {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err // io.EOF, for example
	}
	e := &Error{Code: st.Code(), Message: st.Message(), NotSent: !sent}
	if info, _ := streamhousev1.FindErrorInfo(st); info != nil {
		e.Reason, e.Metadata = Reason(info.GetReason()), info.GetMetadata()
	}
	for _, d := range st.Details() {
		if d, ok := d.(*errdetails.RetryInfo); ok {
			e.RetryDelay = d.GetRetryDelay().AsDuration()
		}
	}
	if e.Code == codes.Unavailable && e.Reason == "" {
		e.Message = fmt.Sprintf("lost the connection to %s", addr)
		if !sent && dialErr != nil {
			e.Message = fmt.Sprintf("cannot reach %s: %s", addr, dialErr)
		} else if !sent {
			e.Message = fmt.Sprintf("cannot reach %s", addr)
		}
	}
	return e
}

// fromProto makes an *Error of a failure inside a stream, nil of nil.
func fromProto(p *streamhousev1.Error) error {
	if p == nil {
		return nil
	}
	reason := Reason(p.GetReason().Name())
	return &Error{Code: codes.Code(p.GetCode()), Reason: reason, Message: p.GetMessage(), Metadata: p.GetMetadata()}
}

// invalid is what a node would answer to a bad field.
func invalid(field, format string, args ...any) error {
	return &Error{
		Code: codes.InvalidArgument, Reason: ErrInvalidField, Message: field + ": " + fmt.Sprintf(format, args...),
		Metadata: map[string]string{"field": field},
	}
}

// reasonOf returns the reason of an error, "" where it has none.
func reasonOf(err error) Reason {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Reason
	}
	return ""
}

// safety says what may be done with a call of which nobody knows whether it happened.
type safety int

const (
	// once means that the call may be repeated only where it surely did not happen.
	once safety = iota
	// idempotent means that the call may be repeated at will.
	idempotent
)

// retryable says whether a call that failed with err may be tried again, on this node or another.
func retryable(err error, s safety) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	if e.NotSent {
		return e.Code == codes.Unavailable
	}
	switch e.Code {
	case codes.Unavailable:
		switch e.Reason {
		case ErrNoLeader, reasonNotLeader, reasonShuttingDown:
			return true
		default:
			return s == idempotent
		}
	case codes.ResourceExhausted:
		return e.Reason == ErrLogFull || e.Reason == ErrDiskFull || e.Reason == reasonInflight
	case codes.DeadlineExceeded, codes.Canceled:
		return s == idempotent // the caller looks whether its own context has ended
	default:
		return false
	}
}

// notWritten says whether a write that failed with err surely did not happen.
func notWritten(err error) bool {
	e, ok := errors.AsType[*Error](err)
	if !ok {
		return false
	}
	switch e.Code {
	case codes.Unavailable:
		return e.NotSent || e.Reason == ErrNoLeader || e.Reason == reasonNotLeader || e.Reason == reasonShuttingDown
	case codes.DeadlineExceeded:
		return e.Reason != "" // a node that answers so has written nothing
	case codes.Internal, codes.Canceled, codes.Unknown:
		return false
	default:
		return true
	}
}

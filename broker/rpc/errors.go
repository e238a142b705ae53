package rpc

import (
	"errors"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
)

// maxMessageBytes bounds the text of an error, which travels in a header.
const maxMessageBytes = 2048

// reasonCodes maps every reason to its code. docs/errors.md shows the same.
var reasonCodes = map[broker.Reason]codes.Code{
	streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED:              codes.Internal,
	streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD:            codes.InvalidArgument,
	streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND:          codes.NotFound,
	streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND:      codes.NotFound,
	streamhousev1.ErrorReason_ERROR_REASON_NODE_NOT_FOUND:           codes.NotFound,
	streamhousev1.ErrorReason_ERROR_REASON_SHARD_NOT_FOUND:          codes.NotFound,
	streamhousev1.ErrorReason_ERROR_REASON_TOPIC_EXISTS:             codes.AlreadyExists,
	streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_BATCH:            codes.InvalidArgument,
	streamhousev1.ErrorReason_ERROR_REASON_RECORD_TOO_LARGE:         codes.InvalidArgument,
	streamhousev1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE:        codes.InvalidArgument,
	streamhousev1.ErrorReason_ERROR_REASON_OFFSET_OUT_OF_RANGE:      codes.OutOfRange,
	streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE:    codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_PRODUCER_FENCED:          codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_PRODUCER:         codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE:       codes.AlreadyExists,
	streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER:                codes.Unavailable,
	streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER:               codes.Unavailable,
	streamhousev1.ErrorReason_ERROR_REASON_SHUTTING_DOWN:            codes.Unavailable,
	streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN:          codes.Unavailable,
	streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL:                 codes.ResourceExhausted,
	streamhousev1.ErrorReason_ERROR_REASON_DISK_FULL:                codes.ResourceExhausted,
	streamhousev1.ErrorReason_ERROR_REASON_TOO_MANY_INFLIGHT_BYTES:  codes.ResourceExhausted,
	streamhousev1.ErrorReason_ERROR_REASON_OBJECT_STORE_UNAVAILABLE: codes.Unavailable,
	streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_DATA:             codes.DataLoss,
	streamhousev1.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED:        codes.DeadlineExceeded,
	streamhousev1.ErrorReason_ERROR_REASON_CANNOT_PLACE_REPLICAS:    codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_REPLICA_NOT_READY:        codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_NODE_ID_IN_USE:           codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_WRONG_CLUSTER:            codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_INTERNAL:                 codes.Internal,
	streamhousev1.ErrorReason_ERROR_REASON_CANCELED:                 codes.Canceled,
	streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE:         codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_MEMBER:           codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_FENCED_MEMBER_EPOCH:      codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_INSTANCE_ID_IN_USE:       codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_OWNED:      codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_GROUP_NOT_FOUND:          codes.NotFound,
	streamhousev1.ErrorReason_ERROR_REASON_GROUP_NOT_EMPTY:          codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_GROUP_FULL:               codes.ResourceExhausted,
	streamhousev1.ErrorReason_ERROR_REASON_COORDINATOR_FULL:         codes.ResourceExhausted,
	streamhousev1.ErrorReason_ERROR_REASON_FEATURE_LEVEL_TOO_LOW:    codes.FailedPrecondition,
	streamhousev1.ErrorReason_ERROR_REASON_STALE_COMMIT:             codes.FailedPrecondition,
}

// retryDelays are what RetryInfo tells a client, by reason of RESOURCE_EXHAUSTED.
var retryDelays = map[broker.Reason]time.Duration{
	streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL:                time.Second,
	streamhousev1.ErrorReason_ERROR_REASON_DISK_FULL:               5 * time.Second,
	streamhousev1.ErrorReason_ERROR_REASON_TOO_MANY_INFLIGHT_BYTES: 100 * time.Millisecond,
	streamhousev1.ErrorReason_ERROR_REASON_GROUP_FULL:              5 * time.Second,
	streamhousev1.ErrorReason_ERROR_REASON_COORDINATOR_FULL:        5 * time.Second,
}

func codeOf(reason broker.Reason) codes.Code {
	if c, ok := reasonCodes[reason]; ok {
		return c
	}
	return codes.Internal
}

// reasonName is a reason as ErrorInfo carries it.
func reasonName(reason broker.Reason) string {
	if reason == streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		reason = streamhousev1.ErrorReason_ERROR_REASON_INTERNAL
	}
	return reason.Name()
}

// toStatus turns an error into what goes over the wire: a code, the text, ErrorInfo and, where trying later helps,
// RetryInfo. A status that came from gRPC itself, without a reason of ours, stays as it is. nil stays nil.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	e := broker.AsError(err)
	if _, ours := errors.AsType[*broker.Error](err); !ours && e.Reason == streamhousev1.ErrorReason_ERROR_REASON_INTERNAL {
		if st, ok := status.FromError(err); ok {
			return st.Err()
		}
	}
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: reasonName(e.Reason), Domain: streamhousev1.ErrorDomain, Metadata: e.Metadata},
	}
	if delay, ok := retryDelays[e.Reason]; ok {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(delay)})
	}
	st := status.New(codeOf(e.Reason), shorten(e.Message))
	with, detailsErr := st.WithDetails(details...)
	if detailsErr != nil {
		return st.Err() // text that is no UTF-8 can't be in a detail
	}
	return with.Err()
}

func shorten(text string) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) > maxMessageBytes {
		text = strings.ToValidUTF8(text[:maxMessageBytes], "") + "…"
	}
	return text
}

// FromPeer turns the error of a call to another node back into what that node's broker said, so that forwarding keeps
// code, reason and metadata. An error that the other node did not give a reason is of the connection: where the call
// was sent, what it did is unknown, else nobody was reached.
func FromPeer(err error, sent bool) error {
	if err == nil {
		return nil
	}
	st, _ := status.FromError(err)
	if info, reason := streamhousev1.FindErrorInfo(st); reason != streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return &broker.Error{Reason: reason, Message: st.Message(), Metadata: info.GetMetadata(), Cause: err}
	}
	e := &broker.Error{Message: "another node: " + st.Message(), Cause: err}
	switch {
	case !sent:
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER
	case st.Code() == codes.Unimplemented:
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER
	case st.Code() == codes.ResourceExhausted:
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE // gRPC refused it unread
	default:
		e.Reason = streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN
	}
	return e
}

// streamError is an error inside a stream that goes on.
func streamError(err error) *streamhousev1.Error {
	e := broker.AsError(err)
	return &streamhousev1.Error{
		Code: int32(codeOf(e.Reason)), Reason: e.Reason, Message: shorten(e.Message), Metadata: e.Metadata,
	}
}

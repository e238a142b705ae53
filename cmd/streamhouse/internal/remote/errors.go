package remote

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

const (
	reasonPrefix = "ERROR_REASON_"
	errorDomain  = "streamhouse"
)

// Error is a failed call.
type Error struct {
	Code     codes.Code
	Reason   streamhousev1.ErrorReason
	Message  string
	Metadata map[string]string
	// RetryDelay is how long the server wants to be left alone; 0 where it does not say.
	RetryDelay time.Duration
	// NotSent is set where the call surely did not reach a server.
	NotSent bool
}

// Error gives the server's own words and the reason.
func (e *Error) Error() string {
	msg := e.Message
	if msg == "" {
		msg = strings.ToLower(e.Code.String())
	}
	if e.Reason == streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED {
		return msg
	}
	return msg + " (" + strings.TrimPrefix(e.Reason.String(), reasonPrefix) + ")"
}

// GRPCStatus lets status.Code see through.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.Code, e.Message) }

// Is makes a call that ended with its context match the context's error.
func (e *Error) Is(target error) bool {
	switch e.Code {
	case codes.Canceled:
		return target == context.Canceled
	case codes.DeadlineExceeded:
		return target == context.DeadlineExceeded
	default:
		return false
	}
}

// fromStatus makes an *Error of what gRPC returned. dialErr is why there is no
// connection to addr, if the call was not sent for want of one.
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
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			if d.GetDomain() == errorDomain {
				e.Reason = streamhousev1.ErrorReason(streamhousev1.ErrorReason_value[reasonPrefix+d.GetReason()])
				e.Metadata = d.GetMetadata()
			}
		case *errdetails.RetryInfo:
			e.RetryDelay = d.GetRetryDelay().AsDuration()
		}
	}
	if e.Code == codes.Unavailable && e.Reason == 0 {
		e.Message = fmt.Sprintf("lost the connection to %s", addr)
		if !sent && dialErr != nil {
			e.Message = fmt.Sprintf("cannot reach %s: %s", addr, dialErr)
		} else if !sent {
			e.Message = fmt.Sprintf("cannot reach %s", addr)
		}
	}
	return e
}

// FromProto makes an *Error of a failure inside a stream, nil of nil.
func FromProto(p *streamhousev1.Error) error {
	if p == nil {
		return nil
	}
	return &Error{Code: codes.Code(p.GetCode()), Reason: p.GetReason(), Message: p.GetMessage(), Metadata: p.GetMetadata()}
}

// Safety says what may be done with a call of which nobody knows whether it happened.
type Safety int

const (
	// Once means that the call may be repeated only where it surely did not happen.
	Once Safety = iota
	// Idempotent means that the call may be repeated at will.
	Idempotent
)

// Retryable says whether a call that failed with err may be tried again, on this node or another.
func Retryable(err error, s Safety) bool {
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
		case streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER,
			streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER,
			streamhousev1.ErrorReason_ERROR_REASON_SHUTTING_DOWN:
			return true
		default:
			return s == Idempotent
		}
	case codes.ResourceExhausted:
		return e.Reason == streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL ||
			e.Reason == streamhousev1.ErrorReason_ERROR_REASON_DISK_FULL ||
			e.Reason == streamhousev1.ErrorReason_ERROR_REASON_TOO_MANY_INFLIGHT_BYTES
	case codes.DeadlineExceeded, codes.Canceled:
		return s == Idempotent // the caller looks whether its own context has ended
	default:
		return false
	}
}

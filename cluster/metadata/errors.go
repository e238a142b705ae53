package metadata

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
)

var (
	// ErrNotLeader means that this replica does not lead; nothing was written.
	ErrNotLeader = errors.New("not the leader of the metadata group")
	// ErrNoLeader means that no leader was found in time; nothing was written.
	ErrNoLeader = errors.New("the metadata group has no leader")
	// ErrOutcomeUnknown means that a command may or may not have been written.
	ErrOutcomeUnknown = errors.New("outcome of the metadata command is unknown")
	// ErrClosed means that the group is closed.
	ErrClosed = errors.New("metadata group is closed")
	// ErrBadCommand means that a command can't be read or is not known here; nothing was written.
	ErrBadCommand = errors.New("bad metadata command")

	errBadResult = errors.New("result of a metadata command can't be read")
)

// outcome says what is known after an attempt failed.
type outcome int

const (
	// permanent: trying again gives the same.
	permanent outcome = iota
	// notWritten: surely not written, may be retried.
	notWritten
	// unknown: may have been written; may be retried since commands are idempotent.
	unknown
)

// classify is the one place that says whether an attempt may be retried.
func classify(err error) outcome {
	switch {
	case errors.Is(err, ErrBadCommand), errors.Is(err, errBadResult):
		return permanent
	case errors.Is(err, ErrNotLeader), errors.Is(err, ErrNoLeader), errors.Is(err, ErrClosed):
		return notWritten
	case errors.Is(err, ErrOutcomeUnknown),
		errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return unknown
	}
	st, ok := status.FromError(err)
	if !ok {
		return notWritten // A peer without a client: nothing was sent.
	}
	switch st.Code() {
	case codes.Unavailable:
		if saysNotWritten(st) {
			return notWritten
		}
		return unknown
	case codes.DeadlineExceeded, codes.Canceled, codes.Aborted, codes.Unknown, codes.Internal, codes.ResourceExhausted:
		return unknown
	default:
		return permanent
	}
}

// saysNotWritten reports whether the answer of a peer carries a reason that excludes a write.
func saysNotWritten(st *status.Status) bool {
	switch _, reason := streamhousev1.FindErrorInfo(st); reason {
	case streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, streamhousev1.ErrorReason_ERROR_REASON_NOT_LEADER,
		streamhousev1.ErrorReason_ERROR_REASON_SHUTTING_DOWN:
		return true
	default:
		return false
	}
}

// fromRaft maps what a Raft future ended with.
func fromRaft(err error) error {
	switch {
	case err == nil:
		return nil
	case replica.NotAppended(err):
		return fmt.Errorf("%w: %w", ErrNotLeader, err)
	default:
		return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
}

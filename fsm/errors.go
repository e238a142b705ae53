package fsm

import (
	"errors"
	"fmt"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

var (
	// ErrUnknownCommand means that a newer version has written the command; the node must stop.
	ErrUnknownCommand = errors.New("metadata command is not known to this version")
	// ErrSnapshotCorrupt means that a snapshot is damaged or does not fit together.
	ErrSnapshotCorrupt = errors.New("metadata snapshot is corrupt")
	// ErrSnapshotVersion means that a snapshot has a format that this version can't read.
	ErrSnapshotVersion = errors.New("metadata snapshot has an unknown version")
)

// Rejection says why a command was refused. Nothing has changed.
type Rejection struct {
	Reason  streamhousev1.ErrorReason
	Message string
	// Field is the field of the command that is wrong, for INVALID_FIELD.
	Field string
}

var _ error = (*Rejection)(nil)

// Error returns the message.
func (r *Rejection) Error() string { return r.Message }

func (r *Rejection) proto() *metav1.Rejection {
	return &metav1.Rejection{Reason: int32(r.Reason), Message: r.Message, Field: r.Field}
}

func reject(reason streamhousev1.ErrorReason, format string, args ...any) *Rejection {
	return &Rejection{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

func invalid(field, format string, args ...any) *Rejection {
	return &Rejection{
		Reason:  streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD,
		Message: field + ": " + fmt.Sprintf(format, args...),
		Field:   field,
	}
}

func wrongState(format string, args ...any) *Rejection {
	return reject(streamhousev1.ErrorReason_ERROR_REASON_WRONG_NODE_STATE, format, args...)
}

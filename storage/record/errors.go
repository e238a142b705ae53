package record

import (
	"errors"
	"fmt"
)

var (
	// ErrTruncated says that bytes end before the batch does.
	ErrTruncated = errors.New("record batch is cut short")
	// ErrCorrupt says that bytes are not a record batch, or not the one that was written.
	ErrCorrupt = errors.New("record batch is corrupt")
	// ErrTooLarge says that a batch or a record is larger than a limit.
	ErrTooLarge = errors.New("record batch is too large")
	// ErrInvalidRecord says that a record can't be put into a batch.
	ErrInvalidRecord = errors.New("record is not valid")
	// ErrEmpty says that a batch without records was to be built.
	ErrEmpty = errors.New("record batch has no records")
)

// CorruptError says where and why bytes are not a record batch. It unwraps to ErrCorrupt.
type CorruptError struct {
	// Position is the byte that is wrong, in the bytes given to Parse or Split, or in the batch. Inside compressed
	// records it is the position that the byte would have if they were not compressed.
	Position int64
	// Reason says what is wrong.
	Reason string
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("%s: at byte %d: %s", ErrCorrupt, e.Position, e.Reason)
}

// Unwrap returns ErrCorrupt.
func (e *CorruptError) Unwrap() error { return ErrCorrupt }

// TooLargeError says what is larger than which limit. It unwraps to ErrTooLarge.
type TooLargeError struct {
	// What is too large: "batch", "record" or "decompressed batch".
	What string
	// Bytes it has, or at least has, and the limit.
	Bytes, Limit int
}

// Error implements error.
func (e *TooLargeError) Error() string {
	return fmt.Sprintf("%s: a %s of %d bytes, at most %d are allowed", ErrTooLarge, e.What, e.Bytes, e.Limit)
}

// Unwrap returns ErrTooLarge.
func (e *TooLargeError) Unwrap() error { return ErrTooLarge }

func corrupt(position int, format string, args ...any) error {
	return &CorruptError{Position: int64(position), Reason: fmt.Sprintf(format, args...)}
}

package record

import (
	"errors"
	"fmt"
)

var (
	// ErrTruncated says that the bytes end inside a batch.
	ErrTruncated = errors.New("record batch is truncated")
	// ErrCorrupt says that a batch breaks its format or fails its CRC.
	ErrCorrupt = errors.New("record batch is corrupt")
	// ErrTooLarge says that a record or a batch is over its limit.
	ErrTooLarge = errors.New("record is too large")
)

// CorruptError is an ErrCorrupt with the place of the damage.
type CorruptError struct {
	// Position is the byte within the batch.
	Position int
	// Reason says what is wrong there.
	Reason string
}

// Error names the position and the reason.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("record batch is corrupt at byte %d: %s", e.Position, e.Reason)
}

// Is makes errors.Is find ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

func corrupt(position int, format string, args ...any) error {
	return &CorruptError{Position: position, Reason: fmt.Sprintf(format, args...)}
}

func tooLarge(what string, size, limit int) error {
	return fmt.Errorf("%w: %s of %d bytes, the limit is %d", ErrTooLarge, what, size, limit)
}

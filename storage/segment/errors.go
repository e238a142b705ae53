package segment

import (
	"errors"
	"fmt"
)

var (
	// ErrCorrupt says that an object is not what was written.
	ErrCorrupt = errors.New("object is corrupt")
	// ErrVersion says that an object's format is newer than this program.
	ErrVersion = errors.New("object has a format version that is not known")
	// ErrOutOfSegment says that an offset that was asked for is not in the segment.
	ErrOutOfSegment = errors.New("offset is not in the segment")
	// ErrEmpty says that an object without batches was to be written.
	ErrEmpty = errors.New("object has no batches")
)

// CorruptError says where and why an object is corrupt. It unwraps to ErrCorrupt and to Err.
type CorruptError struct {
	// Object is its name.
	Object string
	// Position is the byte in the object at which what is wrong begins.
	Position int64
	// Reason says what is wrong.
	Reason string
	// Err is what was found inside a record batch, or nil.
	Err error
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("object %s is corrupt at byte %d: %s", e.Object, e.Position, e.Reason)
}

// Unwrap returns ErrCorrupt and Err.
func (e *CorruptError) Unwrap() []error {
	if e.Err == nil {
		return []error{ErrCorrupt}
	}
	return []error{ErrCorrupt, e.Err}
}

func corrupt(object string, position int64, format string, args ...any) error {
	return &CorruptError{Object: object, Position: position, Reason: fmt.Sprintf(format, args...)}
}

func corruptBy(object string, position int64, err error) error {
	return &CorruptError{Object: object, Position: position, Reason: err.Error(), Err: err}
}

func unknownVersion(object string, version uint32) error {
	return fmt.Errorf("object %s: %w: %d, this program knows %d", object, ErrVersion, version, formatVersion)
}

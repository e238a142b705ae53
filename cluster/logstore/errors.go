package logstore

import (
	"errors"
	"fmt"
)

// ErrCorrupt is what every *CorruptError is.
var ErrCorrupt = errors.New("log is corrupt")

// CorruptError says that a replica's files lost or changed something. Such a replica must neither vote nor serve.
type CorruptError struct {
	// File is the damaged file or directory.
	File string
	// Index is the log index, 0 where it is none.
	Index uint64
	// Reason says what is wrong.
	Reason string
}

// Error names the file, the index and the reason.
func (e *CorruptError) Error() string {
	if e.Index == 0 {
		return fmt.Sprintf("%s is corrupt: %s", e.File, e.Reason)
	}
	return fmt.Sprintf("%s is corrupt at log index %d: %s", e.File, e.Index, e.Reason)
}

// Is makes errors.Is find ErrCorrupt.
func (e *CorruptError) Is(target error) bool { return target == ErrCorrupt }

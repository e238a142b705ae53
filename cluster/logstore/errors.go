package logstore

import (
	"errors"
	"fmt"
	"io/fs"
	"runtime/debug"
	"syscall"
)

var (
	// ErrCorrupt is what every *CorruptError is.
	ErrCorrupt = errors.New("log is corrupt")
	// ErrClosed says that the store is closed.
	ErrClosed = errors.New("log store is closed")
	// ErrTooLarge says that an entry is larger than can be read back. Nothing was written.
	ErrTooLarge = errors.New("log entry is too large")
)

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

// corrupt makes an error of reading file a *CorruptError, unless it is one already or the fault of the system: out of
// files, of memory or of rights, or a write that failed. Those say nothing about what is in the file. What the disk can't
// read any more is damaged: so do disks tell of bad sectors.
func corrupt(file string, index uint64, err error) error {
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok && !errors.Is(errno, fs.ErrNotExist) && !isUnreadable(err) {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return &CorruptError{File: file, Index: index, Reason: err.Error()}
}

func isUnreadable(err error) bool {
	failed, ok := errors.AsType[*fs.PathError](err)
	return ok && failed.Op == "read" && errors.Is(failed.Err, syscall.EIO)
}

// guard calls fn, which reads file with code that trusts it: raft-wal and bbolt panic on some damage, and bbolt maps
// its file, so that a file that was cut is a fault of memory.
func guard(file string, fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &CorruptError{File: file, Reason: fmt.Sprint(r)}
		}
	}()
	return fn()
}

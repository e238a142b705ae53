package output

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrNobodyReads is a write to stdout after its reader has gone, as head does when it has enough.
var ErrNobodyReads = errors.New("nobody reads stdout any more")

// Pipe is stdout.
type Pipe struct{ W io.Writer }

// Write fails with ErrNobodyReads where the reader has gone.
func (p Pipe) Write(b []byte) (int, error) {
	n, err := p.W.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = ErrNobodyReads
	}
	return n, err
}

// Check fails with ErrNobodyReads where the reader is known to have gone, before anything is written.
func (p Pipe) Check() error {
	f, ok := p.W.(*os.File)
	if !ok {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return nil //nolint:nilerr // a write will tell
	}
	if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		return fmt.Errorf("write: %w", ErrNobodyReads)
	}
	return nil
}

// NobodyReads says whether nothing else is wrong than that the reader of stdout has gone: it has got what it wanted.
func NobodyReads(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !NobodyReads(e) {
				return false
			}
		}
		return true
	}
	if inner := errors.Unwrap(err); inner != nil {
		return NobodyReads(inner)
	}
	return errors.Is(err, ErrNobodyReads)
}

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errNobodyReads is a write to stdout after its reader has gone, as head does when it has enough.
var errNobodyReads = errors.New("nobody reads stdout any more")

// pipe is stdout.
type pipe struct{ w io.Writer }

// Write fails with errNobodyReads where the reader has gone.
func (p pipe) Write(b []byte) (int, error) {
	n, err := p.w.Write(b)
	if errors.Is(err, syscall.EPIPE) {
		err = errNobodyReads
	}
	return n, err
}

// check fails with errNobodyReads where the reader is known to have gone, before anything is written.
func (p pipe) check() error {
	f, ok := p.w.(*os.File)
	if !ok {
		return nil
	}
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	if n, err := unix.Poll(fds, 0); err != nil || n == 0 {
		return nil //nolint:nilerr // a write will tell
	}
	if fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0 {
		return fmt.Errorf("write: %w", errNobodyReads)
	}
	return nil
}

// nobodyReads says whether nothing else is wrong than that the reader of stdout has gone: it has got what it wanted.
func nobodyReads(err error) bool {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		for _, e := range joined.Unwrap() {
			if !nobodyReads(e) {
				return false
			}
		}
		return true
	}
	if inner := errors.Unwrap(err); inner != nil {
		return nobodyReads(inner)
	}
	return errors.Is(err, errNobodyReads)
}

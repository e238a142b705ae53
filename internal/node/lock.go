package node

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// lockFile keeps a second process off a data directory.
type lockFile struct{ f *os.File }

// lockDir takes the directory for this process. The kernel gives the lock back
// when the process ends, however it ends.
func lockDir(dir string) (*lockFile, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("--data-dir %s: %w", dir, err)
	}
	path := filepath.Join(dir, "LOCK")
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--data-dir %s: %w", dir, err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		cerr := f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("--data-dir %s: another process uses it: give each node a directory of its own", dir)
		}
		return nil, errors.Join(fmt.Errorf("--data-dir %s: lock: %w", dir, err), cerr)
	}
	return &lockFile{f: f}, nil
}

// Close gives the directory back.
func (l *lockFile) Close() error { return l.f.Close() }

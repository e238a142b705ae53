// Package disk looks at the disk that a directory is on, and writes files that survive a power cut.
package disk

import "golang.org/x/sys/unix"

// Space is what a disk has, in bytes.
type Space struct {
	// Free is what this process may still write: not what is kept back for root.
	Free int64
	Size int64
}

// Look returns the space of the disk of a directory. It lasts for as long as a stalled disk does not answer.
func Look(dir string) (Space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return Space{}, err //nolint:wrapcheck // callers name the directory
	}
	block := int64(st.Bsize)                                                          //nolint:unconvert // it is a uint32 on macOS
	return Space{Free: int64(st.Bavail) * block, Size: int64(st.Blocks) * block}, nil //nolint:gosec // no disk has 2^63 bytes
}

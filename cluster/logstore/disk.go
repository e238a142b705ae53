package logstore

import (
	"os"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
)

// Disk is how a store writes its files, so that a test can lose what was not synced. Opening a store reads and mends its
// files without it. Safe for concurrent use.
type Disk interface {
	// VFS has raft-wal's segments.
	types.VFS
	// OpenFile opens a file as os.OpenFile does.
	OpenFile(path string, flag int, perm os.FileMode) (types.WritableFile, error)
	// Commit is called before a change of the database at path is written and synced; after an error nothing is. It may
	// block as a disk does.
	Commit(path string) error
}

// osDisk is the operating system's.
type osDisk struct{ *walfs.FS }

var _ Disk = osDisk{}

// OpenFile implements Disk.
func (osDisk) OpenFile(path string, flag int, perm os.FileMode) (types.WritableFile, error) {
	return os.OpenFile(path, flag, perm)
}

// Commit implements Disk.
func (osDisk) Commit(string) error { return nil }

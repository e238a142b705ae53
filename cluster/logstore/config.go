package logstore

import (
	"errors"

	"github.com/hashicorp/go-hclog"
	walfs "github.com/hashicorp/raft-wal/fs"
)

// Config sets up a store.
type Config struct {
	// Dir holds the store's files.
	Dir string
	// CacheBytes bounds the memory for the newest entries. 0 is 64 MiB.
	CacheBytes int64
	// SegmentBytes is the size of raft-wal's files, which it allocates ahead, and cuts off the log's begin as a whole. 0 is
	// 16 MiB.
	SegmentBytes int
	// Fatal ends the node; it is called once, after a failed write or when an entry that is read fails its CRC. Required.
	// It must not block.
	Fatal func(error)
	// Logger may be nil.
	Logger hclog.Logger
	// Writes watches the writes to the log, each with its fsync. May be nil.
	Writes *Writes
	// Disk is what the store writes through. nil is the operating system's.
	Disk Disk
}

const (
	defaultCacheBytes   = 64 << 20
	defaultSegmentBytes = 16 << 20
)

func (c *Config) setDefaults() error {
	if c.Dir == "" || c.Fatal == nil {
		return errors.New("logstore: Dir and Fatal are required")
	}
	if c.CacheBytes <= 0 {
		c.CacheBytes = defaultCacheBytes
	}
	if c.SegmentBytes <= 0 {
		c.SegmentBytes = defaultSegmentBytes
	}
	if c.Disk == nil {
		c.Disk = osDisk{walfs.New()}
	}
	return nil
}

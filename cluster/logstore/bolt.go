package logstore

import (
	"errors"
	"path/filepath"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"

	"github.com/streamhouse/streamhouse/internal/disk"
)

const boltName = "raft.db"

var errKeyNotFound = raftboltdb.ErrKeyNotFound

// OpenBolt opens a store over raft-boltdb.
func OpenBolt(cfg Config) (*Store, error) {
	s, err := newStore(cfg, boltName)
	if err != nil {
		return nil, err
	}
	b := &boltBackend{path: s.stableFile, disk: s.cfg.Disk}
	err = guard(b.path, func() (err error) {
		b.BoltStore, err = raftboltdb.New(raftboltdb.Options{Path: b.path, MsgpackUseNewTimeFormat: true})
		return err
	})
	if err != nil {
		return nil, errors.Join(corrupt(b.path, 0, err), s.durable.close())
	}
	// The last process may have ended between a write and its sync. The first sync of a new file is here too.
	return s.opened(b, errors.Join(disk.Sync(b.path), disk.Sync(filepath.Dir(b.path))))
}

// boltBackend is raft-boltdb.
type boltBackend struct {
	*raftboltdb.BoltStore
	path string
	disk Disk
}

var _ backend = (*boltBackend)(nil)

// StoreLogs implements backend.
func (b *boltBackend) StoreLogs(logs []*raft.Log) error {
	if err := b.disk.Commit(b.path); err != nil {
		return err
	}
	return b.BoltStore.StoreLogs(logs)
}

// DeleteRange implements backend.
func (b *boltBackend) DeleteRange(from, to uint64) error {
	if err := b.disk.Commit(b.path); err != nil {
		return err
	}
	return b.BoltStore.DeleteRange(from, to)
}

// Set implements backend.
func (b *boltBackend) Set(key, value []byte) error {
	if err := b.disk.Commit(b.path); err != nil {
		return err
	}
	return b.BoltStore.Set(key, value)
}

// file returns where an entry is.
func (b *boltBackend) file(uint64) string { return b.path }

// visit implements backend.
func (b *boltBackend) visit(first, last uint64, fn func(index, term uint64, bytes int) error) error {
	for index := first; index <= last; index++ {
		var l raft.Log // a new one each time: the decoder fills what it finds
		if err := b.GetLog(index, &l); err != nil {
			return corrupt(b.path, index, err)
		}
		if reason := unseal(&l, index); reason != "" {
			return &CorruptError{File: b.path, Index: index, Reason: reason}
		}
		if err := fn(index, l.Term, logBytes(&l)); err != nil {
			return err
		}
	}
	return nil
}

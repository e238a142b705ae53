package logstore

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// backend is what raft-wal and raft-boltdb are, with CRCs in the entries.
type backend interface {
	raft.LogStore
	raft.StableStore
	io.Closer
	// file names where an entry is kept, for messages.
	file(index uint64) string
	// visit calls fn for every entry from first through last, in order, or returns a *CorruptError that names the entry
	// that is missing or damaged. It is called once.
	visit(first, last uint64, fn func(index, term uint64, bytes int) error) error
}

// Store is a Raft replica's log and stable store. Between Open and use, Verify must be called. Safe for concurrent use.
type Store struct {
	cfg        Config
	inner      backend
	durable    *durableFile
	stableFile string // where terms and votes are kept

	fatalOnce sync.Once
	failure   atomic.Pointer[error] // of the first write that failed
	closed    atomic.Bool
	closeOnce sync.Once
	closeErr  error

	stableMu ioMutex // one write of a term or vote at a time
	writeMu  ioMutex // one write or deletion of entries at a time; taken before mu

	mu    sync.RWMutex // guards what follows; never held over a read or write of a file
	cache cache
	sizes sizes
	first uint64
	last  uint64
}

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.StableStore       = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
)

// Create makes the side file of a new store in dir; the rest is made by the first open. The caller syncs dir.
func Create(dir string) error { return createDurable(filepath.Join(dir, durableName)) }

// Exists says whether dir holds a store that was created.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, durableName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// newStore opens the side file, and checks that the store's own file is there if it ever was: raft-wal and bbolt would
// make a new one.
func newStore(cfg Config, name string) (*Store, error) {
	if err := cfg.setDefaults(); err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg, stableFile: filepath.Join(cfg.Dir, name), cache: cache{maxBytes: cfg.CacheBytes},
		stableMu: newIOMutex(), writeMu: newIOMutex(),
	}
	d, err := openDurable(s.cfg.Disk, filepath.Join(cfg.Dir, durableName))
	if err != nil {
		return nil, err
	}
	if _, err = os.Stat(s.stableFile); err != nil && (d.opened() || !errors.Is(err, os.ErrNotExist)) {
		return nil, errors.Join(corrupt(s.stableFile, 0, err), d.close())
	}
	if err := checkBolt(s.stableFile); err != nil {
		return nil, errors.Join(corrupt(s.stableFile, 0, err), d.close())
	}
	s.durable = d
	return s, nil
}

// opened ends an open.
func (s *Store) opened(b backend, err error) (*Store, error) {
	s.inner = b
	if err = errors.Join(err, s.durable.markOpened()); err != nil {
		return nil, errors.Join(fmt.Errorf("open log store: %w", err), s.Close())
	}
	return s, nil
}

// IsMonotonic tells Raft that the log must not have holes: raft-wal allows none, and over raft-boltdb one could not be
// told from a loss.
func (s *Store) IsMonotonic() bool { return true }

// fatal ends the node, once.
func (s *Store) fatal(err error) error {
	s.fatalOnce.Do(func() { s.cfg.Fatal(err) })
	return err
}

// failedWrite ends the node. Nothing is written after it: what a disk has after a failed fsync, nobody knows.
func (s *Store) failedWrite(what string, err error) error {
	err = fmt.Errorf("%s: %w", what, err)
	s.failure.CompareAndSwap(nil, &err)
	return s.fatal(err)
}

// failedRead ends the node unless the store was closed meanwhile.
func (s *Store) failedRead(err error) error {
	if s.closed.Load() {
		return ErrClosed
	}
	return s.fatal(err)
}

// usable returns why nothing may be written.
func (s *Store) usable() error {
	if err := s.failure.Load(); err != nil {
		return fmt.Errorf("an earlier write failed: %w", *err)
	}
	if s.closed.Load() {
		return ErrClosed
	}
	return nil
}

// FirstIndex implements raft.LogStore.
func (s *Store) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.first, nil
}

// LastIndex implements raft.LogStore.
func (s *Store) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.last, nil
}

// LogBytes returns the bytes of the entries in the log.
func (s *Store) LogBytes() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sizes.total
}

// IndexRetaining returns the first index such that the entries from it on have at most this many bytes.
func (s *Store) IndexRetaining(bytes int64) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sizes.retaining(bytes)
}

// cached gets an entry from memory. has says whether the log has it at all.
func (s *Store) cached(index uint64, out *raft.Log) (hit, has bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.last == 0 || index < s.first || index > s.last {
		return false, false
	}
	l := s.cache.get(index)
	if l != nil {
		*out = *l
	}
	return l != nil, true
}

// maxReadTries bounds how often one read may find its segment closed by raft-wal.
const maxReadTries = 100

// GetLog implements raft.LogStore. An entry that fails its CRC ends the node. The caller only reads the entry's data.
func (s *Store) GetLog(index uint64, out *raft.Log) error {
	for try := 1; ; try++ {
		hit, has := s.cached(index, out)
		switch {
		case hit:
			return nil
		case s.closed.Load():
			return ErrClosed
		case !has:
			return raft.ErrLogNotFound
		}
		err := s.read(index, out)
		if err == nil {
			return nil
		}
		if errors.Is(err, os.ErrClosed) && try < maxReadTries {
			continue // raft-wal has closed a segment under this read, which it replaced or deleted
		}
		if _, has = s.cached(index, out); has {
			return s.failedRead(err)
		}
	}
}

// Check reads an entry from the files, whatever is in memory. A damaged one is a *CorruptError that names the file, and does
// not end the node. raft.ErrLogNotFound says that the log does not have it. The caller owns the entry's data.
func (s *Store) Check(index uint64, out *raft.Log) error {
	for try := 1; ; try++ {
		var l raft.Log
		if s.closed.Load() {
			return ErrClosed
		}
		if _, has := s.cached(index, &l); !has {
			return raft.ErrLogNotFound
		}
		err := s.read(index, out)
		if err == nil {
			return nil
		}
		if errors.Is(err, os.ErrClosed) && try < maxReadTries {
			continue
		}
		if s.closed.Load() {
			return ErrClosed
		}
		if _, has := s.cached(index, &l); !has {
			return raft.ErrLogNotFound
		}
		return err
	}
}

// read reads an entry from the files and takes its CRC off.
func (s *Store) read(index uint64, out *raft.Log) error {
	file := s.inner.file(index)
	return guard(file, func() error {
		var l raft.Log // the decoder of raft-boltdb leaves what it does not find
		if err := s.inner.GetLog(index, &l); err != nil {
			if errors.Is(err, os.ErrClosed) {
				return err
			}
			return corrupt(file, index, err)
		}
		if reason := unseal(&l, index); reason != "" {
			return &CorruptError{File: file, Index: index, Reason: reason}
		}
		*out = l
		return nil
	})
}

const (
	// maxEntryBytes is the largest entry that is stored: raft-wal writes larger ones than it can read.
	maxEntryBytes = 63 << 20
	// maxWriteBytes is about how much raft-wal is given at once, since it copies all of it.
	maxWriteBytes = 16 << 20
)

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. The entries are on disk when it returns; a failure ends the node.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	for _, l := range logs {
		if n := logBytes(l); n > maxEntryBytes {
			return fmt.Errorf("%w: %d bytes at index %d, at most %d", ErrTooLarge, n, l.Index, maxEntryBytes)
		}
	}
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	for len(logs) > 0 {
		n, bytes := 1, logBytes(logs[0])
		for n < len(logs) && bytes+logBytes(logs[n]) <= maxWriteBytes {
			bytes += logBytes(logs[n])
			n++
		}
		if err := s.write(logs[:n]); err != nil {
			return err
		}
		logs = logs[n:]
	}
	return nil
}

func (s *Store) write(logs []*raft.Log) error {
	id, began := s.cfg.Writes.begin()
	err := s.inner.StoreLogs(seal(logs))
	s.cfg.Writes.end(id, began, err == nil)
	if err != nil {
		return s.failedWrite("write "+s.inner.file(logs[0].Index), err)
	}
	last := logs[len(logs)-1].Index
	if err := s.durable.advance(last); err != nil {
		return s.failedWrite("write "+s.durable.path, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == 0 {
		s.first = logs[0].Index
	}
	s.last = last
	for _, l := range logs {
		s.cache.add(l)
		s.sizes.add(l.Index, logBytes(l))
	}
	return nil
}

// DeleteRange implements raft.LogStore, for a prefix or a suffix of the log. A failure ends the node.
func (s *Store) DeleteRange(from, to uint64) error {
	s.writeMu.Lock()
	defer s.writeMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	first, last := s.first, s.last // only written under writeMu
	switch {
	case last == 0 || from > to || to < first || from > last:
		return nil
	case from > first && to < last:
		return fmt.Errorf("entries %d to %d are in the middle of the log, %d to %d", from, to, first, last)
	}
	if to >= last {
		left := uint64(0)
		if from > first {
			left = from - 1
		}
		if err := s.durable.lower(left); err != nil {
			return s.failedWrite("write "+s.durable.path, err)
		}
	}
	s.forget(from, to) // before the files: a reader must not look for what is gone
	if err := s.inner.DeleteRange(from, to); err != nil {
		return s.failedWrite("truncate "+s.inner.file(from), err)
	}
	return nil
}

func (s *Store) forget(from, to uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case from <= s.first && to >= s.last:
		s.cache.clear()
		s.sizes = sizes{}
		s.first, s.last = 0, 0
	case to >= s.last:
		s.cache.dropFrom(from)
		s.sizes.dropFrom(from)
		s.last = from - 1
	default:
		s.cache.dropThrough(to)
		s.sizes.dropThrough(to)
		s.first = to + 1
	}
}

// Close closes the files. It is idempotent. Reads under way or later return ErrClosed; writes must have ended.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		s.closed.Store(true)
		s.closeErr = errors.Join(s.inner.Close(), s.durable.close())
	})
	return s.closeErr
}

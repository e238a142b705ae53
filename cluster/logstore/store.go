package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
)

const (
	// walSegmentBytes is the size of raft-wal's files, which it allocates ahead.
	walSegmentBytes = 16 << 20
	// crcBytes is what an entry's CRC adds to its extensions, in front (docs/format/log-entry-crc.md).
	crcBytes = 4
	boltName = "raft.db"
)

// backend is what raft-wal and raft-boltdb are.
type backend interface {
	raft.LogStore
	raft.StableStore
}

// Config sets up a store.
type Config struct {
	// Dir holds the store's files.
	Dir string
	// CacheBytes bounds the memory for the newest entries. 0 is 16 MiB.
	CacheBytes int64
	// Fatal ends the node; it is called once, after a failed write or when an entry that is read fails its CRC. Required.
	Fatal func(error)
	// Logger may be nil.
	Logger hclog.Logger
}

const defaultCacheBytes = 16 << 20

// Store is a Raft replica's log and stable store. Safe for concurrent use.
type Store struct {
	cfg       Config
	inner     backend
	closers   []io.Closer
	fatalOnce sync.Once

	mu      sync.RWMutex // guards what follows
	durable *durableFile
	cache   cache
	sizes   sizes
	first   uint64
	last    uint64

	closeOnce sync.Once
	closeErr  error
}

var (
	_ raft.LogStore          = (*Store)(nil)
	_ raft.StableStore       = (*Store)(nil)
	_ raft.MonotonicLogStore = (*Store)(nil)
)

// Create makes the side file of a new store in dir; the rest is made by the first open.
func Create(dir string) error { return createDurable(filepath.Join(dir, durableName)) }

// OpenWAL opens a store over raft-wal.
func OpenWAL(cfg Config) (*Store, error) {
	meta := &metadb.BoltMetaDB{}
	log := cfg.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	w, err := wal.Open(cfg.Dir, wal.WithMetaStore(meta), wal.WithSegmentSize(walSegmentBytes), wal.WithLogger(log))
	if err != nil {
		_ = meta.Close()
		return nil, &CorruptError{File: cfg.Dir, Reason: err.Error()}
	}
	return open(cfg, w, w, meta)
}

// OpenBolt opens a store over raft-boltdb.
func OpenBolt(cfg Config) (*Store, error) {
	path := filepath.Join(cfg.Dir, boltName)
	b, err := openBolt(path)
	if err != nil {
		return nil, &CorruptError{File: path, Reason: err.Error()}
	}
	return open(cfg, b, b)
}

// openBolt turns the panics of a damaged database into errors.
func openBolt(path string) (b *raftboltdb.BoltStore, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v", r)
		}
	}()
	return raftboltdb.New(raftboltdb.Options{Path: path, MsgpackUseNewTimeFormat: true})
}

func open(cfg Config, inner backend, closers ...io.Closer) (*Store, error) {
	if cfg.CacheBytes <= 0 {
		cfg.CacheBytes = defaultCacheBytes
	}
	s := &Store{cfg: cfg, inner: inner, closers: closers, cache: cache{maxBytes: cfg.CacheBytes}}
	d, err := openDurable(filepath.Join(cfg.Dir, durableName))
	if err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.durable = d
	return s, nil
}

// IsMonotonic tells Raft that the log must not have holes: raft-wal allows none, and over raft-boltdb one could not be
// told from a loss.
func (s *Store) IsMonotonic() bool { return true }

// Dir returns the directory of the store.
func (s *Store) Dir() string { return s.cfg.Dir }

// fatal ends the node, once.
func (s *Store) fatal(err error) error {
	s.fatalOnce.Do(func() { s.cfg.Fatal(err) })
	return err
}

func (s *Store) failedWrite(what string, err error) error {
	return s.fatal(fmt.Errorf("%s in %s: %w", what, s.cfg.Dir, err))
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
	return s.sizes.total()
}

// IndexRetaining returns the first index such that the entries from it on have at most this many bytes.
func (s *Store) IndexRetaining(bytes int64) uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.sizes.retaining(bytes)
}

// GetLog implements raft.LogStore. An entry that fails its CRC ends the node. The caller only reads the entry's data.
func (s *Store) GetLog(index uint64, out *raft.Log) error {
	s.mu.RLock()
	l := s.cache.get(index)
	s.mu.RUnlock()
	if l != nil {
		*out = *l
		return nil
	}
	err := s.read(index, out)
	var corrupt *CorruptError
	if errors.As(err, &corrupt) {
		return s.fatal(err)
	}
	return err
}

// read reads an entry from the files and takes its CRC off.
func (s *Store) read(index uint64, out *raft.Log) error {
	if err := s.inner.GetLog(index, out); err != nil {
		if errors.Is(err, raft.ErrLogNotFound) {
			return err
		}
		return &CorruptError{File: s.cfg.Dir, Index: index, Reason: err.Error()}
	}
	if out.Index != index || len(out.Extensions) < crcBytes {
		return &CorruptError{File: s.cfg.Dir, Index: index, Reason: "the entry is another one or has no CRC"}
	}
	want := binary.BigEndian.Uint32(out.Extensions)
	out.Extensions = out.Extensions[crcBytes:]
	if len(out.Extensions) == 0 {
		out.Extensions = nil
	}
	if got := entryCRC(out); got != want {
		return &CorruptError{File: s.cfg.Dir, Index: index, Reason: fmt.Sprintf("CRC is %08x, computed %08x", want, got)}
	}
	return nil
}

// entryCRC covers index, term, type, extensions and data.
func entryCRC(l *raft.Log) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], l.Index)
	binary.BigEndian.PutUint64(head[8:], l.Term)
	head[16] = byte(l.Type)
	crc := crc32.Update(0, castagnoli, head[:])
	crc = crc32.Update(crc, castagnoli, l.Extensions)
	return crc32.Update(crc, castagnoli, l.Data)
}

// StoreLog implements raft.LogStore.
func (s *Store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore. The entries are on disk when it returns; a failure ends the node.
func (s *Store) StoreLogs(logs []*raft.Log) error {
	if len(logs) == 0 {
		return nil
	}
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		c := *l // Raft shares its entries with others
		c.Extensions = append(binary.BigEndian.AppendUint32(make([]byte, 0, crcBytes+len(l.Extensions)), entryCRC(l)), l.Extensions...)
		sealed[i] = &c
	}
	if err := s.inner.StoreLogs(sealed); err != nil {
		return s.failedWrite("write the log", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == 0 {
		s.first = logs[0].Index
	}
	for _, l := range logs {
		s.cache.add(l)
		s.sizes.add(l.Index, logBytes(l))
	}
	s.last = logs[len(logs)-1].Index
	if err := s.durable.advance(s.last); err != nil {
		return s.failedWrite("write the durable index", err)
	}
	return nil
}

// DeleteRange implements raft.LogStore, for a prefix or a suffix of the log.
func (s *Store) DeleteRange(from, to uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == 0 || from > to {
		return nil
	}
	suffix := to >= s.last
	if suffix {
		left := uint64(0)
		if from > s.first {
			left = from - 1
		}
		if err := s.durable.lower(left); err != nil {
			return s.failedWrite("lower the durable index", err)
		}
	}
	if err := s.inner.DeleteRange(from, to); err != nil {
		return s.failedWrite("truncate the log", err)
	}
	switch {
	case suffix && from <= s.first:
		s.cache.clear()
		s.sizes = sizes{}
		s.first, s.last = 0, 0
	case suffix:
		s.cache.dropFrom(from)
		s.sizes.dropFrom(from)
		s.last = from - 1
	default:
		s.cache.dropThrough(to)
		s.sizes.dropThrough(to)
		s.first = to + 1
	}
	return nil
}

// Close closes the files. It is idempotent; other calls must have ended.
func (s *Store) Close() error {
	s.closeOnce.Do(func() {
		for _, c := range s.closers {
			s.closeErr = errors.Join(s.closeErr, c.Close())
		}
		if s.durable != nil {
			s.closeErr = errors.Join(s.closeErr, s.durable.close())
		}
	})
	return s.closeErr
}

// Exists says whether dir holds a store that was created.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, durableName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

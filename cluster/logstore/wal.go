package logstore

import (
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"

	"github.com/streamhouse/streamhouse/internal/disk"
)

// OpenWAL opens a store over raft-wal.
func OpenWAL(cfg Config) (*Store, error) {
	s, err := newStore(cfg, metadb.FileName)
	if err != nil {
		return nil, err
	}
	b := &walBackend{dir: cfg.Dir, disk: s.cfg.Disk, durable: s.durable.get().index, failed: s.failedWrite, opening: true}
	b.filer = segment.NewFiler(cfg.Dir, s.cfg.Disk)
	log := cfg.Logger
	if log == nil {
		log = hclog.NewNullLogger()
	}
	panicked := true
	err = guard(s.stableFile, func() (err error) {
		b.WAL, err = wal.Open(cfg.Dir, wal.WithMetaStore((*walMeta)(b)), wal.WithSegmentFiler((*walFiler)(b)),
			wal.WithCodec(&b.codec), wal.WithSegmentSize(s.cfg.SegmentBytes), wal.WithLogger(log))
		panicked = false
		return err
	})
	if err != nil {
		b.abandon(panicked)
		return nil, errors.Join(corrupt(cfg.Dir, 0, err), s.durable.close())
	}
	b.opening, b.scanBuf, b.opened = false, nil, nil
	return s.opened(b, disk.Sync(s.stableFile))
}

// walBackend is raft-wal and what it is lacking: a check of what its files have, the end of a rotation that a stop or a
// crash has cut off, segments that were cut at their end, and errors of what it does behind the calls.
type walBackend struct {
	*wal.WAL
	dir     string
	disk    Disk
	meta    metadb.BoltMetaDB
	filer   *segment.Filer
	codec   walCodec
	durable uint64 // index at open
	failed  func(what string, err error) error

	opening bool   // until raft-wal is open
	scanBuf []byte // while opening
	opened  []io.Closer
	scans   []*segmentScan // until they are visited

	rotation *rotation // the newest; nil before the first. The store's and raft-wal's locks order what reads and writes it
}

var _ backend = (*walBackend)(nil)

// file returns where raft-wal keeps an entry.
func (b *walBackend) file(uint64) string { return b.dir }

// visit implements backend by what the scans found.
func (b *walBackend) visit(first, last uint64, fn func(index, term uint64, bytes int) error) error {
	slices.SortFunc(b.scans, func(x, y *segmentScan) int { return cmp.Compare(x.info.BaseIndex, y.info.BaseIndex) })
	index := first
	for _, sc := range b.scans {
		upTo := last
		if sc.info.MaxIndex > 0 {
			upTo = min(upTo, sc.info.MaxIndex)
		}
		for ; index >= sc.info.BaseIndex && index <= upTo; index++ {
			i := index - sc.info.BaseIndex
			if i >= uint64(len(sc.entries)) {
				return sc.damaged(index)
			}
			if err := fn(index, sc.entries[i].term, int(sc.entries[i].bytes)); err != nil {
				return err
			}
		}
	}
	b.scans = nil
	if index <= last {
		return &CorruptError{File: b.dir, Index: index, Reason: "no segment has the entry"}
	}
	return nil
}

// awaitRotation waits until no rotation is under way. raft-wal's own calls would wait for its mutex (see ioMutex).
func (b *walBackend) awaitRotation() {
	if b.rotation != nil {
		<-b.rotation.done
	}
}

// StoreLogs implements backend.
func (b *walBackend) StoreLogs(logs []*raft.Log) error {
	b.awaitRotation()
	defer b.codec.reset()
	return b.WAL.StoreLogs(logs)
}

// DeleteRange waits for a rotation: raft-wal does not, and then takes the segment that the deletion made for the full one.
func (b *walBackend) DeleteRange(from, to uint64) error {
	b.awaitRotation()
	return b.WAL.DeleteRange(from, to)
}

// Close closes raft-wal, and its meta store, which it leaves open.
func (b *walBackend) Close() error {
	b.awaitRotation()
	return errors.Join(b.WAL.Close(), b.meta.Close())
}

// abandon closes what a failed open has opened, but for the meta store after a panic: its locks may be held.
func (b *walBackend) abandon(panicked bool) {
	for _, c := range b.opened {
		_ = c.Close()
	}
	if !panicked {
		_ = b.meta.Close()
	}
}

// scan reads a segment file.
func (b *walBackend) scan(info types.SegmentInfo, flags int) (*os.File, *segmentScan, error) {
	path := filepath.Join(b.dir, segment.FileName(info))
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, nil, err
	}
	if b.scanBuf, err = readWhole(f, b.scanBuf); err != nil {
		return nil, nil, errors.Join(corrupt(path, 0, err), f.Close())
	}
	return f, scanSegment(b.scanBuf, path, info), nil
}

// walMeta is the meta store of a walBackend.
type walMeta walBackend

var _ types.MetaStore = (*walMeta)(nil)

// Load implements types.MetaStore. It ends the rotation of a full segment that a stop or a crash has cut off: raft-wal
// would refuse every write to it.
func (m *walMeta) Load(dir string) (types.PersistentState, error) {
	m.codec.set = true
	st, err := m.meta.Load(dir)
	n := len(st.Segments)
	if err != nil || n == 0 || !st.Segments[n-1].SealTime.IsZero() {
		return st, err
	}
	tail := &st.Segments[n-1]
	f, sc, err := (*walBackend)(m).scan(*tail, os.O_RDONLY)
	if errors.Is(err, os.ErrNotExist) {
		return st, nil // raft-wal makes it
	}
	if err != nil {
		return st, err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil || sc.indexStart == 0 {
		return st, err
	}
	tail.SealTime, tail.MaxIndex, tail.IndexStart = time.Now(), sc.last(), sc.indexStart
	next := types.SegmentInfo{
		ID: st.NextSegmentID, BaseIndex: tail.MaxIndex + 1, MinIndex: tail.MaxIndex + 1, SizeLimit: tail.SizeLimit,
		Codec: tail.Codec, CreateTime: time.Now(),
	}
	st.NextSegmentID++
	st.Segments = append(st.Segments, next)
	return st, m.meta.CommitState(st)
}

// CommitState implements types.MetaStore. raft-wal only logs that it failed where it rotates.
func (m *walMeta) CommitState(st types.PersistentState) error {
	path := filepath.Join(m.dir, metadb.FileName)
	err := m.disk.Commit(path)
	if err == nil {
		err = m.meta.CommitState(st)
	}
	if err != nil {
		m.rotation.end()
		return m.failed("write "+path, err)
	}
	return nil
}

// GetStable implements types.MetaStore.
func (m *walMeta) GetStable(key []byte) ([]byte, error) { return m.meta.GetStable(key) }

// SetStable implements types.MetaStore.
func (m *walMeta) SetStable(key, value []byte) error {
	if err := m.disk.Commit(filepath.Join(m.dir, metadb.FileName)); err != nil {
		return err
	}
	return m.meta.SetStable(key, value)
}

// Close implements types.MetaStore.
func (m *walMeta) Close() error { return m.meta.Close() }

// walFiler is the segment filer of a walBackend.
type walFiler walBackend

var _ types.SegmentFiler = (*walFiler)(nil)

// Create implements types.SegmentFiler.
func (f *walFiler) Create(info types.SegmentInfo) (types.SegmentWriter, error) {
	defer f.rotation.end()
	path := filepath.Join(f.dir, segment.FileName(info))
	w, err := f.filer.Create(info)
	switch {
	case errors.Is(err, os.ErrExist):
		return nil, &CorruptError{File: path, Reason: "the file is there, but " + metadb.FileName + " does not know it"}
	case err != nil && f.opening:
		return nil, err
	case err != nil:
		return nil, f.failed("create "+path, err)
	}
	return &walTail{SegmentWriter: w, backend: (*walBackend)(f)}, nil
}

// RecoverTail implements types.SegmentFiler. What was written is synced, because the last process may have ended before
// it did that, and what a torn write has left is removed. The durable index may be behind what was acknowledged, so a write
// is torn only if no other was whole behind it.
func (f *walFiler) RecoverTail(info types.SegmentInfo) (types.SegmentWriter, error) {
	file, sc, err := (*walBackend)(f).scan(info, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	if err := file.Sync(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if sc.followed {
		return nil, errors.Join(sc.damaged(max(sc.last()+1, info.BaseIndex)), file.Close())
	}
	w, err := f.recoverTail(sc)
	if err == nil && sc.torn && (sc.last() >= f.durable || info.BaseIndex > f.durable) {
		if err = errors.Join(w.Close(), wipe(file, sc.end)); err == nil {
			w, err = f.recoverTail(sc)
		}
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	f.scans = append(f.scans, sc)
	f.opened = append(f.opened, w)
	return &walTail{SegmentWriter: w, backend: (*walBackend)(f)}, nil
}

// recoverTail lets raft-wal read the segment, which passes over damage in the middle.
func (f *walFiler) recoverTail(sc *segmentScan) (types.SegmentWriter, error) {
	w, err := f.filer.RecoverTail(sc.info)
	if err != nil {
		return nil, corrupt(sc.file, 0, err)
	}
	if w.LastIndex() > sc.last() {
		return nil, errors.Join(sc.damaged(max(sc.last()+1, sc.info.BaseIndex)), w.Close())
	}
	return w, nil
}

// wipe puts zeros behind end.
func wipe(f *os.File, end int64) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	return errors.Join(f.Truncate(end), f.Truncate(st.Size()), f.Sync())
}

// Open implements types.SegmentFiler.
func (f *walFiler) Open(info types.SegmentInfo) (types.SegmentReader, error) {
	file, sc, err := (*walBackend)(f).scan(info, os.O_RDONLY)
	if err != nil {
		return nil, corrupt(filepath.Join(f.dir, segment.FileName(info)), info.BaseIndex, err)
	}
	f.opened = append(f.opened, file)
	if info.MaxIndex < info.BaseIndex || sc.last() < info.MaxIndex {
		return nil, sc.damaged(max(sc.last()+1, info.BaseIndex))
	}
	f.scans = append(f.scans, sc)
	return newSealedReader(file, info, sc), nil
}

// List implements types.SegmentFiler.
func (f *walFiler) List() (map[uint64]uint64, error) { return f.filer.List() }

// Delete implements types.SegmentFiler.
func (f *walFiler) Delete(baseIndex, id uint64) error { return f.filer.Delete(baseIndex, id) }

// walTail tells its backend when it is full.
type walTail struct {
	types.SegmentWriter
	backend *walBackend
}

var _ types.SegmentWriter = (*walTail)(nil)

// Sealed implements types.SegmentWriter. raft-wal asks after every write, and rotates behind the call if it is full.
func (t *walTail) Sealed() (bool, uint64, error) {
	sealed, indexStart, err := t.SegmentWriter.Sealed()
	if sealed {
		t.backend.rotation = &rotation{done: make(chan struct{})}
	}
	return sealed, indexStart, err
}

// rotation is raft-wal's change to the next segment, which it makes behind the write that filled one.
type rotation struct {
	done chan struct{}
	once sync.Once
}

func (r *rotation) end() {
	if r != nil {
		r.once.Do(func() { close(r.done) })
	}
}

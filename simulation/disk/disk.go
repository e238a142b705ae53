package disk

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"

	"github.com/streamhouse/streamhouse/cluster/logstore"
)

// Mood is how a disk behaves.
type Mood struct {
	// Sync is how long an fsync or a transaction takes, and up to as much again.
	Sync time.Duration
	// Err, where it is not nil, is what every write and sync fails with: syscall.ENOSPC or syscall.EIO.
	Err error
	// Stall, where it is not 0, is how long the fsync of a file takes whose path contains StallIn.
	Stall   time.Duration
	StallIn string
}

// Disk is one node's disk, for one of its lives. Safe for concurrent use.
type Disk struct {
	fs  *walfs.FS
	dir string

	mu     sync.Mutex
	rand   *rand.Rand
	mood   Mood
	frozen bool
	files  map[string]*state // by path
	lied   bool              // syncs do nothing, see Lie
	failed int               // writes, syncs and transactions
}

var _ logstore.Disk = (*Disk)(nil)

// state is what a crash does to a file.
type state struct {
	unsynced []undo
	// dropped are older than unsynced: a sync of them has failed. As with a kernel, which takes such pages for clean, no
	// later sync makes them safe. Only what is written over them is.
	dropped []undo
	created bool // and not synced since
}

// syncedLocked notes that the first n unsynced writes are safe.
func (s *state) syncedLocked(n int) {
	for _, u := range s.unsynced[:n] {
		var left []undo
		for _, d := range s.dropped {
			left = append(left, d.without(u.offset, u.offset+int64(len(u.old)))...)
		}
		s.dropped = left
	}
	s.unsynced = s.unsynced[n:]
}

// undo brings back what a write has overwritten.
type undo struct {
	offset int64
	old    []byte
}

// without returns what of it is not from begin to end.
func (u undo) without(begin, end int64) []undo {
	var out []undo
	if n := begin - u.offset; n > 0 {
		out = append(out, undo{u.offset, u.old[:min(n, int64(len(u.old)))]})
	}
	if n := end - u.offset; n < int64(len(u.old)) {
		n = max(n, 0)
		out = append(out, undo{u.offset + n, u.old[n:]})
	}
	return out
}

// ErrOff is what a disk answers whose node is gone.
var ErrOff = errors.New("the disk is off")

// New returns the disk that holds a node's directory.
func New(dir string, seed uint64, mood Mood) *Disk {
	return &Disk{fs: walfs.New(), dir: dir, rand: rand.New(rand.NewPCG(seed, 2)), mood: mood, files: make(map[string]*state)}
}

// Set changes how the disk behaves.
func (d *Disk) Set(m Mood) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.mood = m
}

// Lie makes all later syncs return without doing anything, as a disk with a volatile cache does. Nothing survives that:
// it is there to show that the checkers see a loss.
func (d *Disk) Lie() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lied = true
}

// busy waits as a sync of a file does, and fails where the disk does.
func (d *Disk) busy(path string) error {
	d.mu.Lock()
	if d.frozen {
		d.mu.Unlock()
		return ErrOff
	}
	wait := d.mood.Sync
	if wait > 0 {
		wait += time.Duration(d.rand.Int64N(int64(wait)))
	}
	if d.mood.Stall > 0 && strings.Contains(path, d.mood.StallIn) {
		wait = d.mood.Stall
	}
	d.mu.Unlock()
	if wait > 0 {
		<-time.After(wait)
	}
	return d.failing()
}

func (d *Disk) err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.frozen {
		return ErrOff
	}
	return d.mood.Err
}

// failing is err before a write, and counts it.
func (d *Disk) failing() error {
	err := d.err()
	d.mu.Lock()
	defer d.mu.Unlock()
	if err != nil && !d.frozen {
		d.failed++
	}
	return err
}

// Failed returns how many writes, syncs and transactions have failed while the disk was on. A node that has seen one does
// not know what is on its disk.
func (d *Disk) Failed() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.failed
}

func pathErr(op, path string, err error) error {
	if err == nil {
		return nil
	}
	return &os.PathError{Op: op, Path: path, Err: err}
}

// Commit implements logstore.Disk.
func (d *Disk) Commit(path string) error { return pathErr("sync", path, d.busy(path)) }

// ListDir implements types.VFS.
func (d *Disk) ListDir(dir string) ([]string, error) { return d.fs.ListDir(dir) }

// Create implements types.VFS.
func (d *Disk) Create(dir, name string, size uint64) (types.WritableFile, error) {
	path := filepath.Join(dir, name)
	if err := d.failing(); err != nil {
		return nil, pathErr("create", path, err)
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	// Sparse: a segment is allocated ahead, and that would be the most of what a seed costs.
	if err := f.Truncate(int64(size)); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files[path] = &state{created: true}
	return &file{d: d, path: path, f: f}, nil
}

// Delete implements types.VFS.
func (d *Disk) Delete(dir, name string) error {
	path := filepath.Join(dir, name)
	if err := d.err(); err != nil {
		return pathErr("remove", path, err)
	}
	d.mu.Lock()
	delete(d.files, path)
	d.mu.Unlock()
	return d.fs.Delete(dir, name)
}

// OpenReader implements types.VFS.
func (d *Disk) OpenReader(dir, name string) (types.ReadableFile, error) {
	return d.fs.OpenReader(dir, name)
}

// OpenWriter implements types.VFS.
func (d *Disk) OpenWriter(dir, name string) (types.WritableFile, error) {
	return d.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0o644)
}

// OpenFile implements logstore.Disk.
func (d *Disk) OpenFile(path string, flag int, perm os.FileMode) (types.WritableFile, error) {
	f, err := os.OpenFile(path, flag, perm)
	if err != nil {
		return nil, err
	}
	return &file{d: d, path: path, f: f}, nil
}

// stateLocked returns a file's state.
func (d *Disk) stateLocked(path string) *state {
	s := d.files[path]
	if s == nil {
		s = &state{}
		d.files[path] = s
	}
	return s
}

// file is an open file. What it writes is in the real file at once; the state knows how to take it back.
type file struct {
	d    *Disk
	path string
	f    *os.File
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(b []byte, off int64) (int, error) { return f.f.ReadAt(b, off) }

// WriteAt implements io.WriterAt.
func (f *file) WriteAt(b []byte, off int64) (int, error) {
	if err := f.d.failing(); err != nil {
		return 0, pathErr("write", f.path, err)
	}
	old := make([]byte, len(b))
	n, err := f.f.ReadAt(old, off)
	if n < len(old) && err == nil {
		return 0, fmt.Errorf("read %s: %d of %d bytes", f.path, n, len(old))
	}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	s := f.d.stateLocked(f.path)
	s.unsynced = append(s.unsynced, undo{off, old})
	return f.f.WriteAt(b, off)
}

// Sync implements types.WritableFile. What was written before it began is safe when it returns; where it fails, that is safe
// no more, however often it is tried again.
func (f *file) Sync() error {
	f.d.mu.Lock()
	before := len(f.d.stateLocked(f.path).unsynced)
	f.d.mu.Unlock()
	err := f.d.busy(f.path)
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	s := f.d.stateLocked(f.path)
	before = min(before, len(s.unsynced))
	switch {
	case f.d.frozen:
		err = ErrOff
	case err != nil:
		s.dropped = append(s.dropped, s.unsynced[:before]...)
		s.unsynced = s.unsynced[before:]
	case !f.d.lied:
		s.created = false
		s.syncedLocked(before)
	}
	return pathErr("sync", f.path, err)
}

// Close implements io.Closer.
func (f *file) Close() error { return f.f.Close() }

// Loss is what a crash does to what was not synced.
type Loss int

const (
	// Kept says that the process died, not the machine: nothing is lost.
	Kept Loss = iota
	// All says that nothing that was not synced is there.
	All
	// Torn says that of the writes that were not synced, some reached the disk, some did not, and some did in part.
	Torn
)

// String returns the loss's name.
func (l Loss) String() string { return [...]string{"kept", "lost", "torn"}[l] }

// Crash turns the disk off and copies its directory, as a crash leaves it, to another one, which must not exist. All
// goroutines of the bubble must be blocked (synctest.Wait). It returns how many writes were taken back or torn.
func (d *Disk) Crash(to string, loss Loss) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.frozen = true
	if err := copyTree(d.dir, to); err != nil {
		return 0, fmt.Errorf("copy %s: %w", d.dir, err)
	}
	if loss == Kept {
		return 0, nil
	}
	n := 0
	for path, s := range d.files {
		rel, err := filepath.Rel(d.dir, path)
		if err != nil || strings.HasPrefix(rel, "..") {
			return n, fmt.Errorf("%s is not below %s", path, d.dir)
		}
		took, err := d.takeBack(filepath.Join(to, rel), s, loss)
		if err != nil {
			return n, err
		}
		n += took
	}
	return n, nil
}

// takeBack undoes, newest first, what was not synced.
func (d *Disk) takeBack(path string, s *state, loss Loss) (int, error) {
	undos := slices.Concat(s.dropped, s.unsynced)
	if len(undos) == 0 && !s.created {
		return 0, nil
	}
	if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
		return 0, nil // removed or renamed since
	}
	if s.created && loss == All {
		return 1, os.Remove(path)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	n := 0
	for i := len(undos) - 1; i >= 0 && err == nil; i-- {
		u := undos[i]
		if loss == Torn {
			switch d.rand.IntN(3) {
			case 0:
				continue
			case 1: // the end of the write is missing
				keep := d.keptOf(u)
				u.offset, u.old = u.offset+int64(keep), u.old[keep:]
			}
		}
		n++
		_, err = f.WriteAt(u.old, u.offset)
	}
	return n, errors.Join(err, f.Close())
}

// sectorBytes are written as a whole or not at all.
const sectorBytes = 512

// keptOf chooses how much of a write reached the disk: up to the end of a sector.
func (d *Disk) keptOf(u undo) int {
	first := sectorBytes - int(u.offset%sectorBytes)
	if first >= len(u.old) {
		return 0
	}
	return first + sectorBytes*d.rand.IntN((len(u.old)-first-1)/sectorBytes+1)
}

// Full and Broken are moods' errors.
var (
	Full   error = syscall.ENOSPC
	Broken error = syscall.EIO
)

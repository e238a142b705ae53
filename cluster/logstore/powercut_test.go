package logstore

import (
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
	"github.com/stretchr/testify/require"
)

// powerFS remembers what raft-wal has written since a file was last synced: a power cut may take that away.
type powerFS struct {
	Disk

	mu       sync.Mutex
	unsynced []overwritten // guarded by mu; in the order of the writes
}

// overwritten is what was in a file before a write.
type overwritten struct {
	name   string
	offset int64
	old    []byte
}

func (p *powerFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	f, err := p.Disk.Create(dir, name, size)
	return powerFile{f, p, name}, err
}

func (p *powerFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	f, err := p.Disk.OpenWriter(dir, name)
	return powerFile{f, p, name}, err
}

type powerFile struct {
	types.WritableFile
	fs   *powerFS
	name string
}

func (f powerFile) WriteAt(b []byte, offset int64) (int, error) {
	old := make([]byte, len(b))
	n, _ := f.ReadAt(old, offset) // zeros behind the end
	clear(old[n:])
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	f.fs.unsynced = append(f.fs.unsynced, overwritten{f.name, offset, old})
	return f.WritableFile.WriteAt(b, offset)
}

func (f powerFile) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if err := f.WritableFile.Sync(); err != nil {
		return err
	}
	kept := f.fs.unsynced[:0]
	for _, o := range f.fs.unsynced {
		if o.name != f.name {
			kept = append(kept, o)
		}
	}
	f.fs.unsynced = kept
	return nil
}

// cut returns a copy of a store's directory as a power cut may leave it now.
func (p *powerFS) cut(tb testing.TB, dir string) string {
	tb.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	left := filepath.Join(tb.TempDir(), "left")
	require.NoError(tb, os.CopyFS(left, os.DirFS(dir)))
	for _, o := range slices.Backward(p.unsynced) {
		f, err := os.OpenFile(filepath.Join(left, o.name), os.O_RDWR, 0)
		require.NoError(tb, err)
		_, err = f.WriteAt(o.old, o.offset)
		require.NoError(tb, err)
		require.NoError(tb, f.Close())
	}
	return left
}

// ack-before-fsync: whatever entry was reported as stored is there after a power cut that takes all that was not synced.
func TestAckBeforeFsyncInTheLog(t *testing.T) {
	cfg := config(t)
	power := &powerFS{Disk: osDisk{walfs.New()}}
	cfg.Disk = power
	s := openStore(t, OpenWAL, cfg)
	require.NoError(t, s.SetUint64(keyCurrentTerm, 1))
	for last := uint64(2); last <= 20; last += 2 {
		require.NoError(t, s.StoreLogs([]*raft.Log{entry(last-1, 1000), entry(last, 1000)}))
		after := openStore(t, OpenWAL, Config{Dir: power.cut(t, cfg.Dir), Fatal: cfg.Fatal})
		requireEntries(t, after, 1, last, 1000)
		require.NoError(t, after.Close())
	}
}

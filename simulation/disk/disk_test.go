package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft-wal/types"
	"github.com/stretchr/testify/require"
)

// at is in front of the end of a sector.
const (
	size = 4096
	at   = sectorBytes - 4
)

// written is a disk with a file of which "synced" is safe and "unsynced", over it, is not.
func written(t *testing.T, seed uint64) (*Disk, types.WritableFile) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "n1")
	require.NoError(t, os.Mkdir(dir, 0o755))
	d := New(dir, seed, Mood{})
	f, err := d.Create(dir, "f", size)
	require.NoError(t, err)
	write(t, f, "synced__")
	require.NoError(t, f.Sync())
	write(t, f, "unsynced")
	t.Cleanup(func() { require.NoError(t, f.Close()) })
	return d, f
}

func write(t *testing.T, f types.WritableFile, text string) {
	t.Helper()
	_, err := f.WriteAt([]byte(text), at)
	require.NoError(t, err)
}

// crash returns what the file has after a crash, "" where it is gone.
func crash(t *testing.T, d *Disk, loss Loss) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "n2")
	_, err := d.Crash(to, loss)
	require.NoError(t, err)
	b, err := os.ReadFile(filepath.Join(to, "f"))
	if os.IsNotExist(err) {
		return ""
	}
	require.NoError(t, err)
	require.Len(t, b, size)
	return string(b[at : at+8])
}

func TestCrash(t *testing.T) {
	d, _ := written(t, 1)
	require.Equal(t, "unsynced", crash(t, d, Kept))
	d, _ = written(t, 1)
	require.Equal(t, "synced__", crash(t, d, All))
	d, f := written(t, 1)
	require.NoError(t, f.Sync())
	require.Equal(t, "unsynced", crash(t, d, All))

	torn := make(map[string]bool)
	for seed := range uint64(60) {
		d, _ := written(t, seed)
		torn[crash(t, d, Torn)] = true
	}
	require.True(t, torn["synced__"] && torn["unsynced"] && torn["unsyed__"], "%v", torn)
}

func TestCrashOfNewFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "n1")
	require.NoError(t, os.Mkdir(dir, 0o755))
	d := New(dir, 1, Mood{})
	f, err := d.Create(dir, "f", size)
	require.NoError(t, err)
	write(t, f, "unsynced")
	require.NoError(t, f.Close())
	require.Empty(t, crash(t, d, All))
}

func TestDiskThatFails(t *testing.T) {
	d, f := written(t, 1)
	d.Set(Mood{Err: Broken})
	require.ErrorIs(t, f.Sync(), Broken)
	_, err := f.WriteAt([]byte("x"), 0)
	require.ErrorIs(t, err, Broken)
	require.ErrorIs(t, d.Commit("db"), Broken)
	d.Set(Mood{})
	require.Equal(t, "synced__", crash(t, d, All), "what a failed sync had is not safe")
	require.ErrorIs(t, f.Sync(), ErrOff, "the disk is off behind a crash")
	_, err = d.Create(t.TempDir(), "g", size)
	require.ErrorIs(t, err, ErrOff)
}

// As with a kernel, a sync that is tried again says nothing of what the failed one had; what is written anew is safe.
func TestSyncThatIsTriedAgain(t *testing.T) {
	fails := func(t *testing.T) (*Disk, types.WritableFile) {
		t.Helper()
		d, f := written(t, 1)
		d.Set(Mood{Err: Broken})
		require.ErrorIs(t, f.Sync(), Broken)
		d.Set(Mood{})
		require.Equal(t, 1, d.Failed())
		return d, f
	}
	d, f := fails(t)
	require.NoError(t, f.Sync())
	require.Equal(t, "synced__", crash(t, d, All))

	d, f = fails(t)
	write(t, f, "anew")
	require.Equal(t, "synced__", crash(t, d, All))

	d, f = fails(t)
	write(t, f, "anew")
	require.NoError(t, f.Sync())
	require.Equal(t, "anewed__", crash(t, d, All), "the rest of it is still what it was")

	d, f = fails(t)
	_, err := f.WriteAt([]byte("an"), at+3)
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	write(t, f, "unsynced")
	require.Equal(t, "synand__", crash(t, d, All))
}

func TestStall(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		d := New(dir, 1, Mood{Sync: time.Millisecond, Stall: time.Minute, StallIn: "/slow/"})
		begin := time.Now()
		require.NoError(t, d.Commit("/fast/db"))
		require.Less(t, time.Since(begin), time.Second)
		require.NoError(t, d.Commit("/slow/db"))
		require.Greater(t, time.Since(begin), time.Minute)
	})
}

func TestLie(t *testing.T) {
	d, f := written(t, 1)
	d.Lie()
	require.NoError(t, f.Sync())
	require.Equal(t, "synced__", crash(t, d, All))
}

func TestFlipBit(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.wal")
	require.NoError(t, os.WriteFile(path, []byte(strings.Repeat("a", 100)), 0o600))
	file, err := FlipBit(dir, ".wal", 12345)
	require.NoError(t, err)
	require.Equal(t, path, file)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, 99, strings.Count(string(b), "a"))
	file, err = FlipBit(dir, ".none", 1)
	require.NoError(t, err)
	require.Empty(t, file)
}

func TestFlipBitOf(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.wal")
	require.NoError(t, os.WriteFile(path, []byte("before text text"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "x.db"), []byte("text"), 0o600))
	for _, text := range []string{"other", "text"} {
		n, err := FlipBitOf(dir, ".wal", text)
		require.NoError(t, err)
		require.Equal(t, strings.Count("text", text), n)
	}
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "before uext text", string(b))
}

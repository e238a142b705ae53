package logstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// flip changes one bit of the only file of a pattern, skip bytes behind where some bytes are first found.
func flip(tb testing.TB, dir, pattern, find string, skip int) {
	tb.Helper()
	change(tb, dir, pattern, func(b []byte) []byte {
		i := bytes.Index(b, []byte(find))
		require.GreaterOrEqual(tb, i, 0)
		b[i+skip] ^= 0x04
		return b
	})
}

func only(tb testing.TB, dir, pattern string) string {
	tb.Helper()
	files, err := filepath.Glob(filepath.Join(dir, pattern))
	require.NoError(tb, err)
	require.NotEmpty(tb, files)
	return files[0]
}

func change(tb testing.TB, dir, pattern string, fn func([]byte) []byte) {
	tb.Helper()
	path := only(tb, dir, pattern)
	b, err := os.ReadFile(path)
	require.NoError(tb, err)
	require.NoError(tb, os.WriteFile(path, fn(b), 0o600))
}

const corruptEntries = 40

// silent-wal-cut: the table of corruptions. Each is found before Raft starts, with the file and the entry; nothing behind a
// damaged entry is dropped without a word.
func TestSilentWALCut(t *testing.T) {
	const find = "entry number 7 "
	// The frame header of an entry stands before its payload, which begins with index, term, type and length.
	frameOf := func(b []byte, index uint64) int {
		payload := fmt.Appendf([]byte{byte(index), 1, 0, 100}, "entry number %d ", index)
		i := bytes.Index(b, payload)
		require.Positive(t, i)
		return i - frameHeaderBytes
	}
	set := func(index uint64, at int, v byte) func([]byte) []byte {
		return func(b []byte) []byte { b[frameOf(b, index)+at] = v; return b }
	}
	for name, d := range map[string]damage{
		"frame type to end":       {"*.wal", set(7, 0, 0), 7},
		"frame type to commit":    {"*.wal", set(7, 0, 3), 7},
		"frame type unknown":      {"*.wal", set(7, 0, 9), 7},
		"frame length longer":     {"*.wal", set(7, 5, 1), 7},
		"frame length enormous":   {"*.wal", set(7, 7, 0xff), 7},
		"frame length shorter":    {"*.wal", set(7, 4, 8), 7},
		"payload index":           {"*.wal", set(7, frameHeaderBytes, 99), 7},
		"payload term":            {"*.wal", set(7, frameHeaderBytes+1, 99), 7},
		"payload type":            {"*.wal", set(7, frameHeaderBytes+2, 1), 7},
		"payload length":          {"*.wal", set(7, frameHeaderBytes+3, 0xff), 7},
		"payload data":            {"*.wal", set(7, frameHeaderBytes+30, 'x'), 7},
		"CRC of the entry":        {"*.wal", set(7, frameHeaderBytes+106, 'x'), 7},
		"CRC of the commit":       {"*.wal", set(8, -4, 'x'), 7},
		"last entry":              {"*.wal", set(corruptEntries, frameHeaderBytes+50, 'x'), corruptEntries},
		"segment magic":           {"*.wal", func(b []byte) []byte { b[0] ^= 1; return b }, 0},
		"segment version":         {"*.wal", func(b []byte) []byte { b[7] ^= 1; return b }, 0},
		"segment base index":      {"*.wal", func(b []byte) []byte { b[8] ^= 1; return b }, 0},
		"segment id":              {"*.wal", func(b []byte) []byte { b[16] ^= 1; return b }, 0},
		"segment cut":             {"*.wal", func(b []byte) []byte { return b[:frameOf(b, 20)+50] }, 20},
		"segment cut at a frame":  {"*.wal", func(b []byte) []byte { return b[:frameOf(b, 20)] }, 20},
		"segment empty":           {"*.wal", func([]byte) []byte { return nil }, 0},
		"segment removed":         {"*.wal", nil, 0},
		"meta removed":            {"wal-meta.db", nil, 0},
		"durable index removed":   {"durable", nil, 0},
		"durable index empty":     {"durable", func([]byte) []byte { return nil }, 0},
		"durable index both bad":  {"durable", func(b []byte) []byte { b[13] ^= 1; b[slotAt+13] ^= 1; return b }, 0},
		"database removed":        {"raft.db", nil, 0},
		"database empty":          {"raft.db", func([]byte) []byte { return nil }, 0},
		"database data":           {"raft.db", func(b []byte) []byte { return bytes.ReplaceAll(b, []byte(find), []byte("entry number 9 ")) }, 7},
		"database key of another": {"raft.db", swapKeys, 0},
	} {
		t.Run(name, d.requireFound)
	}
}

// damage is done to the file of a pattern.
type damage struct {
	pattern string
	change  func([]byte) []byte // nil removes the file
	index   uint64              // of the entry that the error names, 0 for none
}

// requireFound damages a store, which then does not open or is not verified, with an error that names the file.
func (d damage) requireFound(t *testing.T) {
	cfg := config(t)
	open := OpenWAL
	if d.pattern == "raft.db" {
		open = OpenBolt
	}
	s := openStore(t, open, cfg)
	fill(t, s, 1, corruptEntries, 100)
	require.NoError(t, s.Close())
	if d.change == nil {
		require.NoError(t, os.Remove(only(t, cfg.Dir, d.pattern)))
	} else {
		change(t, cfg.Dir, d.pattern, d.change)
	}
	_, err := openVerified(open, cfg)
	corrupt, ok := errors.AsType[*CorruptError](err)
	require.True(t, ok, "%v", err)
	require.Contains(t, corrupt.File, cfg.Dir)
	require.ErrorContains(t, err, cfg.Dir)
	if d.index > 0 {
		require.Equal(t, d.index, corrupt.Index, err)
	}
}

// boot-panic: damage on which the libraries panic, or read memory that is not there, is an error that names the file.
func TestBootPanic(t *testing.T) {
	cut := func(b []byte) []byte { return b[:9000] }
	freeTheRoot := func(b []byte) []byte {
		meta, err := readBoltMeta(bytes.NewReader(b))
		require.NoError(t, err)
		binary.LittleEndian.PutUint64(b[int64(meta.freelist)*meta.pageBytes+boltHeaderBytes:], meta.root)
		return b
	}
	for name, d := range map[string]damage{
		"meta empty":                 {"wal-meta.db", func([]byte) []byte { return nil }, 0},
		"meta cut":                   {"wal-meta.db", cut, 0},
		"meta that frees itself":     {"wal-meta.db", freeTheRoot, 0},
		"database cut":               {"raft.db", cut, 0},
		"database that frees itself": {"raft.db", freeTheRoot, 0},
	} {
		t.Run(name, d.requireFound)
	}
	t.Run("database cut while it is open", func(t *testing.T) {
		cfg := config(t)
		s := openStore(t, OpenBolt, cfg)
		fill(t, s, 1, 10, 20000)
		require.NoError(t, os.Truncate(only(t, cfg.Dir, "raft.db"), 8192))
		err := s.Verify(0, 0)
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "raft.db")
	})
}

func swapKeys(b []byte) []byte {
	a, z := make([]byte, 8), make([]byte, 8)
	binary.BigEndian.PutUint64(a, 7)
	binary.BigEndian.PutUint64(z, 99)
	return bytes.ReplaceAll(b, a, z)
}

// silent-wal-cut: after a power cut the durable index may be behind. What is damaged before a later write is then no torn
// end either; only of the last write that can't be told.
func TestSilentWALCutBehindTheDurableIndex(t *testing.T) {
	for name, c := range map[string]struct {
		last    uint64 // the log's last entry
		damage  uint64 // the entry that is damaged
		torn    bool   // and taken for a torn end
		changed func(b []byte, at int)
	}{
		"bit flipped":       {last: 40, damage: 30, changed: func(b []byte, at int) { b[at+20] ^= 4 }},
		"sector of zeros":   {last: 40, damage: 30, changed: func(b []byte, at int) { clear(b[at : at+256]) }},
		"last but one":      {last: 40, damage: 39, changed: func(b []byte, at int) { b[at+20] ^= 4 }},
		"frame length":      {last: 40, damage: 30, changed: func(b []byte, at int) { b[at+7] = 0xff }},
		"the last write":    {last: 40, damage: 40, torn: true, changed: func(b []byte, at int) { b[at+20] ^= 4 }},
		"all of the writes": {last: 40, damage: 30, torn: true, changed: func(b []byte, at int) { clear(b[at+20:]) }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, OpenWAL, cfg)
			fill(t, s, 1, 20, 300)
			behind, err := os.ReadFile(filepath.Join(cfg.Dir, durableName))
			require.NoError(t, err)
			fill(t, s, 21, c.last, 300)
			require.NoError(t, s.Close())
			require.NoError(t, os.WriteFile(filepath.Join(cfg.Dir, durableName), behind, 0o600))
			change(t, cfg.Dir, "*.wal", func(b []byte) []byte {
				at := bytes.Index(b, fmt.Appendf(nil, "entry number %d ", c.damage))
				require.Positive(t, at)
				c.changed(b, at-frameHeaderBytes-5)
				return b
			})
			s, err = openVerified(OpenWAL, cfg)
			if c.torn {
				require.NoError(t, err)
				last, err := s.LastIndex()
				require.NoError(t, err)
				require.Equal(t, c.damage-1, last)
				require.NoError(t, s.Close())
				return
			}
			corrupt, ok := errors.AsType[*CorruptError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, c.damage, corrupt.Index)
		})
	}
}

// Of a log with several segments, one in the middle is as needed as the last.
func TestSegmentInTheMiddleIsDamaged(t *testing.T) {
	for name, hurt := range map[string]func(path string) error{
		"removed": os.Remove,
		"cut":     func(path string) error { return os.Truncate(path, 1<<20) },
		"of another": func(path string) error {
			other, err := filepath.Glob(filepath.Join(filepath.Dir(path), "*.wal"))
			return errors.Join(err, os.Rename(other[0], path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, OpenWAL, cfg)
			fill(t, s, 1, 4, defaultSegmentBytes)
			require.NoError(t, s.Close())
			files, err := filepath.Glob(filepath.Join(cfg.Dir, "*.wal"))
			require.NoError(t, err)
			require.NoError(t, hurt(files[2]))
			_, err = openVerified(OpenWAL, cfg)
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
}

// bit-flip: any one bit changed anywhere in any file is found, or everything is whole.
func TestBitFlip(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, open, cfg)
			fill(t, s, 1, 10, 40)
			require.NoError(t, s.SetUint64(keyLastVoteTerm, 1))
			require.NoError(t, s.Set(keyLastVoteCand, []byte("n1/A")))
			require.NoError(t, s.Close())
			files := map[string][]byte{}
			var names []string
			entries, err := os.ReadDir(cfg.Dir)
			require.NoError(t, err)
			for _, e := range entries {
				files[e.Name()], err = os.ReadFile(filepath.Join(cfg.Dir, e.Name()))
				require.NoError(t, err)
				names = append(names, e.Name())
			}
			found, whole := 0, 0
			for _, name := range names {
				b := files[name]
				for at := range b {
					if used(b, at) && at%stride == 0 {
						dir := filepath.Join(t.TempDir(), fmt.Sprint(name, at))
						restore(t, dir, files)
						damaged := bytes.Clone(b)
						damaged[at] ^= 1 << (at % 8)
						require.NoError(t, os.WriteFile(filepath.Join(dir, name), damaged, 0o600))
						if intact(t, open, dir, name, at) {
							whole++
						} else {
							found++
						}
						require.NoError(t, os.RemoveAll(dir))
					}
				}
			}
			t.Logf("%d found, %d without effect", found, whole)
			require.Greater(t, found, 10)
		})
	}
}

// stride spreads the flips, since each costs an open.
const stride = 83

// used says whether there is anything near a byte.
func used(b []byte, at int) bool { return !isZero(b[max(0, at-8):min(len(b), at+8)]) }

func restore(tb testing.TB, dir string, files map[string][]byte) {
	tb.Helper()
	require.NoError(tb, os.MkdirAll(dir, 0o750))
	for name, b := range files {
		require.NoError(tb, os.WriteFile(filepath.Join(dir, name), bytes.TrimRight(b, "\x00"), 0o600))
		if name != "durable" {
			require.NoError(tb, os.Truncate(filepath.Join(dir, name), int64(len(b))))
		}
	}
}

func intact(tb testing.TB, open opener, dir, name string, at int) bool {
	tb.Helper()
	s, err := openVerified(open, Config{Dir: dir, Fatal: func(err error) { tb.Errorf("%s %d: fatal: %v", name, at, err) }})
	if err != nil {
		require.ErrorIs(tb, err, ErrCorrupt, "%s %d", name, at)
		return false
	}
	requireEntries(tb, s, 1, 10, 40)
	vote, err := s.Get(keyLastVoteCand)
	require.NoError(tb, err, "%s %d", name, at)
	require.Equal(tb, "n1/A", string(vote), "%s %d", name, at)
	term, err := s.GetUint64(keyLastVoteTerm)
	require.NoError(tb, err)
	require.EqualValues(tb, 1, term, "%s %d", name, at)
	require.NoError(tb, s.Close())
	return true
}

// lost-tail-votes: a log that lost its end does not pass for one whose last write was torn, and so does not vote.
func TestLostTailVotes(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, open, cfg)
			fill(t, s, 1, 10, 100)
			require.NoError(t, s.Close())
			old := filepath.Join(t.TempDir(), "old")
			require.NoError(t, os.CopyFS(old, os.DirFS(cfg.Dir)))
			s = openStore(t, open, cfg)
			require.NoError(t, s.StoreLogs(entries(11, 20, 100)))
			require.NoError(t, s.Close())
			durable, err := os.ReadFile(filepath.Join(cfg.Dir, durableName))
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(filepath.Join(old, durableName), durable, 0o600))
			cfg.Dir = old
			_, err = openVerified(open, cfg)
			lost, ok := errors.AsType[*CorruptError](err)
			require.True(t, ok, "%v", err)
			require.EqualValues(t, 11, lost.Index)
			s, err = open(cfg)
			require.NoError(t, err)
			require.ErrorIs(t, s.Verify(15, 1), ErrCorrupt, "nor behind a snapshot that does not cover it")
			require.NoError(t, s.Close())
		})
	}
}

// A vote that was written and is gone, or was changed, is known too.
func TestLostVote(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, open, cfg)
			require.NoError(t, s.SetUint64(keyCurrentTerm, 3))
			before, err := s.inner.Get(keyCurrentTerm)
			require.NoError(t, err)
			require.NoError(t, s.SetUint64(keyCurrentTerm, 4))
			require.NoError(t, s.inner.Set(keyCurrentTerm, before))
			require.NoError(t, s.Close())
			_, err = openVerified(open, cfg)
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
}

func TestTermOlderThanTheLog(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, open, cfg)
			require.NoError(t, s.StoreLog(&raft.Log{Index: 1, Term: 5}))
			require.NoError(t, s.Close())
			_, err := openVerified(open, cfg)
			require.ErrorIs(t, err, ErrCorrupt, "no term")
			s, err = open(cfg)
			require.NoError(t, err)
			require.NoError(t, s.SetUint64(keyCurrentTerm, 5))
			require.NoError(t, s.StoreLog(&raft.Log{Index: 2, Term: 5}))
			require.NoError(t, s.Close())
			require.NoError(t, openStore(t, open, cfg).Close())
			s, err = open(cfg)
			require.NoError(t, err)
			require.ErrorIs(t, s.Verify(1, 6), ErrCorrupt, "older than the snapshot")
			require.NoError(t, s.Close())
		})
	}
}

func TestGapBehindTheSnapshot(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, open, cfg)
			fill(t, s, 11, 20, 10)
			require.NoError(t, s.Close())
			for snapshot, ok := range map[uint64]bool{0: false, 9: false, 10: true, 15: true} {
				s, err := open(cfg)
				require.NoError(t, err)
				require.Equal(t, ok, s.Verify(snapshot, 1) == nil, "snapshot at %d", snapshot)
				require.NoError(t, s.Close())
			}
		})
	}
}

// What the system refuses says nothing about the files: such a replica must not be discarded.
func TestSystemErrorsAreNotCorruption(t *testing.T) {
	for _, errno := range []error{syscall.EMFILE, syscall.EACCES, syscall.EIO, syscall.ENOSPC} {
		err := corrupt("file", 0, &fs.PathError{Op: "open", Path: "file", Err: errno})
		require.NotErrorIs(t, err, ErrCorrupt)
		require.ErrorIs(t, err, errno)
	}
	require.NotErrorIs(t, corrupt("file", 0, &fs.PathError{Op: "write", Path: "file", Err: syscall.EIO}), ErrCorrupt)
	require.ErrorIs(t, corrupt("file", 0, &fs.PathError{Op: "read", Path: "file", Err: syscall.EIO}), ErrCorrupt, "a bad sector")
	require.ErrorIs(t, corrupt("file", 0, &fs.PathError{Op: "open", Path: "file", Err: syscall.ENOENT}), ErrCorrupt)
}

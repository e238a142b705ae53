package logstore

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	walfs "github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/types"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
)

func TestStoreKeepsEntries(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, open, cfg)
			require.True(t, s.IsMonotonic())
			fill(t, s, 1, 200, 100)
			requireEntries(t, s, 1, 200, 100)
			require.NoError(t, s.DeleteRange(1, 20))
			require.NoError(t, s.DeleteRange(181, 200))
			require.Error(t, s.DeleteRange(50, 60), "in the middle")
			requireEntries(t, s, 21, 180, 100)
			require.NoError(t, s.Close())
			require.NoError(t, s.Close(), "twice")

			s, err := open(cfg)
			require.NoError(t, err)
			require.NoError(t, s.Verify(20, 1), "a snapshot covers what was deleted")
			requireEntries(t, s, 21, 180, 100)
			fill(t, s, 181, 190, 100)
			require.NoError(t, s.DeleteRange(21, 190))
			first, _ := s.FirstIndex()
			last, _ := s.LastIndex()
			require.Zero(t, first+last)
			require.Zero(t, s.LogBytes())
			fill(t, s, 500, 510, 10)
			requireEntries(t, s, 500, 510, 10)
			require.NoError(t, s.Close())
			s, err = open(cfg)
			require.NoError(t, err)
			require.NoError(t, s.Verify(499, 2))
			requireEntries(t, s, 500, 510, 10)
			require.NoError(t, s.Close())
		})
	}
}

func TestStoreDoesNotChangeWhatItIsGiven(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			s := openStore(t, open, config(t))
			l := entry(3, 50)
			require.NoError(t, s.StoreLogs([]*raft.Log{l}))
			require.Equal(t, entry(3, 50), l)
		})
	}
}

func TestWritesAreTimed(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			cfg := config(t)
			cfg.Writes = NewMetrics(reg).Shards
			fill(t, openStore(t, open, cfg), 1, 5, 100)
			require.Zero(t, cfg.Writes.oldest(time.Now()))
			families, err := reg.Gather()
			require.NoError(t, err)
			require.Len(t, families, 2)
			require.Equal(t, "streamhouse_log_write_oldest_seconds", families[0].GetName())
			require.Equal(t, "streamhouse_log_write_seconds", families[1].GetName())
			counts := make(map[string]uint64)
			for _, s := range families[1].GetMetric() {
				counts[s.GetLabel()[0].GetValue()] = s.GetHistogram().GetSampleCount()
			}
			require.Equal(t, map[string]uint64{"metadata": 0, "shard": 5}, counts)
		})
	}
}

// healthy-but-wedged: a write that hangs is seen by its age while it hangs, and one that failed is not timed.
func TestHealthyButWedged(t *testing.T) {
	w := NewMetrics(nil).Shards
	first, began := w.begin()
	second, later := w.begin()
	require.Greater(t, w.oldest(began.Add(time.Minute)), 59*time.Second)
	w.end(first, began, true)
	w.end(second, later, false)
	require.Zero(t, w.oldest(began.Add(time.Minute)))
	require.Equal(t, 1, testutil.CollectAndCount(w.seconds.(prometheus.Histogram)))
}

func TestTimingAWriteAllocatesNothing(t *testing.T) {
	for _, w := range []*Writes{nil, NewMetrics(nil).Shards} {
		require.Zero(t, testing.AllocsPerRun(1000, func() {
			id, began := w.begin()
			w.end(id, began, true)
		}))
	}
}

func TestStableStore(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, open, cfg)
			val, err := s.Get(keyLastVoteCand)
			require.NoError(t, err)
			require.Empty(t, val)
			n, err := s.GetUint64(keyCurrentTerm)
			require.NoError(t, err)
			require.Zero(t, n)
			require.NoError(t, s.SetUint64(keyCurrentTerm, 7))
			require.NoError(t, s.SetUint64(keyLastVoteTerm, 7))
			require.NoError(t, s.Set(keyLastVoteCand, []byte("n1/A")))
			require.NoError(t, s.Close())
			s = openStore(t, open, cfg)
			n, err = s.GetUint64(keyCurrentTerm)
			require.NoError(t, err)
			require.EqualValues(t, 7, n)
			val, err = s.Get(keyLastVoteCand)
			require.NoError(t, err)
			require.Equal(t, "n1/A", string(val))
		})
	}
}

// Entries as large as a segment of raft-wal, and larger, are stored and read, and so is what comes behind them.
func TestLargeEntries(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.CacheBytes = 1
			s := openStore(t, open, cfg)
			require.ErrorIs(t, s.StoreLog(entry(1, maxEntryBytes+1)), ErrTooLarge)
			require.NoError(t, s.StoreLogs(entries(1, 3, defaultSegmentBytes)))
			require.NoError(t, s.SetUint64(keyCurrentTerm, 1))
			requireEntries(t, s, 1, 3, defaultSegmentBytes)
			require.NoError(t, s.Close())
			s = openStore(t, open, cfg)
			requireEntries(t, s, 1, 3, defaultSegmentBytes)
			require.NoError(t, s.StoreLog(entry(4, defaultSegmentBytes)))
		})
	}
}

// raft-wal can't read a segment that was cut at its end, after a restart; and it cuts the wrong one while it rotates.
func TestSuffixDeletedThenRestarted(t *testing.T) {
	cfg := config(t)
	cfg.CacheBytes = 1
	s := openStore(t, OpenWAL, cfg)
	fill(t, s, 1, 30, 1000)
	require.NoError(t, s.DeleteRange(21, 30))
	fill(t, s, 21, 25, 1000)
	for range 20 { // each fills a segment, and is deleted while raft-wal rotates
		require.NoError(t, s.StoreLog(entry(26, defaultSegmentBytes)))
		require.NoError(t, s.DeleteRange(26, 26))
	}
	requireEntries(t, s, 1, 25, 1000)
	for range 2 {
		require.NoError(t, s.Close())
		s = openStore(t, OpenWAL, cfg)
		requireEntries(t, s, 1, 25, 1000)
	}
	fill(t, s, 26, 40, 1000)
	requireEntries(t, s, 1, 40, 1000)
}

// A write that was torn by a power cut was not acknowledged: it is removed, and the log goes on.
func TestTornWrite(t *testing.T) {
	for name, seals := range map[string]bool{"middle": false, "seals the segment": true} {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			s := openStore(t, OpenWAL, cfg)
			fill(t, s, 1, 20, 100)
			require.NoError(t, s.durable.lower(20))
			torn := entry(21, 5000)
			if seals {
				torn = entry(21, defaultSegmentBytes)
			}
			require.NoError(t, s.StoreLog(torn))
			require.NoError(t, s.durable.lower(20)) // the power was cut before this file was written again
			require.NoError(t, s.Close())
			files, err := filepath.Glob(filepath.Join(cfg.Dir, "*.wal"))
			require.NoError(t, err)
			b, err := os.ReadFile(files[0])
			require.NoError(t, err)
			at := 20*(100+60) + 2000
			clear(b[at : at+512]) // a sector that did not reach the disk
			require.NoError(t, os.WriteFile(files[0], b, 0o600))
			if len(files) > 1 { // it did not come to rotating either
				t.Log(files)
			}
			s, err = openVerified(OpenWAL, cfg)
			if seals && len(files) > 1 {
				require.ErrorIs(t, err, ErrCorrupt, "a segment behind it was begun, so the write had ended")
				return
			}
			require.NoError(t, err)
			requireEntries(t, s, 1, 20, 100)
			fill(t, s, 21, 30, 100)
			require.NoError(t, s.Close())
			s = openStore(t, OpenWAL, cfg)
			requireEntries(t, s, 1, 30, 100)
		})
	}
}

func TestLogThatASnapshotReplaces(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			for name, snapshot := range map[string][2]uint64{"ends behind the log": {30, 1}, "of another term": {10, 2}} {
				t.Run(name, func(t *testing.T) {
					cfg := config(t)
					s := openStore(t, open, cfg)
					fill(t, s, 1, 20, 100)
					require.NoError(t, s.SetUint64(keyCurrentTerm, 2))
					require.NoError(t, s.Close())
					s, err := open(cfg)
					require.NoError(t, err)
					require.NoError(t, s.Verify(snapshot[0], snapshot[1]))
					last, _ := s.LastIndex()
					require.Zero(t, last)
					fill(t, s, snapshot[0]+1, snapshot[0]+5, 10)
					require.NoError(t, s.Close())
					s, err = open(cfg)
					require.NoError(t, err)
					require.NoError(t, s.Verify(snapshot[0], 1))
					requireEntries(t, s, snapshot[0]+1, snapshot[0]+5, 10)
					require.NoError(t, s.Close())
				})
			}
		})
	}
}

func TestReadAfterCloseIsNotFatal(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.CacheBytes = 1
			s := openStore(t, open, cfg)
			fill(t, s, 1, 5, 100)
			require.NoError(t, s.Close())
			require.ErrorIs(t, s.GetLog(3, new(raft.Log)), ErrClosed)
			require.ErrorIs(t, s.StoreLog(entry(6, 1)), ErrClosed)
			require.ErrorIs(t, s.DeleteRange(1, 2), ErrClosed)
			require.ErrorIs(t, s.SetUint64(keyCurrentTerm, 9), ErrClosed)
			_, err := s.GetUint64(keyCurrentTerm)
			require.ErrorIs(t, err, ErrClosed)
		})
	}
}

// faultyFS fails the writes of raft-wal when told to.
type faultyFS struct {
	Disk
	fail  *bool
	syncs *int
}

var errDisk = errors.New("disk failure")

func (f faultyFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if *f.fail {
		return nil, errDisk
	}
	w, err := f.Disk.Create(dir, name, size)
	return faultyFile{w, f, name}, err
}

func (f faultyFS) OpenWriter(dir, name string) (types.WritableFile, error) {
	w, err := f.Disk.OpenWriter(dir, name)
	return faultyFile{w, f, name}, err
}

type faultyFile struct {
	types.WritableFile
	fs   faultyFS
	name string
}

func (f faultyFile) Sync() error {
	*f.fs.syncs++
	if *f.fs.fail {
		return &os.PathError{Op: "sync", Path: f.name, Err: errDisk}
	}
	return f.WritableFile.Sync()
}

// A failed fsync ends the node, once, with the file's name, and is never tried again.
func TestFailedSyncIsNotRetried(t *testing.T) {
	cfg := config(t)
	var fail bool
	var syncs int
	cfg.Disk = faultyFS{osDisk{walfs.New()}, &fail, &syncs}
	calls, last := fatals(&cfg)
	s := openStore(t, OpenWAL, cfg)
	fill(t, s, 1, 3, 100)
	fail = true
	require.ErrorIs(t, s.StoreLog(entry(4, 100)), errDisk)
	require.EqualValues(t, 1, calls.Load())
	require.Contains(t, last.Load(), ".wal")
	fail = false
	before := syncs
	require.ErrorIs(t, s.StoreLog(entry(4, 100)), errDisk)
	require.ErrorIs(t, s.SetUint64(keyLastVoteTerm, 9), errDisk, "it does not vote either")
	require.ErrorIs(t, s.DeleteRange(1, 2), errDisk)
	require.Equal(t, before, syncs)
	require.EqualValues(t, 1, calls.Load())
	term, err := s.GetUint64(keyCurrentTerm)
	require.NoError(t, err)
	require.EqualValues(t, 1, term)
}

// The library panics where a term can't be saved, and takes the process with it before the node has ended in order.
func TestTermThatCantBeSaved(t *testing.T) {
	cfg := config(t)
	var fail bool
	var syncs int
	cfg.Disk = faultyFS{osDisk{walfs.New()}, &fail, &syncs}
	calls, _ := fatals(&cfg)
	s := openStore(t, OpenWAL, cfg)
	fail = true
	require.ErrorIs(t, s.StoreLog(entry(1, 100)), errDisk)
	require.NoError(t, s.SetUint64(keyCurrentTerm, 9))
	require.ErrorIs(t, s.SetUint64(keyLastVoteTerm, 9), errDisk, "it does not vote")
	require.ErrorIs(t, s.StoreLog(entry(1, 100)), errDisk)
	require.EqualValues(t, 1, calls.Load(), "the node ends")
	term, err := s.GetUint64(keyCurrentTerm)
	require.NoError(t, err)
	require.Zero(t, term)
}

// raft-wal only logs that it could not change to the next segment.
func TestFailedRotationEndsTheNode(t *testing.T) {
	cfg := config(t)
	var fail bool
	var syncs int
	fs := &createFailsFS{faultyFS{osDisk{walfs.New()}, &fail, &syncs}}
	cfg.Disk = fs
	ended := make(chan error, 1)
	cfg.Fatal = func(err error) { ended <- err }
	s := openStore(t, OpenWAL, cfg)
	fail = true
	require.NoError(t, s.StoreLog(entry(1, defaultSegmentBytes)))
	err := <-ended
	require.ErrorIs(t, err, errDisk)
	require.ErrorContains(t, err, ".wal")
	require.Error(t, s.StoreLog(entry(2, 10)))
}

// createFailsFS fails only the creation of files.
type createFailsFS struct{ faultyFS }

func (f createFailsFS) Create(dir, name string, size uint64) (types.WritableFile, error) {
	if *f.fail {
		return nil, errDisk
	}
	return f.Disk.Create(dir, name, size)
}

func TestFailedBoltWriteEndsTheNode(t *testing.T) {
	cfg := config(t)
	calls, last := fatals(&cfg)
	s := openStore(t, OpenBolt, cfg)
	fill(t, s, 1, 3, 100)
	require.NoError(t, s.inner.Close()) // what a broken file does
	require.Error(t, s.StoreLog(entry(4, 100)))
	require.Error(t, s.StoreLog(entry(4, 100)))
	require.Error(t, s.Set(keyLastVoteCand, []byte("x")))
	require.EqualValues(t, 1, calls.Load())
	require.Contains(t, last.Load(), boltName)
}

// bit-flip: an entry that is found changed while the node runs ends it.
func TestBitFlipAtRunTime(t *testing.T) {
	cfg := config(t)
	cfg.CacheBytes = 1
	calls, last := fatals(&cfg)
	s := openStore(t, OpenWAL, cfg)
	fill(t, s, 1, 30, 1000)
	flip(t, cfg.Dir, "*.wal", "entry number 7 ", 0)
	require.NoError(t, s.GetLog(6, new(raft.Log)))
	err := s.GetLog(7, new(raft.Log))
	require.ErrorIs(t, err, ErrCorrupt)
	corrupt, ok := errors.AsType[*CorruptError](err)
	require.True(t, ok)
	require.EqualValues(t, 7, corrupt.Index)
	require.EqualValues(t, 1, calls.Load())
	require.Contains(t, last.Load(), "index 7")
}

func TestCacheIsBounded(t *testing.T) {
	for name, open := range both {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			cfg.CacheBytes = 100 << 10
			s := openStore(t, open, cfg)
			for i := uint64(1); i <= 300; i += 50 {
				require.NoError(t, s.StoreLogs(entries(i, i+49, 1000)))
				require.LessOrEqual(t, s.cache.bytes, cfg.CacheBytes)
			}
			require.Greater(t, s.cache.n, 50)
			require.NotNil(t, s.cache.get(300))
			require.NoError(t, s.StoreLog(entry(301, 200<<10)), "larger than the cache")
			require.Nil(t, s.cache.get(301))
			require.NoError(t, s.StoreLogs(entries(302, 310, 1000)))
			require.NotNil(t, s.cache.get(302))
			require.NoError(t, s.SetUint64(keyCurrentTerm, 9))
			for i := uint64(1); i <= 300; i++ {
				var l raft.Log
				require.NoError(t, s.GetLog(i, &l))
				require.Equal(t, *entry(i, 1000), l)
			}
		})
	}
}

func TestIndexRetaining(t *testing.T) {
	s := openStore(t, OpenWAL, config(t))
	require.EqualValues(t, 0, s.IndexRetaining(100))
	fill(t, s, 10, 19, 100)
	for _, c := range []struct {
		bytes int64
		want  uint64
	}{{0, 20}, {99, 20}, {100, 19}, {250, 18}, {1 << 20, 10}} {
		require.Equal(t, c.want, s.IndexRetaining(c.bytes), "%d bytes", c.bytes)
	}
}

func TestEntryCRCGolden(t *testing.T) {
	l := &raft.Log{Index: 1 << 40, Term: 7, Type: raft.LogConfiguration, Data: []byte("data"), Extensions: []byte("ext")}
	sealed := seal([]*raft.Log{l})[0]
	require.Equal(t, uint32(0x737b0d1f), binary.BigEndian.Uint32(sealed.Extensions))
	require.Equal(t, "ext", string(sealed.Extensions[4:]))
}

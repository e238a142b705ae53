package logstore

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft-wal/fs"
	"github.com/hashicorp/raft-wal/metadb"
	"github.com/stretchr/testify/require"
)

// heldDisk holds, while it is told to, writes of raft-wal's database.
type heldDisk struct {
	Disk
	hold    atomic.Bool
	arrived chan struct{} // gets one for each that is held
	release chan struct{}
}

func (d *heldDisk) Commit(path string) error {
	if d.hold.Load() && strings.HasSuffix(path, metadb.FileName) {
		d.arrived <- struct{}{}
		<-d.release
	}
	return nil
}

// raft-wal, killed while it changes to the next segment, refuses every write after a restart.
func TestKillDuringRotation(t *testing.T) {
	cfg := config(t)
	cfg.SegmentBytes = 64 << 10
	for last := uint64(1); last <= 5; last++ {
		d := &heldDisk{Disk: osDisk{fs.New()}, arrived: make(chan struct{}, 1), release: make(chan struct{})}
		cfg.Disk = d
		s := openStore(t, OpenWAL, cfg)
		if last > 1 {
			requireEntries(t, s, 1, last-1, cfg.SegmentBytes)
		}
		require.NoError(t, s.SetUint64(keyCurrentTerm, 1))
		d.hold.Store(true)
		require.NoError(t, s.StoreLog(entry(last, cfg.SegmentBytes))) // fills a segment
		<-d.arrived
		left := filepath.Join(t.TempDir(), "left")
		require.NoError(t, os.CopyFS(left, os.DirFS(cfg.Dir)))
		close(d.release)
		require.NoError(t, s.Close())
		cfg.Dir = left
	}
}

// slowDisk takes a second for whatever is behind a write to the log.
type slowDisk struct{ Disk }

func (slowDisk) Commit(string) error {
	<-time.After(time.Second)
	return nil
}

// What comes while raft-wal changes to the next segment waits for a channel, not for raft-wal's mutex: else the bubble's
// clock stood still, and this test did not end.
func TestRotationOnAVirtualClock(t *testing.T) {
	cfg := config(t)
	cfg.SegmentBytes, cfg.Disk = 64<<10, slowDisk{osDisk{fs.New()}}
	synctest.Test(t, func(t *testing.T) {
		s, err := openVerified(OpenWAL, cfg)
		require.NoError(t, err)
		fill(t, s, 1, 5, cfg.SegmentBytes)
		require.NoError(t, s.DeleteRange(4, 5))
		require.NoError(t, s.StoreLog(entry(4, cfg.SegmentBytes)))
		require.NoError(t, s.Close())
	})
	requireEntries(t, openStore(t, OpenWAL, cfg), 1, 4, cfg.SegmentBytes)
}

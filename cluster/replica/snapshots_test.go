package replica

import (
	"os"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// A replica's own snapshot is written while the leader sends newer ones, of which one is enough to remove all of the log, and
// more to remove this snapshot at once as the oldest. Raft does not take it for its last one then, and that is no failed write,
// on which the node would end.
func TestSnapshotBehindNewerOnes(t *testing.T) {
	for newer := uint64(1); newer <= keptSnapshots; newer++ {
		testSnapshotBehind(t, newer)
	}
}

func testSnapshotBehind(t *testing.T, newer uint64) {
	t.Helper()
	fatal := func(err error) { t.Errorf("fatal: %v", err) }
	var configured []uint64
	s, err := openSnapshots(t.TempDir(), hclog.NewNullLogger(), fatal, func(index uint64, _ raft.Configuration) {
		configured = append(configured, index)
	})
	require.NoError(t, err)
	create := func(index uint64) raft.SnapshotSink {
		sink, err := s.Create(raft.SnapshotVersionMax, index, 1, raft.Configuration{}, index, nil)
		require.NoError(t, err)
		_, err = sink.Write([]byte("state"))
		require.NoError(t, err)
		return sink
	}
	own := create(10)
	for i := range newer {
		require.NoError(t, create(20+i).Close())
	}
	require.ErrorIs(t, own.Close(), errSuperseded)

	left, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Len(t, left, keptSnapshots)
	index, _, err := s.verify()
	require.NoError(t, err)
	require.Equal(t, 20+newer-1, index)
	require.NotContains(t, configured, uint64(10))
}

package replica

import (
	"os"
	"testing"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
)

// A replica's own snapshot is written while the leader sends newer ones, and is removed as the oldest once it is whole. That
// is no failed write, on which the node would end.
func TestSnapshotBehindNewerOnes(t *testing.T) {
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
	for i := range uint64(keptSnapshots) {
		require.NoError(t, create(20+i).Close())
	}
	require.NoError(t, own.Close())

	left, err := os.ReadDir(s.dir)
	require.NoError(t, err)
	require.Len(t, left, keptSnapshots)
	index, _, err := s.verify()
	require.NoError(t, err)
	require.Equal(t, uint64(20+keptSnapshots-1), index)
	require.NotContains(t, configured, uint64(10))
}

package observability

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/internal/disk"
)

func TestDiskOfADirectory(t *testing.T) {
	reg := prometheus.NewRegistry()
	RegisterDisk(reg, t.TempDir())
	families, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, families, 2)
	free, size := families[0].GetMetric()[0].GetGauge().GetValue(), families[1].GetMetric()[0].GetGauge().GetValue()
	require.Equal(t, "streamhouse_disk_free_bytes", families[0].GetName())
	require.Equal(t, "streamhouse_disk_size_bytes", families[1].GetName())
	require.Positive(t, free)
	require.Less(t, free, size)
}

// A stalled disk costs each scrape a moment, and all of them together one goroutine.
func TestStalledDiskHasNoSeries(t *testing.T) {
	stalled, looks := make(chan struct{}), 0
	c := newDiskCollector(func() (disk.Space, error) {
		looks++
		<-stalled
		return disk.Space{Free: 1, Size: 2}, nil
	})
	for range 3 {
		require.Zero(t, testutil.CollectAndCount(c))
	}
	f := c.join()
	close(stalled)
	<-f.done
	require.Equal(t, 1, looks)
	require.Equal(t, 2, testutil.CollectAndCount(c), "it answers again")
}

func TestFailedLookAtTheDisk(t *testing.T) {
	c := newDiskCollector(func() (disk.Space, error) { return disk.Space{}, errors.New("no such disk") })
	require.Zero(t, testutil.CollectAndCount(c))
}

package observability

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streamhouse/streamhouse/internal/disk"
)

// diskTimeout bounds how long a scrape waits for the disk.
const diskTimeout = 250 * time.Millisecond

// diskCollector tells the size of the disk of a directory. A disk that does not answer has no series: its last numbers
// may be wrong, and a scrape must not hang on it.
type diskCollector struct {
	look       func() (disk.Space, error)
	free, size *prometheus.Desc

	mu     sync.Mutex
	flight *diskFlight // guarded by mu; a look that has not ended
}

// diskFlight is one look at the disk, which all scrapes share that come before its end.
type diskFlight struct {
	done  chan struct{}
	space disk.Space
	err   error
}

var _ prometheus.Collector = (*diskCollector)(nil)

// RegisterDisk registers the free bytes and the size of the disk that a directory is on.
func RegisterDisk(reg prometheus.Registerer, dir string) {
	reg.MustRegister(newDiskCollector(func() (disk.Space, error) { return disk.Look(dir) }))
}

func newDiskCollector(look func() (disk.Space, error)) *diskCollector {
	return &diskCollector{
		look: look,
		free: prometheus.NewDesc("streamhouse_disk_free_bytes", "Bytes that the node may still write to the disk of its data directory.", nil, nil),
		size: prometheus.NewDesc("streamhouse_disk_size_bytes", "Size of the disk of the data directory.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *diskCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.free
	ch <- c.size
}

// Collect implements prometheus.Collector.
func (c *diskCollector) Collect(ch chan<- prometheus.Metric) {
	timer := time.NewTimer(diskTimeout)
	defer timer.Stop()
	f := c.join()
	select {
	case <-f.done:
	case <-timer.C:
		return
	}
	if f.err != nil {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.free, prometheus.GaugeValue, float64(f.space.Free))
	ch <- prometheus.MustNewConstMetric(c.size, prometheus.GaugeValue, float64(f.space.Size))
}

// join returns the look that is under way, or begins one.
func (c *diskCollector) join() *diskFlight {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.flight != nil {
		return c.flight
	}
	f := &diskFlight{done: make(chan struct{})}
	c.flight = f
	go func() { // at most one; nobody can wait for it where the disk never answers, and it holds nothing
		f.space, f.err = c.look()
		c.mu.Lock()
		c.flight = nil
		c.mu.Unlock()
		close(f.done)
	}()
	return f
}

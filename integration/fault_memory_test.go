package integration_test

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// heapBound is what the heap of a node may hold under quick or early flags: 32 MiB of cache, 32 MiB of tail, 64 MiB of
	// requests, at most as much waiting for upload in each of three shards as upload-bytes says, and 64 MiB for all else.
	heapBound = (32 + 32 + 64 + 3*64 + 64) << 20
	// residentBound allows the garbage collector as much again, and the program itself.
	residentBound = 2*heapBound + 100<<20
)

// memoryWatch looks at the memory of all nodes all the time.
type memoryWatch struct {
	t    *testing.T
	stop func()

	mu       sync.Mutex
	heap     float64 // guarded by mu; largest, of any node, in bytes
	resident int64   // guarded by mu; the same
}

// watchMemory looks at the nodes' memory until stop is called, which holds it against the bounds.
func watchMemory(t *testing.T, c *harness.Cluster) *memoryWatch {
	t.Helper()
	m := &memoryWatch{t: t}
	ctx, cancel := context.WithCancel(t.Context())
	nodes := append([]*harness.Node(nil), c.Nodes...)
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() { each(ctx, 500*time.Millisecond, func(int) { m.look(ctx, n) }) })
	}
	m.stop = func() {
		t.Helper()
		cancel()
		wg.Wait()
		m.check()
	}
	return m
}

func (m *memoryWatch) look(ctx context.Context, n *harness.Node) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	metrics, err := n.Metrics(ctx)
	if err != nil {
		return // it is down or paused
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heap = max(m.heap, metrics.Sum("go_memstats_heap_inuse_bytes", nil))
	m.resident = max(m.resident, int64(metrics.Sum("process_resident_memory_bytes", nil)))
}

func (m *memoryWatch) check() {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.t.Logf("memory of the largest node: heap %.0f MiB of %d, resident %d MiB of %d", m.heap/(1<<20), heapBound>>20, m.resident>>20, residentBound>>20)
	require.NotZero(m.t, m.heap, "nodes tell of their memory")
	require.Less(m.t, m.heap, float64(heapBound))
	if os.Getenv(harness.EnvRace) != "1" { // the race detector needs several times as much
		require.Less(m.t, m.resident, int64(residentBound))
	}
}

package shard

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streamhouse/streamhouse/internal/disk"
)

// diskCheckInterval is how old a look at the free space may be.
const diskCheckInterval = 250 * time.Millisecond

// Budget bounds the local logs of all shards of a node together. Safe for concurrent use.
type Budget struct {
	dir          string
	maxLogBytes  int64
	minFreeBytes int64

	mu     sync.RWMutex
	usage  map[uint32]func() int64
	looked atomic.Int64 // Unix nanoseconds
	free   atomic.Int64
}

// NewBudget returns a budget for logs below dir: at most maxLogBytes in all, and minFreeBytes left on the disk.
func NewBudget(dir string, maxLogBytes, minFreeBytes int64) *Budget {
	return &Budget{dir: dir, maxLogBytes: maxLogBytes, minFreeBytes: minFreeBytes, usage: make(map[uint32]func() int64)}
}

func (b *Budget) register(shard uint32, usage func() int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.usage[shard] = usage
}

func (b *Budget) unregister(shard uint32) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.usage, shard)
}

// LogBytes returns the bytes of all local logs.
func (b *Budget) LogBytes() int64 {
	b.mu.RLock()
	defer b.mu.RUnlock()
	var n int64
	for _, f := range b.usage {
		n += f()
	}
	return n
}

// Check returns ErrLogFull or ErrDiskFull when more must not be written, with the numbers in the text.
func (b *Budget) Check() error {
	if used := b.LogBytes(); used >= b.maxLogBytes {
		return fmt.Errorf("%w: %d of %d bytes", ErrLogFull, used, b.maxLogBytes)
	}
	free, err := b.freeBytes()
	if err != nil {
		return fmt.Errorf("look at the free space of %s: %w", b.dir, err)
	}
	if free < b.minFreeBytes {
		return fmt.Errorf("%w: %d of %d bytes are free at %s", ErrDiskFull, free, b.minFreeBytes, b.dir)
	}
	return nil
}

func (b *Budget) freeBytes() (int64, error) {
	now := time.Now().UnixNano()
	if now-b.looked.Load() < int64(diskCheckInterval) {
		return b.free.Load(), nil
	}
	space, err := disk.Look(b.dir)
	if err != nil {
		return 0, err
	}
	b.free.Store(space.Free)
	b.looked.Store(now)
	return space.Free, nil
}

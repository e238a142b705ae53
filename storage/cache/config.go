package cache

import "github.com/prometheus/client_golang/prometheus"

// Config sets up a Cache; the zero value has the defaults.
type Config struct {
	// CapacityBytes bounds the memory of all blocks. Default 256 MiB.
	CapacityBytes int64
	// BlockBytes is the size of a block. Default 1 MiB, or of a memory of less than 16 MiB a 16th.
	BlockBytes int64
	// ReadAheadBlocks is how many blocks are fetched ahead of a sequential read. Default 8; negative is none.
	ReadAheadBlocks int
	// Registerer may be nil.
	Registerer prometheus.Registerer
}

func (c Config) withDefaults() Config {
	if c.CapacityBytes <= 0 {
		c.CapacityBytes = 256 << 20
	}
	if c.BlockBytes <= 0 {
		c.BlockBytes = min(1<<20, max(c.CapacityBytes/16, 1))
	}
	if c.ReadAheadBlocks == 0 {
		c.ReadAheadBlocks = 8
	}
	return c
}

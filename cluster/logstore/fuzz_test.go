package logstore

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hashicorp/raft-wal/types"
	"github.com/stretchr/testify/require"
)

// A scan of any bytes ends, and says of no byte behind the file's end that it is good.
func FuzzScanSegment(f *testing.F) {
	cfg := config(f)
	s := openStore(f, OpenWAL, cfg)
	fill(f, s, 1, 10, 40)
	require.NoError(f, s.Close())
	names, err := filepath.Glob(filepath.Join(cfg.Dir, "*.wal"))
	require.NoError(f, err)
	b, err := os.ReadFile(names[0])
	require.NoError(f, err)
	b = b[:2048]
	info := types.SegmentInfo{BaseIndex: 1, Codec: 1}
	require.Len(f, scanSegment(b, "segment", info).entries, 10)
	f.Add(b)
	f.Add(b[:500])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		sc := scanSegment(b, "segment", info)
		require.LessOrEqual(t, sc.end, int64(len(b)))
		for _, e := range sc.entries {
			require.Less(t, int64(e.position), sc.end)
		}
	})
}

// What is decoded encodes to the slot that was read.
func FuzzDecodeDurable(f *testing.F) {
	f.Add(encodeDurable(slot{seq: 7, index: 1 << 40, stable: 3}))
	f.Add([]byte(durableMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, ok := decodeDurable(b)
		if !ok {
			require.Zero(t, s)
			return
		}
		require.Contains(t, string(b), string(s.encode()))
	})
}

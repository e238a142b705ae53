package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSegmentBytes(t *testing.T) {
	for _, tt := range []struct {
		retain, checkpoint int64
		want               int
	}{
		{0, 1 << 10, 64 << 10},
		{0, 2 << 20, 128 << 10},
		{4 << 20, 2 << 20, 1 << 20},
		{0, 256 << 20, 16 << 20}, // a log of 256 MiB, though nothing is to stay of it
		{256 << 20, 256 << 20, 16 << 20},
		{1 << 40, 1 << 40, 16 << 20},
	} {
		require.Equal(t, tt.want, segmentBytes(tt.retain, tt.checkpoint), "%+v", tt)
	}
}

package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlanObjects: large partitions have objects of their own, and of small ones no object has more than one command can list.
func TestPlanObjects(t *testing.T) {
	runs := map[uint64]memRun{7: {{data: make([]byte, ownObjectBytes)}}}
	for id := range uint64(2*maxSharedPartitions + 1) {
		if id != 7 {
			runs[id] = memRun{{data: []byte("x")}}
		}
	}
	var sizes []int
	seen := make(map[uint64]bool)
	for _, o := range planObjects(runs) {
		sizes = append(sizes, len(o.ids))
		for _, id := range o.ids {
			require.False(t, seen[id])
			seen[id] = true
		}
	}
	require.Len(t, seen, len(runs))
	require.Equal(t, []int{1, maxSharedPartitions, maxSharedPartitions}, sizes)
}

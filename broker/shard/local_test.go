package shard

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMemRunFrom(t *testing.T) {
	run := memRun{mem(t, 10, 5), mem(t, 15, 1), mem(t, 16, 4)} // offsets 10 to 19
	tests := []struct {
		offset int64
		ok     bool
		base   int64
	}{
		{9, false, 0}, {10, true, 10}, {14, true, 10}, {15, true, 15}, {16, true, 16}, {19, true, 16}, {20, false, 0},
	}
	for _, tt := range tests {
		rest, ok := run.from(tt.offset)
		require.Equal(t, tt.ok, ok, "offset %d", tt.offset)
		if ok {
			require.Equal(t, tt.base, rest[0].base, "offset %d", tt.offset)
		}
	}
	_, ok := memRun(nil).from(0)
	require.False(t, ok)
}

func TestTailIsBounded(t *testing.T) {
	one := mem(t, 0, 1)
	tl := newTail(3 * int64(len(one.data)))
	for i := range int64(5) {
		tl.add(uint64(i%2), memBatch{base: i / 2, data: one.data})
	}
	require.LessOrEqual(t, tl.bytes, tl.maxBytes)
	require.Equal(t, int64(1), tl.runs[0][0].base, "the oldest went first")
	tl.drop(0)
	tl.add(1, memBatch{base: 2, data: one.data})
	tl.add(1, memBatch{base: 3, data: one.data})
	require.LessOrEqual(t, tl.bytes, tl.maxBytes)
	var bytes int64
	for _, run := range tl.runs {
		for _, m := range run {
			bytes += int64(len(m.data))
		}
	}
	require.Equal(t, bytes, tl.bytes, "what is counted is what is held")
}

func TestPointIndex(t *testing.T) {
	x := &pointIndex{}
	for i := range uint64(200) {
		x.add(point{base: int64(i), index: 1000 + i}, 100)
	}
	require.Len(t, x.points, 4, "a point every %d entries", pointEntries)
	p, ok := x.floor(130, 0)
	require.True(t, ok)
	require.Equal(t, point{base: 128, index: 1128}, p)
	_, ok = x.floor(130, 1129)
	require.False(t, ok, "the entry was cut")
	x.trim(1100)
	require.Equal(t, uint64(1128), x.points[0].index)
}

// The order of entries in the tail's queue and in its runs stays the same when a partition is dropped and written again.
func TestTailDropAndWriteAgain(t *testing.T) {
	one := mem(t, 0, 1)
	tl := newTail(2 * int64(len(one.data)))
	tl.add(1, memBatch{base: 0, data: one.data})
	tl.drop(1)
	tl.add(2, memBatch{base: 0, data: one.data})
	tl.add(2, memBatch{base: 1, data: one.data})
	tl.add(2, memBatch{base: 2, data: one.data})
	require.Equal(t, int64(1), tl.runs[2][0].base)
	require.LessOrEqual(t, tl.bytes, tl.maxBytes)
}

// A point in the middle of an entry would give the entry's first batch the offset of a later one.
func TestPointIsTheFirstBatchOfItsEntry(t *testing.T) {
	x := &pointIndex{}
	x.add(point{base: 0, index: 7}, pointBytes-100)
	x.add(point{base: 10, index: 8}, 100)
	x.add(point{base: 20, index: 8}, 100)
	x.add(point{base: 30, index: 9}, 100)
	require.Equal(t, []point{{0, 7}, {30, 9}}, x.points)
}

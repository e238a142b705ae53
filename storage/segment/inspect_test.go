package segment

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/record"
)

func TestInspect(t *testing.T) {
	w := NewWriter(source)
	w.Begin(partition(5))
	w.Append(batch(t, record.None, 3, 10, 1000), 100)
	w.Append(batch(t, record.Zstd, 4, 20, 500), 103)
	w.Begin(partition(9))
	for i := range 200 {
		w.Append(batch(t, record.LZ4, 10, 10_000, int64(i)), 10*int64(i))
	}
	for i := range 100 {
		w.Append(batch(t, record.None, 6, 10_000, int64(i)), 2000+6*int64(i))
	}
	s := store(t, w)
	in, err := Inspect(t.Context(), s, objectName, s.object.SizeBytes)
	require.NoError(t, err)
	require.Equal(t, objectName, in.Object)
	require.Equal(t, s.object.SizeBytes, in.SizeBytes)
	require.Equal(t, uint32(formatVersion), in.Version)
	require.Equal(t, source, in.Source)
	require.Len(t, in.Segments, 2)
	first := in.Segments[0]
	require.Equal(t, partition(5), first.Partition)
	require.Equal(t, 1, first.Spans)
	require.Equal(t, map[record.Compression]int64{record.None: 1, record.Zstd: 1}, first.Batches)
	require.Equal(t, []int64{7, 110, 1000}, []int64{first.Records, first.PayloadBytes, first.FirstTimestampMs})
	second := in.Segments[1]
	require.Equal(t, int64(2600), second.Records)
	require.Greater(t, second.Spans, 50)
	require.NoError(t, second.Err)
}

// What is wrong with one segment hides nothing of the others.
func TestInspectGoesOn(t *testing.T) {
	s := small(t)
	s.data[headBytes+70] ^= 1
	in, err := Inspect(t.Context(), s, objectName, s.object.SizeBytes)
	require.ErrorIs(t, err, ErrCorrupt)
	require.ErrorIs(t, in.Segments[0].Err, ErrCorrupt)
	require.NoError(t, in.Segments[1].Err)
	require.Equal(t, int64(2), in.Segments[1].Records)
}

// A footer that is larger than what is read of an object's end takes one read more.
func TestLargeFooter(t *testing.T) {
	w := NewWriter(source)
	b := batch(t, record.None, 1, 1, 1)
	for id := range uint64(2000) {
		w.Begin(partition(id))
		w.Append(b, int64(id))
	}
	s := store(t, w)
	footer, err := ReadFooter(t.Context(), s, objectName, s.object.SizeBytes)
	require.NoError(t, err)
	require.Len(t, footer.GetSegments(), 2000)
	require.Len(t, s.taken(), 2)
	_, err = ReadFooter(t.Context(), small(t), objectName, small(t).object.SizeBytes)
	require.NoError(t, err)
}

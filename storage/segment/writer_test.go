package segment

import (
	"bytes"
	"io"
	"math"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/storage/record"
)

func TestWriterNeverTouchesBatches(t *testing.T) {
	w := NewWriter(source)
	b := batch(t, record.None, 2, 10, 1)
	before := bytes.Clone(b)
	w.Begin(partition(1))
	w.Append(b, 1<<40)
	w.Append(b, 1<<40+2) // the same bytes at another offset
	require.Equal(t, headBytes+2*int64(len(b)), w.SizeBytes())
	s := store(t, w)
	require.Equal(t, before, []byte(b))
	batches, err := record.Split(s.data[headBytes : headBytes+2*int64(len(b))])
	require.NoError(t, err)
	require.Equal(t, int64(1<<40), batches[0].BaseOffset())
	require.Equal(t, int64(1<<40+2), batches[1].BaseOffset())
	_, err = w.Finish()
	require.ErrorIs(t, err, errFinished)
}

func TestWriterDescribesSegments(t *testing.T) {
	s := small(t)
	require.Len(t, s.object.Segments, 2)
	first, second := s.object.Segments[0], s.object.Segments[1]
	require.Equal(t, uint64(5), first.GetPartitionId())
	require.Equal(t, []int64{100, 104, 2000}, []int64{first.GetBaseOffset(), first.GetEndOffset(), first.GetMaxTimestampMs()})
	require.Equal(t, uint64(9), second.GetPartitionId())
	require.Equal(t, []int64{0, 2, 1501}, []int64{second.GetBaseOffset(), second.GetEndOffset(), second.GetMaxTimestampMs()})
	require.Equal(t, first.GetPosition()+first.GetSizeBytes(), second.GetPosition())
	require.Equal(t, second.GetPosition()+second.GetSizeBytes(), first.GetIndexPosition())
}

func TestWriterRefuses(t *testing.T) {
	fine := batch(t, record.None, 2, 10, 1)
	flipped := bytes.Clone(fine)
	flipped[len(flipped)-1] ^= 1
	tests := []struct {
		name  string
		write func(w *Writer)
		err   error
	}{
		{"nothing", func(*Writer) {}, ErrEmpty},
		{"no batches", func(w *Writer) { w.Begin(partition(1)) }, ErrEmpty},
		{"a batch without a partition", func(w *Writer) { w.Append(fine, 0) }, nil},
		{"a partition twice", func(w *Writer) {
			w.Begin(partition(1))
			w.Append(fine, 0)
			w.Begin(partition(1))
		}, nil},
		{"a negative partition number", func(w *Writer) { w.Begin(Partition{Number: -1}) }, nil},
		{"a negative offset", func(w *Writer) { w.Begin(partition(1)); w.Append(fine, -1) }, nil},
		{"an offset that overflows", func(w *Writer) { w.Begin(partition(1)); w.Append(fine, math.MaxInt64-1) }, nil},
		{"a hole", func(w *Writer) { w.Begin(partition(1)); w.Append(fine, 0); w.Append(fine, 3) }, nil},
		{"a flipped bit", func(w *Writer) { w.Begin(partition(1)); w.Append(flipped, 0) }, record.ErrCorrupt},
		{"a batch cut short", func(w *Writer) { w.Begin(partition(1)); w.Append(fine[:len(fine)-1], 0) }, record.ErrTruncated},
		{"two batches in one", func(w *Writer) { w.Begin(partition(1)); w.Append(append(bytes.Clone(fine), fine...), 0) }, record.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := NewWriter(source)
			tt.write(w)
			first := w.err
			w.Begin(partition(2))
			w.Append(fine, 0)
			if first == nil { // only what was added now
				w = NewWriter(source)
				tt.write(w)
			}
			_, err := w.Finish()
			require.Error(t, err)
			if tt.err != nil {
				require.ErrorIs(t, err, tt.err)
			}
		})
	}
}

func TestBody(t *testing.T) {
	s := large(t, 5)
	require.NoError(t, iotest.TestReader(s.object.Body(), s.data))
	one, two := s.object.Body(), s.object.Body()
	_, err := one.Seek(20, io.SeekStart)
	require.NoError(t, err)
	got, err := io.ReadAll(two)
	require.NoError(t, err)
	require.Equal(t, s.data, got, "readers are independent")

	tests := []struct {
		name   string
		offset int64
		whence int
		at     int64
		err    bool
	}{
		{"within a base offset", headBytes + 3, io.SeekStart, headBytes + 3, false},
		{"from here", -4, io.SeekCurrent, 16, false},
		{"from the end", -5, io.SeekEnd, int64(len(s.data)) - 5, false},
		{"behind the end", 5, io.SeekEnd, int64(len(s.data)) + 5, false},
		{"before the beginning", -1, io.SeekStart, 0, true},
		{"from nowhere", 0, 7, 0, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := s.object.Body()
			_, err := r.Seek(20, io.SeekStart)
			require.NoError(t, err)
			at, err := r.Seek(tt.offset, tt.whence)
			require.Equal(t, tt.err, err != nil)
			if err != nil {
				return
			}
			require.Equal(t, tt.at, at)
			rest, err := io.ReadAll(iotest.OneByteReader(r))
			require.NoError(t, err)
			require.True(t, bytes.Equal(s.data[min(at, int64(len(s.data))):], rest))
		})
	}
	_, err = s.object.Body().Seek(-1, io.SeekStart)
	require.ErrorIs(t, err, errSeek)
}

package segment

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

func offsets(tb testing.TB, data []byte) (base, next int64) {
	tb.Helper()
	batches, err := record.Split(data)
	require.NoError(tb, err)
	require.NotEmpty(tb, batches)
	for i, b := range batches[1:] {
		require.Equal(tb, batches[i].NextOffset(), b.BaseOffset())
	}
	return batches[0].BaseOffset(), batches[len(batches)-1].NextOffset()
}

func TestReadEveryOffset(t *testing.T) {
	const n = 40
	s := large(t, n)
	batchBytes := len(batch(t, record.None, 10, 1024, 0))
	r := NewReader(s, 1<<20)
	for _, maxBytes := range []int{-1, 0, 1, batchBytes, 3*batchBytes + 5, 1 << 20, math.MaxInt} {
		for offset := int64(50); offset < 50+10*n; offset++ {
			data, err := r.Read(t.Context(), s.ref(0), offset, maxBytes)
			require.NoError(t, err)
			require.True(t, len(data) <= maxBytes || len(data) <= batchBytes+2, "%d bytes of %d", len(data), maxBytes)
			base, next := offsets(t, data)
			require.Equal(t, offset/10*10, base)
			require.Greater(t, next, offset)
			if maxBytes > 1<<19 {
				require.Equal(t, int64(50+10*n), next, "all that is left")
			}
		}
	}
}

func TestReadTakesOneRead(t *testing.T) {
	s := large(t, 100)
	r := NewReader(s, 1<<20)
	e := s.object.Segments[0]
	_, err := r.Read(t.Context(), s.ref(0), 555, 256<<10)
	require.NoError(t, err)
	reads := s.taken()
	require.Len(t, reads, 2, "index and batches")
	require.Equal(t, fmt.Sprintf("%d+%d", e.GetIndexPosition(), e.GetIndexBytes()), reads[0])
	data, err := r.Read(t.Context(), s.ref(0), 555, 256<<10)
	require.NoError(t, err)
	reads = s.taken()
	require.Len(t, reads, 1, "the index is in memory")
	var at, n int
	_, err = fmt.Sscanf(reads[0], "%d+%d", &at, &n)
	require.NoError(t, err)
	require.Less(t, n, 256<<10+spanBytes+1)
	require.Greater(t, len(data), 256<<10-11<<10, "as much as fits")
}

func TestReadRefusesOffsets(t *testing.T) {
	s := small(t)
	r := NewReader(s, 1<<20)
	for _, offset := range []int64{-1, 0, 99, 104, math.MaxInt64} {
		_, err := r.Read(t.Context(), s.ref(0), offset, 100)
		require.ErrorIs(t, err, ErrOutOfSegment, offset)
	}
	_, err := r.Read(t.Context(), nil, 0, 100)
	require.ErrorIs(t, err, ErrOutOfSegment)
}

func TestReadReturnsTheCause(t *testing.T) {
	s := small(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := NewReader(s, 0)
	_, err := r.Read(ctx, s.ref(0), 100, 100)
	require.ErrorIs(t, err, context.Canceled)
	require.ErrorContains(t, err, objectName)
	_, _, _, err = r.FindTime(ctx, s.ref(0), 0)
	require.ErrorIs(t, err, context.Canceled)
	_, err = ReadFooter(ctx, s, objectName, s.object.SizeBytes)
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, ErrCorrupt)
}

func TestFindTime(t *testing.T) {
	w := NewWriter(source)
	w.Begin(partition(1))
	// Times go back between batches, and the largest is in the middle.
	w.Append(batch(t, record.None, 70, 1024, 5000), 0)   // 5000 to 5069
	w.Append(batch(t, record.Gzip, 70, 1024, 1000), 70)  // 1000 to 1069
	w.Append(batch(t, record.Zstd, 70, 1024, 9000), 140) // 9000 to 9069
	w.Append(batch(t, record.None, 70, 1024, 6000), 210) // 6000 to 6069
	s := store(t, w)
	r := NewReader(s, 1<<20)
	tests := []struct {
		want, offset, ts int64
		found            bool
	}{
		{math.MinInt64, 0, 5000, true},
		{0, 0, 5000, true},
		{5001, 1, 5001, true},
		{5069, 69, 5069, true},
		{5070, 140, 9000, true},
		{9069, 209, 9069, true},
		{9070, 0, 0, false},
		{math.MaxInt64, 0, 0, false},
	}
	for _, tt := range tests {
		offset, ts, found, err := r.FindTime(t.Context(), s.ref(0), tt.want)
		require.NoError(t, err)
		require.Equal(t, []any{tt.offset, tt.ts, tt.found}, []any{offset, ts, found}, tt.want)
	}
	s.taken()
	_, _, _, err := r.FindTime(t.Context(), s.ref(0), 9070)
	require.NoError(t, err)
	require.Empty(t, s.taken(), "the manifest says enough")
	_, _, _, err = r.FindTime(t.Context(), s.ref(0), 9000)
	require.NoError(t, err)
	require.Len(t, s.taken(), 1)
}

// An index that is not in memory any more, or never was, is read again.
func TestIndexCacheIsBounded(t *testing.T) {
	w := NewWriter(source)
	for id := range uint64(50) {
		w.Begin(partition(id))
		w.Append(batch(t, record.None, 1, 10, 1), 0)
	}
	s := store(t, w)
	const capacity = 4000
	r := NewReader(s, capacity)
	for range 2 {
		for i := range s.object.Segments {
			_, err := r.Read(t.Context(), s.ref(i), 0, 100)
			require.NoError(t, err)
			require.LessOrEqual(t, r.indexes.sizeBytes, int64(capacity))
			require.Len(t, r.indexes.byKey, r.indexes.order.Len())
		}
	}
	require.Greater(t, r.indexes.order.Len(), 5)
	s.taken()
	_, err := r.Read(t.Context(), s.ref(49), 0, 100)
	require.NoError(t, err)
	require.Len(t, s.taken(), 1)

	none := NewReader(s, 0)
	for range 2 {
		_, err = none.Read(t.Context(), s.ref(0), 0, 100)
		require.NoError(t, err)
	}
	require.Len(t, s.taken(), 4)
}

func TestReaderIsSafeForConcurrentUse(t *testing.T) {
	s := large(t, 40)
	r := NewReader(s, 1<<20)
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() {
			for offset := int64(50); offset < 450 && errs[i] == nil; offset += 7 {
				_, errs[i] = r.Read(context.Background(), s.ref(0), offset, 100)
			}
		})
	}
	wg.Wait()
	require.NoError(t, errors.Join(errs...))
}

// What the manifest says is not believed beyond what can be.
func TestReadRefusesReferences(t *testing.T) {
	s := small(t)
	tests := map[string]func(e *metav1.SegmentEntry){
		"a position in the magic":     func(e *metav1.SegmentEntry) { e.Position = 7 },
		"a position that overflows":   func(e *metav1.SegmentEntry) { e.Position = math.MaxUint64 },
		"a size of nothing":           func(e *metav1.SegmentEntry) { e.SizeBytes = 0 },
		"a size that overflows":       func(e *metav1.SegmentEntry) { e.SizeBytes = math.MaxUint64 },
		"another size":                func(e *metav1.SegmentEntry) { e.SizeBytes-- },
		"another position":            func(e *metav1.SegmentEntry) { e.Position++ },
		"an index within the segment": func(e *metav1.SegmentEntry) { e.IndexPosition = e.Position },
		"an index behind the end":     func(e *metav1.SegmentEntry) { e.IndexPosition = 1 << 40 },
		"an index that overflows":     func(e *metav1.SegmentEntry) { e.IndexPosition = math.MaxInt64 },
		"another index":               func(e *metav1.SegmentEntry) { e.IndexPosition += minIndexBytes },
		"an index of nothing":         func(e *metav1.SegmentEntry) { e.IndexBytes = 0 },
		"an index of half an entry":   func(e *metav1.SegmentEntry) { e.IndexBytes += 3 },
		"an index without bounds":     func(e *metav1.SegmentEntry) { e.IndexBytes = math.MaxUint64 },
		"more entries than batches":   func(e *metav1.SegmentEntry) { e.IndexBytes += 100 * indexEntryBytes },
		"an index of another entry":   func(e *metav1.SegmentEntry) { e.IndexBytes += indexEntryBytes },
		"another partition":           func(e *metav1.SegmentEntry) { e.PartitionId++ },
		"an end too late":             func(e *metav1.SegmentEntry) { e.EndOffset++ },
		"a base too early":            func(e *metav1.SegmentEntry) { e.BaseOffset-- },
	}
	for name, change := range tests {
		t.Run(name, func(t *testing.T) {
			ref := proto.CloneOf(s.ref(0))
			change(ref.GetEntry())
			_, err := NewReader(s, 0).Read(t.Context(), ref, 101, 100)
			require.ErrorIs(t, err, ErrCorrupt)
			var c *CorruptError
			require.ErrorAs(t, err, &c)
			require.Equal(t, objectName, c.Object)
		})
	}
}

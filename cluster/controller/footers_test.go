package controller

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// TestKeptOrphansAreReadOnce: orphans that are kept, damaged ones too, are not read again each grace period; what is to become
// of them is decided each time, and one that was put back is read.
func TestKeptOrphansAreReadOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newStored(t, nil)
		var reads atomic.Int32
		s.bucket.Before = func(_ context.Context, op, name string) error {
			if op == "GET" && strings.HasSuffix(name, ".seg") {
				reads.Add(1)
			}
			return nil
		}
		s.putSegment("C/00/0/not-listed.seg", 2, 10)
		s.put("C/00/0/damaged.seg")
		pass(90 * time.Minute)
		first := reads.Load()
		require.Positive(t, first)
		pass(3 * hour)
		require.Equal(t, first, reads.Load())
		require.Len(t, s.names(), 2)

		require.NoError(t, s.bucket.Delete(t.Context(), "C/00/0/damaged.seg"))
		s.putSegment("C/00/0/damaged.seg", 2, 20)
		pass(2 * hour)
		require.Greater(t, reads.Load(), first, "it was put back whole")
		first = reads.Load()
		s.trim(2, 20)
		pass(3 * hour)
		require.Equal(t, first, reads.Load())
		require.Equal(t, []string{"C/00/0/damaged.seg"}, s.names(), "the metadata has got to know that the other one is not needed")
	})
}

// TestFootersAreBounded: a bucket full of orphans does not fill the memory, and what is gone makes room.
func TestFootersAreBounded(t *testing.T) {
	var f footers
	footer := &metav1.ObjectFooter{ClusterId: string(bytes.Repeat([]byte("c"), 1<<20))}
	of := func(i int) orphan { return orphan{name: fmt.Sprint(i), sizeBytes: 1} }
	for i := range 100 {
		f.add(of(i), footer)
		f.add(of(i), footer)
	}
	require.LessOrEqual(t, f.bytes, int64(maxFooterBytes))
	require.Len(t, f.read, 15)
	_, known := f.get(of(99))
	require.False(t, known)
	f.keep([]string{"3", "99"})
	require.Len(t, f.read, 1)
	f.add(of(99), footer)
	got, known := f.get(of(99))
	require.True(t, known)
	require.Same(t, footer, got)
	f.keep(nil)
	require.Zero(t, f.bytes)
}

// TestFootersOfManySegmentsAreBounded: it is the memory that counts, not the few bytes in which a segment is encoded.
func TestFootersOfManySegmentsAreBounded(t *testing.T) {
	footer := &metav1.ObjectFooter{ClusterId: "C"}
	for i := range 1000 {
		footer.Segments = append(footer.Segments, &metav1.FooterSegment{
			Entry: &metav1.SegmentEntry{PartitionId: uint64(i), EndOffset: 1, SizeBytes: 1}, Topic: "t", TopicUuid: make([]byte, 16), Partition: 1, Records: 1,
		})
	}
	encoded, err := proto.Marshal(footer)
	require.NoError(t, err)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var f footers
	for i := range 1000 {
		read := new(metav1.ObjectFooter)
		require.NoError(t, proto.Unmarshal(encoded, read))
		f.add(orphan{name: fmt.Sprint(i)}, read)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(maxFooterBytes)*5/4)
	require.Greater(t, len(f.read), 40, "nor is it much less")
}

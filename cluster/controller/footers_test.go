package controller

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

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

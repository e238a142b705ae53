package broker

import (
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// meanwhile runs f beside the caller and gives it time to end, which it does not while it waits for a lock that the caller
// holds. The returned function waits for it.
func meanwhile(f func()) (wait func()) {
	var wg sync.WaitGroup
	ended := make(chan struct{})
	wg.Go(func() {
		defer close(ended)
		f()
	})
	select {
	case <-ended:
	case <-time.After(100 * time.Millisecond):
	}
	return wg.Wait
}

// A topic that comes while the series are held against the view before keeps what it counts.
func TestSyncKeepsATopicOfANewerView(t *testing.T) {
	f := newFixture(t, true)
	var wait func()
	f.meta.onView(func() { // called by sync
		f.meta.createTopic(t, "t", 1, nil)
		wait = meanwhile(func() { f.consumed("t", "", 1) })
	})
	f.syncTopics()
	wait()
	f.syncTopics()
	require.InDelta(t, 1, testutil.ToFloat64(f.metrics.consumerRecords.WithLabelValues("t", "")), 0)
}

// A topic that goes after a call has found it does not come back.
func TestCountsBringNoTopicBack(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 1, nil)
	before := testutil.CollectAndCount(f.metrics.consumerRecords)
	f.meta.onView(func() { // called by known
		f.meta.must(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: topic.UUID[:], TimeMs: 9}}})
	})
	f.consumed("t", "", 1)
	require.Equal(t, before, testutil.CollectAndCount(f.metrics.consumerRecords))
}

// What was told of a partition stays while partitions are held against the view before.
func TestWatermarksKeepAPartitionOfANewerView(t *testing.T) {
	f := newFixture(t, true)
	var wait func()
	var id uint64
	f.meta.onView(func() { // called by sync
		id = f.meta.createTopic(t, "t", 1, nil).PartitionIDs[0]
		wait = meanwhile(func() { f.marks.told(id, 5) })
	})
	f.marks.sync(f.meta.View)
	wait()
	require.EqualValues(t, 5, f.marks.told(id, 0))
}

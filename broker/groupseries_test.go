package broker

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
)

// A group has series while it exists, and is counted as none before and after. A name that no group has makes none.
func TestSeriesGoWithTheGroup(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.syncTopics()
	f.consumed("t", "reader", 1)
	f.CountConsumeError("t", "reader", outOfRange(1, 2, 3))
	count := func() int { return testutil.CollectAndCount(f.metrics.consumerRecords) }
	before := count()
	f.syncGroups(t.Context())
	require.Equal(t, before, count(), "there is no such group")
	require.InDelta(t, 1, testutil.ToFloat64(f.metrics.consumerRecords.WithLabelValues("t", "")), 0)
	require.InDelta(t, 1, testutil.ToFloat64(f.metrics.consumerErrors.WithLabelValues("t", "", typeOutOfRange)), 0)
	require.Empty(t, f.metrics.groups())

	f.beat(t, joining())
	f.consumed("t", "g", 5)
	f.syncGroups(t.Context())
	f.consumed("t", "g", 2)
	require.Equal(t, before+1, count())
	require.InDelta(t, 7, testutil.ToFloat64(f.metrics.consumerRecords.WithLabelValues("t", "g")), 0)

	_, err := f.LeaveGroup(t.Context(), &streamhousev1.LeaveGroupRequest{Group: "g", MemberId: "m", MemberEpoch: 1})
	require.NoError(t, err)
	_, err = f.DeleteGroup(t.Context(), &streamhousev1.DeleteGroupRequest{Group: "g"})
	require.NoError(t, err)
	for range 2 {
		f.syncGroups(t.Context())
		require.Equal(t, before, count())
	}
}

// A group has its series, at 0, on a node that has served nothing to it.
func TestSeriesComeWithTheGroup(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 1, nil)
	f.syncTopics()
	before := testutil.CollectAndCount(f.metrics.consumerRecords)
	coordinator := f.shards[f.coordinator(t, "g")]
	coordinator.set(func() {
		coordinator.offsets["g"] = []shard.GroupOffset{{PartitionID: topic.PartitionIDs[0], Offset: 1}}
	})
	for range 2 {
		f.showGroups()
		require.Equal(t, before+1, testutil.CollectAndCount(f.metrics.consumerRecords))
	}
	require.Equal(t, []string{"g"}, f.metrics.groups())
}

// Records of a group whose coordinator can't be asked wait. Errors do not: without a coordinator all commits fail, and an
// alert looks at that. They stay where they were counted.
func TestRecordsWaitForTheCoordinator(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.syncTopics()
	f.beat(t, joining())
	coordinator := f.shards[f.coordinator(t, "g")]
	leader := coordinator.leader
	coordinator.set(func() { coordinator.leader = "" })
	f.consumed("t", "g", 5)
	f.CountConsumeError("t", "g", noLeader(0))
	f.CountConsumeError("t", "failing", noLeader(0))
	errs := func(group string) float64 {
		return testutil.ToFloat64(f.metrics.consumerErrors.WithLabelValues("t", group, typeUnavailable))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	f.syncGroups(ctx)
	require.InDelta(t, 2, errs(""), 0)
	require.Equal(t, []string{"g"}, f.metrics.groups())
	require.Equal(t, 1, f.metrics.waitingPairs)
	coordinator.set(func() { coordinator.leader = leader })
	f.syncGroups(t.Context())
	require.InDelta(t, 5, testutil.ToFloat64(f.metrics.consumerRecords.WithLabelValues("t", "g")), 0)
	require.InDelta(t, 2, errs(""), 0)
	require.Zero(t, errs("g"))
	f.CountConsumeError("t", "g", noLeader(0))
	require.InDelta(t, 1, errs("g"), 0)
}

// A coordinator that can't be asked does not keep the counts of groups of another one.
func TestCoordinatorsAreAskedAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		f.meta.createTopic(t, "t", 1, nil)
		f.syncTopics()
		names := make([]string, len(f.shards)) // of a group for each shard
		for i := 0; slices.Contains(names, ""); i++ {
			name := fmt.Sprintf("g%d", i)
			names[f.coordinator(t, name)] = name
		}
		for round := range 16 { // shards are asked in any order
			silent := round % len(names)
			leader := f.shards[silent].leader
			f.shards[silent].set(func() { f.shards[silent].leader = "" })
			for _, name := range names {
				f.consumed("t", name, 1)
			}
			f.syncGroups(t.Context())
			require.Equal(t, names[silent:silent+1], f.metrics.groups())
			f.shards[silent].set(func() { f.shards[silent].leader = leader })
			f.syncGroups(t.Context())
			require.Empty(t, f.metrics.groups())
		}
	})
}

// Whatever is counted while topics and groups come and go, no series is left of what is gone.
func TestNoSeriesComesBack(t *testing.T) {
	m, without, with := NewMetrics(nil), viewOf(t), viewOf(t, "t")
	m.sync(without)
	empty := testutil.CollectAndCount(m.consumerErrors)
	emptyProducers := testutil.CollectAndCount(m.producerErrors)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for ctx.Err() == nil {
				m.count("t", "g", 1, typeTimeout)
				m.produceFailed("t", reasonDeadline)
			}
		})
	}
	defer cancel()
	for range 100 {
		m.add("t", with)
		m.count("t", "g", 1, typeTimeout)
		m.settle("g", true)
		runtime.Gosched()
		m.sync(without)
		runtime.Gosched()
		require.Equal(t, empty, testutil.CollectAndCount(m.consumerErrors))
		require.Equal(t, emptyProducers, testutil.CollectAndCount(m.producerErrors))
	}
	cancel()
	wg.Wait()
	m.settle("g", false)
	require.Zero(t, m.pairs)
	require.Zero(t, m.waitingPairs)
	require.Empty(t, m.shown)
	require.Empty(t, m.waiting)
}

// A topic that goes takes with it what waits for it, and leaves what waits for others.
func TestWaitingCountsGoWithTheTopic(t *testing.T) {
	m := NewMetrics(nil)
	m.sync(viewOf(t, "t", "u"))
	m.count("t", "g", 1, "")
	m.count("u", "g", 1, "")
	m.count("t", "h", 1, "")
	require.Equal(t, 3, m.waitingPairs)
	m.sync(viewOf(t, "u"))
	require.Equal(t, 1, m.waitingPairs)
	require.Equal(t, []string{"g"}, m.groups())
	m.settle("g", true)
	require.InDelta(t, 1, testutil.ToFloat64(m.consumerRecords.WithLabelValues("u", "g")), 0)
}

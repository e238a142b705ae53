package broker

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/fsm"
)

// scrapedMarks are those of a scrape of this node, which remembers what was told before.
func (f *fixture) scrapedMarks(told *watermarks) *scrapedMarks {
	m := newScrapedMarks(NewShards(ShardsConfig{NodeID: "n1", Metadata: f.meta, Peers: f.peers}), told)
	m.local = func(number uint32) (scrapedReplica, bool) {
		local, ok := f.local.Local(number)
		if !ok {
			return nil, false
		}
		return local.(*fakeReplica), true
	}
	return m
}

// partition returns a partition as this node's metadata has it.
func (f *fixture) partition(t *testing.T, id uint64) *fsm.Partition {
	t.Helper()
	p, ok := f.meta.View().Partition(id)
	require.True(t, ok)
	return p
}

// A node that hangs costs a scrape one time-out, however many partitions and groups ask for it, and others still answer.
func TestScrapeSurvivesAStalledPeer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, false)
		topic := f.meta.createTopic(t, "t", 8, nil)
		view := f.meta.View()
		stalled := f.peers["n2"] // it leads one of the two shards
		stalled.stalled = true
		marks := f.scrapedMarks(newWatermarks())
		began, known := time.Now(), 0
		for range 3 { // groups
			for _, id := range topic.PartitionIDs {
				p, ok := view.Partition(id)
				require.True(t, ok)
				if _, ok := marks.get(t.Context(), p); ok {
					known++
				}
			}
		}
		require.Equal(t, lagTimeout, time.Since(began))
		require.Equal(t, 1, stalled.count("GetHighWatermark"))
		require.Equal(t, 3*len(topic.PartitionIDs)/2, known)
	})
}

// A replica that was just made has nothing, and one that was away lacks what came meanwhile: neither makes a group's lag small.
func TestScrapeAsksTheLeaderOfAReplicaThatIsBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		id := f.meta.createTopic(t, "t", 2, nil).PartitionIDs[1]
		require.EqualValues(t, 1, f.partition(t, id).Shard, "n2 leads it")
		f.produce(t, 1, "0", "1", "2", "3", "4")
		f.upload(t, id, 3)
		scrape := func(told *watermarks) int {
			mark, ok := f.scrapedMarks(told).get(t.Context(), f.partition(t, id))
			require.True(t, ok)
			return int(mark)
		}
		told := newWatermarks()
		for _, applied := range []int64{0, 4} {
			f.shards[1].set(func() { f.shards[1].applied["n1"] = applied })
			require.Equal(t, 5, scrape(told), "the replica has %d", applied)
		}
		for _, n := range []string{"n2", "n3"} {
			f.peers[n].down = true
		}
		require.Equal(t, 5, scrape(told), "what the leader said before")
		require.Equal(t, 4, scrape(newWatermarks()), "the replica has as much")
		f.shards[1].set(func() { f.shards[1].applied["n1"] = 0 })
		require.Equal(t, 3, scrape(newWatermarks()), "the object store has as much")
	})
}

// A replica that has all that its leader has is asked itself, and its leader once for all partitions.
func TestScrapeAsksOnceForAShard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		const partitions = 8
		ids := f.meta.createTopic(t, "t", partitions, nil).PartitionIDs
		for p := range int32(partitions) {
			f.produce(t, p, "0", "1", "2")
		}
		scrape := func() {
			t.Helper()
			marks := f.scrapedMarks(newWatermarks())
			for _, id := range ids {
				mark, ok := marks.get(t.Context(), f.partition(t, id))
				require.True(t, ok)
				require.EqualValues(t, 3, mark)
			}
			require.Zero(t, f.peers["n2"].count("GetHighWatermark"))
		}
		scrape()
		require.Equal(t, 1, f.peers["n2"].count("GetReplica"))

		// What is on the way comes.
		f.shards[1].set(func() { f.shards[1].applied["n1"] = 2 })
		time.AfterFunc(lagCatchUp/2, func() { f.shards[1].set(func() { delete(f.shards[1].applied, "n1") }) })
		scrape()
		require.Zero(t, f.peers["n3"].count("GetReplica"), "it does not lead")
	})
}

// A leader that hangs costs a scrape one time-out where there is a replica, too.
func TestScrapeSurvivesAStalledLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		ids := f.meta.createTopic(t, "t", 8, nil).PartitionIDs
		f.peers["n2"].stalled = true
		f.shards[1].set(func() { f.shards[1].applied["n1"] = 0 })
		marks, began := f.scrapedMarks(newWatermarks()), time.Now()
		for i, id := range ids {
			_, ok := marks.get(t.Context(), f.partition(t, id))
			require.True(t, ok, fmt.Sprint(i))
		}
		require.Equal(t, lagTimeout, time.Since(began))
	})
}

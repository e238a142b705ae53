package broker

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
)

func TestLag(t *testing.T) {
	for _, c := range []struct{ committed, logStart, highWatermark, want int64 }{
		{5, 0, 9, 4},
		{9, 0, 9, 0},
		{0, 0, 9, 9},
		{-1, 0, 9, 9},
		{-1, 4, 9, 5}, // nothing committed
		{2, 4, 9, 5},  // below the log start
		{12, 0, 9, 0},
		{4, 9, 9, 0}, // an old high watermark, an empty log
	} {
		require.Equal(t, c.want, lag(c.committed, c.logStart, c.highWatermark), "%+v", c)
	}
}

// lagOf collects the lag of one group in one partition.
type lagOf struct {
	*shardsCollector
	marks *scrapedMarks
	at    shard.GroupProgress
}

func (l lagOf) Collect(ch chan<- prometheus.Metric) {
	l.collectLag(context.Background(), ch, l.marks, l.at)
}

// requireScraped checks what is scraped of a group's lag in partition 0 of t; -1 is no series.
func requireScraped(t *testing.T, want int, f *fixture, at shard.GroupProgress) {
	t.Helper()
	c := lagOf{newShardsCollector(NewShards(ShardsConfig{Metadata: f.meta, Peers: f.peers})), f.scrapedMarks(newWatermarks()), at}
	if want < 0 {
		require.Zero(t, testutil.CollectAndCount(c))
		return
	}
	require.Equal(t, 1, testutil.CollectAndCount(c, "streamhouse_consumer_lag"))
	require.InDelta(t, want, testutil.ToFloat64(c), 0)
}

// The scrape and the description of a group tell the same lag, also below the log start and before the first commit, and
// the series goes with the topic.
func TestScrapedLagIsTheDescribedOne(t *testing.T) {
	f := newFixture(t, false)
	topic := f.meta.createTopic(t, "t", 1, nil)
	id := topic.PartitionIDs[0]
	coordinator := f.shards[f.coordinator(t, "g")]
	coordinator.groupTopics = map[string][]uint64{"t": topic.PartitionIDs}
	f.produce(t, 0, "0", "1", "2", "3", "4")
	f.beat(t, joining())
	described := func() int64 {
		return f.describe(t, "g").GetPartitions()[0].GetLag()
	}
	at := shard.GroupProgress{Group: "g", PartitionID: id, Committed: -1}
	requireScraped(t, 5, f, at)
	require.Equal(t, int64(5), described())

	f.upload(t, id, 3)
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_TrimPartition{TrimPartition: &metav1.TrimPartition{PartitionId: id, LogStartOffset: 3}}})
	requireScraped(t, 2, f, at)
	require.Equal(t, int64(2), described())
	coordinator.set(func() { coordinator.offsets["g"] = []shard.GroupOffset{{PartitionID: id, Offset: 1}} })
	at.Committed = 1
	requireScraped(t, 2, f, at)
	require.Equal(t, int64(2), described())

	f.meta.must(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: topic.UUID[:]}}})
	requireScraped(t, -1, f, at)
	require.Empty(t, f.describe(t, "g").GetPartitions())
}

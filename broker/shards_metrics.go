package broker

import (
	"context"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streamhouse/streamhouse/broker/shard"
)

// shardsCollector reads the shards of this node at every scrape.
type shardsCollector struct {
	shards     *Shards
	marks      *watermarks // told at scrapes
	lag        *prometheus.Desc
	leader     *prometheus.Desc
	backlog    *prometheus.Desc
	backlogAge *prometheus.Desc
	log        *prometheus.Desc
	applied    *prometheus.Desc
	commit     *prometheus.Desc
	term       *prometheus.Desc
	behind     *prometheus.Desc
	rebalances *prometheus.Desc
}

var _ prometheus.Collector = (*shardsCollector)(nil)

func newShardsCollector(s *Shards) *shardsCollector {
	byShard := []string{"shard"}
	return &shardsCollector{
		shards: s,
		marks:  newWatermarks(),
		lag: prometheus.NewDesc("streamhouse_consumer_lag",
			"High watermark minus committed offset, or minus log start where that is higher or nothing is committed yet; on the group's coordinator.", []string{"topic", "partition", "consumer_group"}, nil),
		leader: prometheus.NewDesc("streamhouse_shard_leader",
			"1 where this node leads the shard, else 0.", byShard, nil),
		backlog: prometheus.NewDesc("streamhouse_shard_upload_backlog_bytes",
			"Bytes that are committed and not in the object store.", byShard, nil),
		backlogAge: prometheus.NewDesc("streamhouse_shard_upload_backlog_seconds",
			"Time that the oldest record that is not in the object store waits for its upload, on the shard's leader, else 0.", byShard, nil),
		log: prometheus.NewDesc("streamhouse_shard_log_bytes",
			"Bytes of the shard's local log.", byShard, nil),
		applied: prometheus.NewDesc("streamhouse_shard_applied_index",
			"Last Raft index that this replica applied.", byShard, nil),
		commit: prometheus.NewDesc("streamhouse_shard_commit_index",
			"Commit index of the shard, as known here.", byShard, nil),
		term: prometheus.NewDesc("streamhouse_shard_term",
			"Raft term of the shard, as known here.", byShard, nil),
		behind: prometheus.NewDesc("streamhouse_shard_replica_behind_entries",
			"Entries of the leader's log that a follower's node lacks; on the leader.", []string{"shard", "follower"}, nil),
		rebalances: prometheus.NewDesc("streamhouse_consumer_rebalances_total",
			"Generations of the consumer group that completed here, on its coordinator.", []string{"consumer_group"}, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *shardsCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		c.lag, c.leader, c.backlog, c.backlogAge, c.log, c.applied, c.commit, c.term, c.behind, c.rebalances,
	} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *shardsCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), lagsTimeout)
	defer cancel()
	c.marks.sync(c.shards.cfg.Metadata.View)
	marks := newScrapedMarks(c.shards, c.marks)
	for _, sh := range c.shards.All() {
		label := strconv.FormatUint(uint64(sh.Number()), 10)
		leads := 0.0
		if sh.Replica().IsLeader() {
			leads = 1
		}
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label)
		}
		gauge(c.leader, leads)
		gauge(c.backlog, float64(sh.PendingBytes()))
		gauge(c.backlogAge, sh.BacklogAge().Seconds())
		gauge(c.log, float64(sh.Replica().LogBytes()))
		gauge(c.applied, float64(sh.AppliedIndex()))
		gauge(c.commit, float64(sh.Replica().Raft().CommitIndex()))
		gauge(c.term, float64(sh.Replica().Raft().CurrentTerm()))
		for node, behind := range sh.Replica().Behind() {
			ch <- prometheus.MustNewConstMetric(c.behind, prometheus.GaugeValue, float64(behind), label, node)
		}
		for group, completed := range sh.Rebalances() {
			ch <- prometheus.MustNewConstMetric(c.rebalances, prometheus.CounterValue, float64(completed), group)
		}
		for _, at := range sh.Progress() {
			c.collectLag(ctx, ch, marks, at)
		}
	}
}

// lag is how many records a group has still to read of a partition: up to the high watermark, from the committed offset
// (-1 for none), or from the log start where that is higher: what is below is gone, and nobody will read it.
func lag(committed, logStart, highWatermark int64) int64 {
	return max(highWatermark-max(committed, logStart), 0)
}

// collectLag leaves out a partition whose topic is deleted, also before its shard has dropped the offsets, and one whose
// high watermark nobody says.
func (c *shardsCollector) collectLag(ctx context.Context, ch chan<- prometheus.Metric, marks *scrapedMarks, at shard.GroupProgress) {
	p, ok := marks.view.Partition(at.PartitionID)
	if !ok {
		return
	}
	t, ok := marks.view.TopicByUUID(p.TopicUUID)
	if !ok {
		return
	}
	hw, ok := marks.get(ctx, p)
	if !ok {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.lag, prometheus.GaugeValue, float64(lag(at.Committed, p.LogStart, hw)),
		t.Name, strconv.Itoa(int(p.Number)), at.Group)
}

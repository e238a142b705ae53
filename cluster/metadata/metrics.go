package metadata

import (
	"github.com/prometheus/client_golang/prometheus"
)

// collector reads the metadata at scrape.
type collector struct {
	group      func() *Group
	topics     *prometheus.Desc
	shards     *prometheus.Desc
	nodes      *prometheus.Desc
	partitions *prometheus.Desc
	applied    *prometheus.Desc
	commit     *prometheus.Desc
	term       *prometheus.Desc
	leader     *prometheus.Desc
	logBytes   *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

// RegisterMetrics registers the metrics of the group that a function returns, which may be nil at first: a node's metrics
// are there before it is part of a cluster.
func RegisterMetrics(reg prometheus.Registerer, group func() *Group) {
	c := &collector{
		group: group,
		topics: prometheus.NewDesc("streamhouse_topics_total",
			"Topics in the cluster, as this node's metadata has it.", nil, nil),
		shards: prometheus.NewDesc("streamhouse_shards",
			"Shards of the cluster, led or not, as this node's metadata has it.", nil, nil),
		nodes: prometheus.NewDesc("streamhouse_nodes_registered",
			"Nodes that belong to the cluster, alive or not, as this node's metadata has it.", nil, nil),
		partitions: prometheus.NewDesc("streamhouse_partitions_total",
			"Partitions of a topic, as this node's metadata has it.", []string{"topic"}, nil),
		applied: prometheus.NewDesc("streamhouse_metadata_applied_index",
			"Index of the last metadata command that is applied here.", nil, nil),
		commit: prometheus.NewDesc("streamhouse_metadata_commit_index",
			"Commit index of the metadata group, as known here.", nil, nil),
		term: prometheus.NewDesc("streamhouse_metadata_term",
			"Raft term of the metadata group, as known here.", nil, nil),
		leader: prometheus.NewDesc("streamhouse_metadata_leader",
			"1 where this node leads the metadata group.", nil, nil),
		logBytes: prometheus.NewDesc("streamhouse_metadata_log_bytes",
			"Bytes of this node's log of the metadata group.", nil, nil),
	}
	reg.MustRegister(c)
}

// Describe sends the descriptions.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.topics
	ch <- c.shards
	ch <- c.nodes
	ch <- c.partitions
	ch <- c.applied
	ch <- c.commit
	ch <- c.term
	ch <- c.leader
	ch <- c.logBytes
}

// Collect reads one view. Without a group there are no topics, and no shards.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	g := c.group()
	if g == nil {
		gauge(c.topics, 0)
		gauge(c.shards, 0)
		return
	}
	v := g.View()
	r := g.replica.Raft()
	leads := 0.0
	if g.IsLeader() {
		leads = 1
	}
	gauge(c.topics, float64(v.NumTopics()))
	gauge(c.shards, float64(v.NumShards()))
	gauge(c.nodes, float64(len(v.Nodes())))
	gauge(c.applied, float64(v.Index()))
	gauge(c.commit, float64(r.CommitIndex()))
	gauge(c.term, float64(r.CurrentTerm()))
	gauge(c.leader, leads)
	gauge(c.logBytes, float64(g.replica.LogBytes()))
	for t := range v.Topics() {
		ch <- prometheus.MustNewConstMetric(c.partitions, prometheus.GaugeValue, float64(t.NumPartitions()), t.Name)
	}
}

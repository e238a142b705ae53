package metadata

import (
	"github.com/prometheus/client_golang/prometheus"
)

// collector reads the metadata at scrape.
type collector struct {
	group      *Group
	topics     *prometheus.Desc
	partitions *prometheus.Desc
	applied    *prometheus.Desc
	commit     *prometheus.Desc
	term       *prometheus.Desc
	leader     *prometheus.Desc
	logBytes   *prometheus.Desc
}

var _ prometheus.Collector = (*collector)(nil)

// registerMetrics returns what takes the metrics back. A nil registerer is fine.
func registerMetrics(reg prometheus.Registerer, g *Group) (func(), error) {
	if reg == nil {
		return func() {}, nil
	}
	c := &collector{
		group: g,
		topics: prometheus.NewDesc("streamhouse_topics_total",
			"Topics in the cluster, as this node's metadata has it.", nil, nil),
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
	if err := reg.Register(c); err != nil {
		return nil, err
	}
	return func() { reg.Unregister(c) }, nil
}

// Describe sends the descriptions.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.topics
	ch <- c.partitions
	ch <- c.applied
	ch <- c.commit
	ch <- c.term
	ch <- c.leader
	ch <- c.logBytes
}

// Collect reads one view.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	v := c.group.View()
	r := c.group.replica.Raft()
	leads := 0.0
	if c.group.IsLeader() {
		leads = 1
	}
	gauge := func(d *prometheus.Desc, value float64) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value)
	}
	gauge(c.topics, float64(v.NumTopics()))
	gauge(c.applied, float64(v.Index()))
	gauge(c.commit, float64(r.CommitIndex()))
	gauge(c.term, float64(r.CurrentTerm()))
	gauge(c.leader, leads)
	gauge(c.logBytes, float64(c.group.replica.LogBytes()))
	for t := range v.Topics() {
		ch <- prometheus.MustNewConstMetric(c.partitions, prometheus.GaugeValue, float64(t.NumPartitions()), t.Name)
	}
}

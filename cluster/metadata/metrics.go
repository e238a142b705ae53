package metadata

import (
	"github.com/prometheus/client_golang/prometheus"
)

// collector reads the metadata at scrape.
type collector struct {
	group      *Group
	topics     *prometheus.Desc
	partitions *prometheus.Desc
	index      *prometheus.Desc
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
		index: prometheus.NewDesc("streamhouse_metadata_applied_index",
			"Index of the last metadata command that is applied here.", nil, nil),
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
	ch <- c.index
}

// Collect reads one view.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	v := c.group.View()
	ch <- prometheus.MustNewConstMetric(c.topics, prometheus.GaugeValue, float64(v.NumTopics()))
	ch <- prometheus.MustNewConstMetric(c.index, prometheus.GaugeValue, float64(v.Index()))
	for t := range v.Topics() {
		ch <- prometheus.MustNewConstMetric(c.partitions, prometheus.GaugeValue, float64(t.NumPartitions()), t.Name)
	}
}

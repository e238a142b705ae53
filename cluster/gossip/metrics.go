package gossip

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// RegisterMetrics registers the metrics of the gossip that a function returns, which may be nil at first: a node's metrics
// are there before it speaks to others.
func RegisterMetrics(reg prometheus.Registerer, gossip func() *Gossip) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streamhouse_agents_active",
		Help: "Alive members in gossip, this node included.",
	}, func() float64 {
		g := gossip()
		if g == nil {
			return 0
		}
		return float64(len(g.Members()))
	})
}

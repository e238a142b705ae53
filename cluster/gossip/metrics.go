package gossip

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

func registerMetrics(reg prometheus.Registerer, alive func() int) {
	promauto.With(reg).NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streamhouse_agents_active",
		Help: "Alive members in gossip, this node included.",
	}, func() float64 { return float64(alive()) })
}

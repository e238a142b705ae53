package observability

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// NewRegistry returns a registry with the metrics of the Go runtime and of the
// process, the build, and the time since started.
func NewRegistry(started time.Time) *prometheus.Registry {
	reg := prometheus.NewRegistry()
	factory := promauto.With(reg)
	factory.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "streamhouse_uptime_seconds",
		Help: "Time since the node was started.",
	}, func() float64 { return time.Since(started).Seconds() })

	b := Build()
	factory.NewGauge(prometheus.GaugeOpts{
		Name:        "streamhouse_build_info",
		Help:        "1, with the build in the labels.",
		ConstLabels: prometheus.Labels{"version": b.Version, "revision": b.Revision, "goversion": b.GoVersion},
	}).Set(1)

	for _, c := range []prometheus.Collector{
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	} {
		if err := reg.Register(c); err != nil {
			panic(err) // the registry is new and the names are fixed
		}
	}
	return reg
}

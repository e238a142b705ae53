package observability

import (
	"fmt"

	metrics "github.com/hashicorp/go-metrics/compat"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/streamhouse/streamhouse/internal/tracing"
)

// raftSink passes the metrics of hashicorp/raft that are in its tables on to
// Prometheus, and drops all others: the library puts peers' ids into names, and
// those have no bound. The library does not say which group a number is of, so
// the numbers are those of all groups of the process.
type raftSink struct {
	counters map[string]prometheus.Counter
	samples  map[string]raftSample
	commits  *exemplars
}

type raftSample struct {
	observer prometheus.Observer
	factor   float64 // from the library's unit to the base unit
}

var _ metrics.MetricSink = (*raftSink)(nil)

// maxKeyBytes is room for the longest name in the tables.
const maxKeyBytes = 64

// commitTime is what the library calls the time of a commit.
const commitTime = "raft.commitTime"

// raftTimers are durations, which the library gives in milliseconds.
var raftTimers = []struct{ key, name, help string }{
	{commitTime, "commit", "From taking an entry to its commit, on the leader."},
	{"raft.leader.dispatchLog", "leader_store", "Writing entries to the leader's own log."},
	{"raft.rpc.appendEntries.storeLogs", "follower_store", "Writing entries to a follower's log."},
	{"raft.rpc.appendEntries", "append_entries", "Handling an AppendEntries call, on a follower."},
	{"raft.rpc.requestVote", "request_vote", "Handling a RequestVote call."},
	{"raft.rpc.installSnapshot", "install_snapshot", "Taking a snapshot from the leader, on a follower."},
	{"raft.fsm.applyBatch", "apply_batch", "Applying entries to the state machine."},
	{"raft.fsm.snapshot", "snapshot_capture", "Capturing a snapshot of the state machine."},
	{"raft.snapshot.takeSnapshot", "snapshot", "A snapshot from beginning to end."},
	{"raft.compactLogs", "compact", "Cutting the log after a snapshot."},
	{"raft.leader.lastContact", "leader_last_contact", "Time since a leader last heard from each voter, also from one that is dead."},
}

var raftCounters = []struct{ key, kind string }{
	{"raft.state.follower", "follower"},
	{"raft.state.candidate", "candidate"},
	{"raft.state.leader", "leader"},
}

var raftTimeouts = []struct{ key, kind string }{
	{"raft.transition.heartbeat_timeout", "heartbeat"},
	{"raft.transition.leader_lease_timeout", "leader_lease"},
}

func newRaftSink(reg prometheus.Registerer) *raftSink {
	s := &raftSink{counters: make(map[string]prometheus.Counter), samples: make(map[string]raftSample)}
	for _, t := range raftTimers {
		opts := prometheus.HistogramOpts{
			Name:    "streamhouse_raft_" + t.name + "_seconds",
			Help:    t.help,
			Buckets: prometheus.ExponentialBuckets(0.000250, 2, 16),
		}
		h := prometheus.NewHistogram(opts)
		s.samples[t.key] = raftSample{factor: 1e-3, observer: h}
		if t.key == commitTime {
			s.commits = newExemplars(h, opts.Buckets)
			reg.MustRegister(s.commits)
		} else {
			reg.MustRegister(h)
		}
	}
	factory := promauto.With(reg)
	s.samples["raft.thread.fsm.saturation"] = raftSample{factor: 1, observer: factory.NewHistogram(prometheus.HistogramOpts{
		Name:    "streamhouse_raft_fsm_busy_ratio",
		Help:    "Part of the time that the state machine's goroutine works.",
		Buckets: []float64{0.1, 0.25, 0.5, 0.75, 0.9, 0.99},
	})}
	states := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "streamhouse_raft_transitions_total",
		Help: "Replicas of this node that became follower, candidate or leader.",
	}, []string{"state"})
	for _, c := range raftCounters {
		s.counters[c.key] = states.WithLabelValues(c.kind)
	}
	timeouts := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "streamhouse_raft_timeouts_total",
		Help: "Elections called for want of a heartbeat, and leaders that lost their majority.",
	}, []string{"kind"})
	for _, c := range raftTimeouts {
		s.counters[c.key] = timeouts.WithLabelValues(c.kind)
	}
	return s
}

// BridgeRaftMetrics registers the metrics of hashicorp/raft with reg and has
// them counted there from now on. The library counts in one place for the whole
// process, so that with several nodes in a process the last one gets all.
func BridgeRaftMetrics(reg prometheus.Registerer) error {
	cfg := metrics.DefaultConfig("")
	cfg.EnableHostname = false
	cfg.EnableRuntimeMetrics = false
	// The sink drops all others, and the library would first copy them for every number.
	cfg.AllowedLabels = []string{tracing.TraceLabel}
	if _, err := metrics.NewGlobal(cfg, newRaftSink(reg)); err != nil {
		return fmt.Errorf("bridge the metrics of raft: %w", err)
	}
	return nil
}

// appendKey appends the name of a metric, for a look-up that allocates nothing: the library counts several times for every
// entry of a log.
func appendKey(b []byte, parts []string) []byte {
	for i, p := range parts {
		if i > 0 {
			b = append(b, '.')
		}
		b = append(b, p...)
	}
	return b
}

// IncrCounter counts what is in the table.
func (s *raftSink) IncrCounter(parts []string, val float32) {
	var buf [maxKeyBytes]byte
	if c, ok := s.counters[string(appendKey(buf[:0], parts))]; ok && val >= 0 {
		c.Add(float64(val))
	}
}

// IncrCounterWithLabels drops the labels: they are peers' ids.
func (s *raftSink) IncrCounterWithLabels(parts []string, val float32, _ []metrics.Label) {
	s.IncrCounter(parts, val)
}

// AddSample observes what is in the table.
func (s *raftSink) AddSample(parts []string, val float32) {
	var buf [maxKeyBytes]byte
	if m, ok := s.samples[string(appendKey(buf[:0], parts))]; ok {
		m.observer.Observe(float64(val) * m.factor)
	}
}

// AddSampleWithLabels drops the labels of the library: they are peers' ids. Of a trace that has seen a commit the histogram
// of the library's own numbers gets an exemplar.
func (s *raftSink) AddSampleWithLabels(parts []string, val float32, labels []metrics.Label) {
	if len(parts) == 1 && parts[0] == tracing.CommitKey && len(labels) == 1 {
		s.commits.add(float64(val), labels[0].Value)
		return
	}
	s.AddSample(parts, val)
}

// SetGauge does nothing: a gauge of all groups together means nothing.
func (s *raftSink) SetGauge([]string, float32) {}

// SetGaugeWithLabels does nothing.
func (s *raftSink) SetGaugeWithLabels([]string, float32, []metrics.Label) {}

// EmitKey does nothing.
func (s *raftSink) EmitKey([]string, float32) {}

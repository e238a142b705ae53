package observability

import (
	"fmt"
	"slices"

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
	slots   [raftSlots]*raftMetric // by the last part of the name
	commits *exemplars
}

// raftMetric has a counter or an observer.
type raftMetric struct {
	name     []string // the library's, in parts
	counter  prometheus.Counter
	observer prometheus.Observer
	factor   float64 // from the library's unit to the base unit
}

var _ metrics.MetricSink = (*raftSink)(nil)

// raftCommit names the histogram that gets exemplars.
const raftCommit = "commit"

// raftTimers are durations, which the library gives in milliseconds. That names are literals, as they are in the library,
// makes them the same ones in memory, and to compare them cheap.
var raftTimers = []struct {
	key        []string
	name, help string
}{
	{[]string{"raft", "commitTime"}, raftCommit, "From taking an entry to its commit, on the leader."},
	{[]string{"raft", "leader", "dispatchLog"}, "leader_store", "Writing entries to the leader's own log."},
	{[]string{"raft", "rpc", "appendEntries", "storeLogs"}, "follower_store", "Writing entries to a follower's log."},
	{[]string{"raft", "rpc", "appendEntries"}, "append_entries", "Handling an AppendEntries call, on a follower."},
	{[]string{"raft", "rpc", "requestVote"}, "request_vote", "Handling a RequestVote call."},
	{[]string{"raft", "rpc", "installSnapshot"}, "install_snapshot", "Taking a snapshot from the leader, on a follower."},
	{[]string{"raft", "fsm", "applyBatch"}, "apply_batch", "Applying entries to the state machine."},
	{[]string{"raft", "fsm", "snapshot"}, "snapshot_capture", "Capturing a snapshot of the state machine."},
	{[]string{"raft", "snapshot", "takeSnapshot"}, "snapshot", "A snapshot from beginning to end."},
	{[]string{"raft", "compactLogs"}, "compact", "Cutting the log after a snapshot."},
	{[]string{"raft", "leader", "lastContact"}, "leader_last_contact", "Time since a leader last heard from each voter, also from one that is dead."},
}

var raftCounters = []struct {
	key  []string
	kind string
}{
	{[]string{"raft", "state", "follower"}, "follower"},
	{[]string{"raft", "state", "candidate"}, "candidate"},
	{[]string{"raft", "state", "leader"}, "leader"},
}

var raftTimeouts = []struct {
	key  []string
	kind string
}{
	{[]string{"raft", "transition", "heartbeat_timeout"}, "heartbeat"},
	{[]string{"raft", "transition", "leader_lease_timeout"}, "leader_lease"},
}

func newRaftSink(reg prometheus.Registerer) *raftSink {
	s := &raftSink{}
	for _, t := range raftTimers {
		opts := prometheus.HistogramOpts{
			Name:    "streamhouse_raft_" + t.name + "_seconds",
			Help:    t.help,
			Buckets: prometheus.ExponentialBuckets(0.000250, 2, 16),
		}
		h := prometheus.NewHistogram(opts)
		s.add(t.key, &raftMetric{observer: h, factor: 1e-3})
		if t.name == raftCommit {
			s.commits = newExemplars(h, opts.Buckets)
			reg.MustRegister(s.commits)
		} else {
			reg.MustRegister(h)
		}
	}
	factory := promauto.With(reg)
	s.add([]string{"raft", "thread", "fsm", "saturation"}, &raftMetric{factor: 1, observer: factory.NewHistogram(prometheus.HistogramOpts{
		Name:    "streamhouse_raft_fsm_busy_ratio",
		Help:    "Part of the time that the state machine's goroutine works.",
		Buckets: []float64{0.1, 0.25, 0.5, 0.75, 0.9, 0.99},
	})})
	states := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "streamhouse_raft_transitions_total",
		Help: "Replicas of this node that became follower, candidate or leader.",
	}, []string{"state"})
	for _, c := range raftCounters {
		s.add(c.key, &raftMetric{counter: states.WithLabelValues(c.kind)})
	}
	timeouts := factory.NewCounterVec(prometheus.CounterOpts{
		Name: "streamhouse_raft_timeouts_total",
		Help: "Elections called for want of a heartbeat, and leaders that lost their majority.",
	}, []string{"kind"})
	for _, c := range raftTimeouts {
		s.add(c.key, &raftMetric{counter: timeouts.WithLabelValues(c.kind)})
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

// raftSlots is large enough for the names of the tables to have a slot each.
const raftSlots = 64

// raftSlot is a hash of the last part of a name.
func raftSlot(last string) int {
	if last == "" {
		return 0
	}
	return (13*len(last) + int(last[0])) % raftSlots
}

func (s *raftSink) add(name []string, m *raftMetric) {
	slot := &s.slots[raftSlot(name[len(name)-1])]
	if *slot != nil {
		panic(fmt.Sprintf("%v and %v have the same slot: raftSlot needs another factor", (*slot).name, name))
	}
	m.name = name
	*slot = m
}

// find looks a metric up, nil without one. The library counts some twenty times for every entry of a log, mostly what is in no
// table; a map would cost more than all else here, since the caches have lost its memory by the next entry.
func (s *raftSink) find(parts []string) *raftMetric {
	if len(parts) == 0 {
		return nil
	}
	m := s.slots[raftSlot(parts[len(parts)-1])]
	if m == nil || !slices.Equal(m.name, parts) {
		return nil
	}
	return m
}

// IncrCounter counts what is in the table.
func (s *raftSink) IncrCounter(parts []string, val float32) {
	if m := s.find(parts); m != nil && m.counter != nil && val >= 0 {
		m.counter.Add(float64(val))
	}
}

// IncrCounterWithLabels drops the labels: they are peers' ids.
func (s *raftSink) IncrCounterWithLabels(parts []string, val float32, _ []metrics.Label) {
	s.IncrCounter(parts, val)
}

// AddSample observes what is in the table.
func (s *raftSink) AddSample(parts []string, val float32) {
	if m := s.find(parts); m != nil && m.observer != nil {
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

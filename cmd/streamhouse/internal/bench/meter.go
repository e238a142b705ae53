package bench

import (
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
)

// Latencies are kept in microseconds, to three digits, up to an hour.
const (
	latencyUnit   = time.Microsecond
	maxLatency    = time.Hour
	latencyDigits = 3
)

// Meter counts records and keeps latencies. Its methods are safe for concurrent use.
type Meter struct {
	mu             sync.Mutex
	records, bytes int64
	latencies      *hdrhistogram.Histogram
}

// NewMeter returns a meter that has counted nothing.
func NewMeter() *Meter {
	return &Meter{latencies: hdrhistogram.New(1, int64(maxLatency/latencyUnit), latencyDigits)}
}

// Count counts records.
func (m *Meter) Count(records, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records += records
	m.bytes += bytes
}

// Took notes one latency.
func (m *Meter) Took(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_ = m.latencies.RecordValue(int64(min(max(d, latencyUnit), maxLatency) / latencyUnit)) // it is within bounds
}

// Totals returns what was counted.
func (m *Meter) Totals() (records, bytes int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records, m.bytes
}

// Result is what a test has measured.
type Result struct {
	Name           string
	Records, Bytes int64
	Elapsed        time.Duration
	P50, P95, P99  time.Duration
	Max            time.Duration
}

// Result sums up.
func (m *Meter) Result(name string, elapsed time.Duration) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	at := func(percent float64) time.Duration {
		return time.Duration(m.latencies.ValueAtQuantile(percent)) * latencyUnit
	}
	return Result{
		Name: name, Records: m.records, Bytes: m.bytes, Elapsed: elapsed,
		P50: at(50), P95: at(95), P99: at(99), Max: time.Duration(m.latencies.Max()) * latencyUnit,
	}
}

// PerSecond returns records and bytes a second.
func (r Result) PerSecond() (records, bytes float64) {
	s := max(r.Elapsed.Seconds(), 1e-6)
	return float64(r.Records) / s, float64(r.Bytes) / s
}

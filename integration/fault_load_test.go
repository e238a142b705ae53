package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/simulation/history"
)

const (
	// loadTopic is written by producers of the client and read by a group and through every node.
	loadTopic = "orders"
	// batchTopic is written by calls, in batches.
	batchTopic = "batches"
	// patience bounds how long clients may need to end after all faults are healed.
	patience = 2 * time.Minute
	// mostUndecided is the share of searches for an order that may prove nothing.
	mostUndecided = 0.1
	// staleWithin is for how long a leader that was cut off may still answer: the default of --raft-lease-timeout, and
	// what a busy machine adds.
	staleWithin = 2 * time.Second
)

// loadConfig says what clients do.
type loadConfig struct {
	// partitions of both topics.
	partitions int32
	// every is the time between two records of a producer in a partition.
	every time.Duration
	// hurried adds a producer that gives records up after a while, so that some end without a known outcome.
	hurried bool
	// topics come and go all the time.
	topics bool
}

// load is clients at work on a cluster, and the history of what they did and saw: idempotent producers with several
// batches under way, a consumer group that commits, reads through each node, and topics that come and go.
type load struct {
	t       *testing.T
	c       *harness.Cluster
	cfg     loadConfig
	h       *history.History
	ledger  *harness.Ledger
	batches *harness.Producer
	group   *loadGroup
	acked   atomic.Int64

	stopProducers, stopOthers func()

	mu        sync.Mutex
	unplaced  map[string]bool // guarded by mu; values that were acknowledged without an offset
	outcomes  map[string]int  // guarded by mu; of records, by kind
	slowest   time.Duration   // guarded by mu; from Produce to promise
	firstLost error           // guarded by mu; the first record that was not acknowledged by a patient producer
}

// newLoad creates the first topic, and starts nothing.
func newLoad(t *testing.T, c *harness.Cluster, cfg loadConfig) *load {
	t.Helper()
	l := &load{t: t, c: c, cfg: cfg, h: history.New(), unplaced: make(map[string]bool), outcomes: make(map[string]int)}
	l.h.Lease, l.h.LinearizeTimeout = staleWithin, 20*time.Second
	c.CreateTopic(loadTopic, cfg.partitions, nil)
	return l
}

// startLoad creates the topics and starts all clients.
func startLoad(t *testing.T, c *harness.Cluster, cfg loadConfig) *load {
	t.Helper()
	l := newLoad(t, c, cfg)
	l.ledger = harness.NewLedger(batchTopic)
	c.CreateTopic(batchTopic, cfg.partitions, nil)
	l.batches = c.StartProducer(l.ledger, harness.ProducerConfig{
		Name: "b", Partitions: cfg.partitions, Every: 4 * cfg.every, Window: 5, BatchRecords: 5,
	})
	names := map[string]client.ProducerConfig{"patient": {}}
	if cfg.hurried {
		names["hurried"] = client.ProducerConfig{DeliveryTimeout: 2 * time.Second}
	}
	var stops []func()
	for name, pc := range names {
		stops = append(stops, l.produce(name, pc))
	}
	l.stopProducers = func() {
		for _, stop := range stops {
			stop()
		}
		l.batches.Stop(t)
	}
	l.group = startLoadGroup(t, l)
	l.stopOthers = l.background()
	l.waitMore(int64(4 * cfg.partitions)) // the first record of a topic fails at once where no node can be reached
	return l
}

// produce writes numbered records to all partitions until the returned function is called.
func (l *load) produce(name string, cfg client.ProducerConfig) (stop func()) {
	cfg.Partitioner, cfg.BatchBytes = client.Manual, 4<<10
	p, err := client.NewProducer(l.c.Client(client.Config{}), cfg)
	require.NoError(l.t, err)
	ctx, cancel := context.WithCancel(l.t.Context())
	var wg sync.WaitGroup
	for partition := range l.cfg.partitions {
		wg.Go(func() {
			tick := time.NewTicker(l.cfg.every)
			defer tick.Stop()
			for i := 0; ctx.Err() == nil; i++ {
				if err := l.produceOne(p, name, partition, i); err != nil { //nolint:contextcheck // what is handed over is not taken back
					l.t.Errorf("%s, partition %d: %v", name, partition, err)
					return
				}
				<-tick.C
			}
		})
	}
	return func() {
		cancel()
		wg.Wait()
		closing, cancel := context.WithTimeout(context.WithoutCancel(l.t.Context()), patience)
		defer cancel()
		if err := p.Close(closing); err != nil && cfg.DeliveryTimeout == 0 {
			l.t.Errorf("close producer %s: %v", name, err)
		}
	}
}

func (l *load) produceOne(p *client.Producer, name string, partition int32, number int) error {
	value := fmt.Sprintf("%s/%d/%d/%s", name, partition, number, strings.Repeat("x", 80))
	op := l.h.Produce(name, history.Partition{Topic: loadTopic, Number: partition}, value)
	began := time.Now()
	return p.Produce(l.t.Context(), &client.Record{Topic: loadTopic, Partition: partition, Value: []byte(value)}, func(r *client.Record, err error) {
		l.promised(op, name, r, err, time.Since(began))
	})
}

// promised notes how a record ended.
func (l *load) promised(op *history.Produce, name string, r *client.Record, err error, after time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.slowest = max(l.slowest, after)
	switch {
	case err == nil && r.Offset < 0:
		l.unplaced[string(r.Value)] = true
		op.Unknown(errors.New("acknowledged, without an offset"))
	case err == nil:
		op.OK(r.Offset)
	case errors.Is(err, client.ErrOutcomeUnknown):
		l.outcomes["unknown"]++
		op.Unknown(err)
	default:
		l.outcomes["refused"]++
		op.Fail(err)
	}
	if err == nil {
		l.outcomes["acknowledged"]++
		l.acked.Add(1)
	} else if name == "patient" && l.firstLost == nil {
		l.firstLost = fmt.Errorf("partition %d: %w", r.Partition, err)
	}
}

// waitMore waits until so many more records of the client's producers are acknowledged.
func (l *load) waitMore(more int64) {
	l.t.Helper()
	want := l.acked.Load() + more
	harness.Eventually(l.t, syncWithin, fmt.Sprintf("%d more records", more), func(context.Context) error {
		if n := l.acked.Load(); n < want {
			return fmt.Errorf("%d of %d", n, want)
		}
		return nil
	})
}

// finish ends all clients, once the cluster is whole again, reads everything back through each node, and checks the
// history. It returns how many records were acknowledged.
func (l *load) finish() int64 {
	l.t.Helper()
	l.c.WaitInSync(syncWithin)
	l.waitMore(20) // whoever waits before it tries again has had its turn
	l.stopProducers()
	l.group.finish()
	l.stopOthers()
	l.c.WaitInSync(syncWithin)
	violations := l.check()
	l.ledger.Verify(l.t, l.c.Running()...)
	l.mu.Lock()
	defer l.mu.Unlock()
	require.NoError(l.t, l.firstLost, "a patient producer's record was not acknowledged")
	l.t.Logf("%d records acknowledged to the client's producers and %d in batches: %d lost, duplicated, reordered or otherwise wrong; outcomes %v, slowest record %v; %s",
		l.acked.Load(), l.ledger.Acked(), violations, l.outcomes, l.slowest.Round(time.Millisecond), l.group)
	return l.acked.Load() + l.ledger.Acked()
}

// check reads everything back through each node that runs, and checks the history. It returns how much of it is wrong.
func (l *load) check() (violations int) {
	l.t.Helper()
	for _, n := range l.c.Running() {
		l.readBack(n)
	}
	all := l.h.Check()
	for _, v := range all {
		l.t.Error(v)
	}
	searches, undecided := l.h.Searches()
	l.t.Logf("%d of %d searches for an order undecided", undecided, searches)
	require.LessOrEqual(l.t, float64(undecided), mostUndecided*float64(searches), "searches for an order that proved nothing")
	return len(all)
}

// readBack reads all that a node has.
func (l *load) readBack(n *harness.Node) {
	l.t.Helper()
	ends, err := n.HighWatermarks(l.t.Context(), loadTopic)
	require.NoErrorf(l.t, err, "high watermarks through %s", n.ID)
	ctx, cancel := context.WithCancel(l.t.Context())
	defer cancel()
	stuck := time.AfterFunc(patience, cancel) // an hour's records may take long, the next of them may not
	defer stuck.Stop()
	for partition, end := range ends {
		records := make([]history.Record, 0, end)
		err := n.Read(ctx, loadTopic, partition, 0, end, func(r *consumedRecord) error {
			stuck.Reset(patience)
			records = append(records, history.Record{Offset: r.GetOffset(), Value: string(r.GetValue())})
			return nil
		})
		require.NoErrorf(l.t, err, "partition %d through %s", partition, n.ID)
		l.h.ReadBack(n.ID, history.Partition{Topic: loadTopic, Number: partition}, 0, end, records)
		if l.group != nil {
			l.group.requireProcessed(partition, end)
		}
		there := make(map[string]bool, len(records))
		for _, r := range records {
			there[r.Value] = true
		}
		l.mu.Lock()
		for v := range l.unplaced {
			if strings.Split(v, "/")[1] == fmt.Sprint(partition) && !there[v] {
				l.t.Errorf("LOST: %q was acknowledged, and %s does not have it", v, n.ID)
			}
		}
		l.mu.Unlock()
	}
}

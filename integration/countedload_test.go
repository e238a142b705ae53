package integration_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// loadRecords and loadValueBytes are the size of each batch that a load writes.
	loadRecords    = 3
	loadValueBytes = 100
	// loadReads is how many records a load asks for at once.
	loadReads = 5
	// archived is how many records history has written, and archiveBlocks how many blocks of the cache they take.
	archived, archiveBlocks = 5, 3
)

// tally is what callers know of their calls: of those that failed, and of those under way, what the cluster has done of
// them is not known. Safe for concurrent use.
type tally struct {
	mu        sync.Mutex
	begun, ok int
	records   int           // that calls returned
	spent     time.Duration // in calls that have ended
	running   map[int]time.Time
}

// do makes a call that returns a number of records.
func (c *tally) do(ctx context.Context, call func(context.Context) (int, error)) error {
	c.mu.Lock()
	id := c.begun
	c.begun++
	if c.running == nil {
		c.running = make(map[int]time.Time)
	}
	c.running[id] = time.Now()
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	records, err := call(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spent += time.Since(c.running[id])
	delete(c.running, id)
	if err == nil {
		c.ok++
		c.records += records
	}
	return err
}

// answered is how many calls succeeded.
func (c *tally) answered() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ok
}

// calls is how many were made.
func (c *tally) calls() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(c.begun)
}

// failed is how many calls failed, or may yet.
func (c *tally) failed() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(c.begun - c.ok)
}

// served is how many records may have been sent, where each call asks for so many at most.
func (c *tally) served(most int) float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return float64(c.records + (c.begun-c.ok)*most)
}

// seconds is how long all calls took so far.
func (c *tally) seconds() float64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.spent
	for _, began := range c.running {
		all += time.Since(began)
	}
	return all.Seconds()
}

// countedLoad does again and again what moves each counter, through all nodes in turn, dead ones too, and counts what it did.
type countedLoad struct {
	w         *workload
	survivors []*harness.Node // replicas that are not killed

	writes, reads, history, refused, asks tally // refused are of producers, asks of consumers; all of them fail

	puts    map[string]bool // objects that S3 had been sent at the beginning
	stored  int             // objects that it had
	cancel  context.CancelFunc
	running sync.WaitGroup
}

// startLoad starts one, on a topic of its own.
func (w *workload) startLoad() *countedLoad {
	w.t.Helper()
	w.c.CreateTopic("feed", 2, nil)
	w.commit(w.outsider, "churn", "feed", 0)
	w.commit(w.outsider, "readers", "feed", 0)
	l := &countedLoad{w: w, puts: w.putObjects(), survivors: w.survivors()}
	var err error
	l.stored, err = w.storedObjects(w.t.Context())
	require.NoError(w.t, err)
	ctx, cancel := context.WithCancel(w.t.Context())
	l.cancel = cancel
	w.t.Cleanup(l.stop)
	for partition := range int32(2) {
		l.again(ctx, 20*time.Millisecond, func(ctx context.Context, i int) { l.write(ctx, partition, i) })
	}
	l.again(ctx, 50*time.Millisecond, func(ctx context.Context, i int) {
		if l.writes.answered() > 100 { // they are where it reads
			l.read(ctx, i)
		}
	})
	l.again(ctx, 200*time.Millisecond, l.readHistory)
	l.again(ctx, 100*time.Millisecond, l.refuse)
	l.again(ctx, 200*time.Millisecond, l.churn)
	l.again(ctx, 5*time.Second, l.failUploads)
	return l
}

// stop ends it. It may be called again.
func (l *countedLoad) stop() {
	l.cancel()
	l.running.Wait()
}

// again calls f at each tick until ctx ends, with the number of the call.
func (l *countedLoad) again(ctx context.Context, every time.Duration, f func(context.Context, int)) {
	l.running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
				f(ctx, i)
			case <-ctx.Done():
				return
			}
		}
	})
}

// node is the one whose turn it is.
func (l *countedLoad) node(i int) *harness.Node { return l.w.c.Nodes[i%len(l.w.c.Nodes)] }

func (l *countedLoad) write(ctx context.Context, partition int32, i int) {
	req := &streamhousev1.ProduceBatchRequest{Topic: "feed", Partition: &partition}
	for range loadRecords {
		req.Records = append(req.Records, &streamhousev1.Record{Value: []byte(strings.Repeat("v", loadValueBytes))})
	}
	if i%50 == 0 {
		req.Acks = streamhousev1.Acks_ACKS_DURABLE // it is uploaded only for those who wait
	}
	_ = l.writes.do(ctx, func(ctx context.Context) (int, error) {
		_, err := l.node(i).ProduceBatch(ctx, req)
		return loadRecords, err
	})
}

// read reads from replicas that are not killed: they never need the cache, as one does that is far behind.
func (l *countedLoad) read(ctx context.Context, i int) {
	_ = l.reads.do(ctx, func(ctx context.Context) (int, error) {
		res, err := l.survivors[i%len(l.survivors)].Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "feed", Group: "readers", MaxRecords: loadReads, Offset: int64(i % 50)})
		return len(res.GetRecords()), err
	})
}

// readHistory reads through the cache of the node that has no replica.
func (l *countedLoad) readHistory(ctx context.Context, _ int) {
	_ = l.history.do(ctx, func(ctx context.Context) (int, error) {
		res, err := l.w.outsider.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "archive", Group: "auditors", MaxBytes: 8 << 20})
		return len(res.GetRecords()), err
	})
}

// refuse asks for what is not there.
func (l *countedLoad) refuse(ctx context.Context, i int) {
	_ = l.refused.do(ctx, func(ctx context.Context) (int, error) {
		_, err := l.node(i).ProduceBatch(ctx, batchOf("feed", 9, 1))
		return 0, err
	})
	_ = l.asks.do(ctx, func(ctx context.Context) (int, error) {
		_, err := l.node(i).Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "feed", Group: "readers", Offset: 1 << 40})
		return 0, err
	})
}

// churn has a member join the group, or leave it: each is a generation.
func (l *countedLoad) churn(ctx context.Context, i int) {
	ctx, cancel := context.WithTimeout(ctx, callWithin)
	defer cancel()
	req := &streamhousev1.GroupHeartbeatRequest{Group: "churn", MemberId: fmt.Sprint("m", i), Sequence: 1, Topics: []string{"feed"}, SessionTimeoutMs: 1_000}
	res, err := l.node(i).GroupHeartbeat(ctx, req)
	if err == nil {
		_, _ = l.node(i+1).LeaveGroup(ctx, &streamhousev1.LeaveGroupRequest{Group: "churn", MemberId: req.GetMemberId(), MemberEpoch: res.GetMemberEpoch()})
	}
}

// failUploads has S3 ask once to slow down, or refuse once.
func (l *countedLoad) failUploads(_ context.Context, i int) {
	status := http.StatusServiceUnavailable
	if i%2 == 1 {
		status = http.StatusForbidden
	}
	l.w.c.Proxy.Heal() // where nothing was uploaded since
	l.w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Status: status, Times: 1})
}

// more waits until much more was done.
func (l *countedLoad) more() {
	l.w.t.Helper()
	writes, reads := l.writes.answered(), l.reads.answered()
	harness.Eventually(l.w.t, syncWithin, "the load goes on", func(context.Context) error {
		if w, r := l.writes.answered()-writes, l.reads.answered()-reads; w < 100 || r < 20 {
			return fmt.Errorf("%d writes, %d reads", w, r)
		}
		return nil
	})
}

// served waits until a node has answered, and where it is the one without a replica, has read through its cache.
func (l *countedLoad) served(n *harness.Node) {
	l.w.t.Helper()
	harness.Eventually(l.w.t, syncWithin, n.ID+" serves", func(ctx context.Context) error {
		err := l.asks.do(ctx, func(ctx context.Context) (int, error) {
			_, err := n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "feed", Offset: 1 << 40})
			return 0, err
		})
		if reason := harness.Reason(err); reason != "OFFSET_OUT_OF_RANGE" {
			return fmt.Errorf("%s: %w", reason, err)
		}
		return nil
	})
	if n != l.w.outsider {
		return
	}
	from := l.history.answered()
	harness.Eventually(l.w.t, syncWithin, n.ID+" reads history", func(context.Context) error {
		if l.history.answered() == from {
			return errors.New("not yet")
		}
		return nil
	})
}

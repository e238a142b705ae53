package integration_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// slowestRequest is how long a request may take while nodes are restarted in an orderly way, retries included.
	slowestRequest = time.Second
	// restartAttempts is how often a rolling restart is tried: a machine that is busy with other things may take a second
	// for any request.
	restartAttempts = 4
)

// requests are calls of clients that are timed, retries included.
type requests struct {
	t *testing.T

	mu      sync.Mutex
	count   int           // guarded by mu
	slowest time.Duration // guarded by mu
	what    string        // guarded by mu; the slowest one
	errs    []error       // guarded by mu
}

func (r *requests) note(what string, began time.Time, err error) {
	took := time.Since(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.count++
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s after %v: %w", what, took, err))
	}
	if took > r.slowest {
		r.slowest, r.what = took, what
	}
}

// take returns what was noted since the last call.
func (r *requests) take() (count int, slowest time.Duration, what string) {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(r.t, r.errs, "a request failed")
	count, slowest, what = r.count, r.slowest, r.what
	r.count, r.slowest, r.what = 0, 0, ""
	return count, slowest, what
}

// run calls f again and again until ctx ends.
func (r *requests) run(ctx context.Context, what string, f func(ctx context.Context, i int) error) {
	each(ctx, 10*time.Millisecond, func(i int) {
		began := time.Now()
		r.note(what, began, f(context.WithoutCancel(ctx), i))
	})
}

// startRequests sends requests of all kinds to a cluster until the returned function is called: writes to all partitions,
// reads of their ends, and commits.
func startRequests(t *testing.T, c *harness.Cluster, partitions int) (r *requests, stop func()) {
	t.Helper()
	r = &requests{t: t}
	cl := c.Client(client.Config{})
	admin := client.NewAdmin(cl)
	p, err := client.NewProducer(cl, client.ProducerConfig{Partitioner: client.Manual})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for partition := range partitions {
		wg.Go(func() {
			each(ctx, 5*time.Millisecond, func(i int) { //nolint:contextcheck // what is handed over is not taken back
				began := time.Now()
				record := &client.Record{Topic: loadTopic, Partition: int32(partition), Value: fmt.Append(nil, i)}
				err := p.Produce(t.Context(), record, func(_ *client.Record, err error) { r.note("produce", began, err) })
				if err != nil {
					r.note("produce", began, err)
				}
			})
		})
	}
	wg.Go(func() {
		r.run(ctx, "end of a partition", func(ctx context.Context, i int) error {
			_, err := admin.ListOffsets(ctx, loadTopic, client.LogEnd, int32(i%partitions))
			return err
		})
	})
	wg.Go(func() {
		r.run(ctx, "commit", func(ctx context.Context, i int) error {
			group := fmt.Sprintf("group-%d", i%7) // they have different coordinators
			return admin.CommitOffsets(ctx, group, loadTopic, map[int32]client.Committed{0: {Offset: 0}})
		})
	})
	return r, func() {
		cancel()
		wg.Wait()
		require.NoError(t, p.Close(t.Context()))
	}
}

// All nodes are restarted one after the other under load: no request fails, retries included, and none takes above a
// second. It does not run beside other tests, for it holds a cluster to a time.
func TestRollingRestartUnderLoad(t *testing.T) {
	const partitions = 6
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic(loadTopic, partitions, nil)
	r, stop := startRequests(t, c, partitions)
	lasting(t, 2*time.Second) // connections are made, leaders are known
	r.take()
	for attempt := 1; ; attempt++ {
		lasting(t, 3*time.Second)
		quietCount, quiet, _ := r.take()
		for _, n := range c.Nodes {
			n.Stop()
			n.Start()
			c.WaitInSync(syncWithin)
			lasting(t, time.Second)
		}
		count, slowest, what := r.take()
		t.Logf("attempt %d: %d requests while all nodes were restarted, the slowest (%s) took %v; before that %d requests, the slowest %v",
			attempt, count, what, slowest.Round(time.Millisecond), quietCount, quiet.Round(time.Millisecond))
		if slowest <= slowestRequest {
			break
		}
		require.Less(t, attempt, restartAttempts, "a request took %v in every rolling restart", slowest)
	}
	stop()
	count, _, _ := r.take()
	t.Logf("%d more requests, none failed", count)
}

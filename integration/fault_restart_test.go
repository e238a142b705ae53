package integration_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

const (
	// slowestRequest is how long a request may take while nodes are restarted in an orderly way, retries included.
	slowestRequest = time.Second
	// slowShare is the share of requests of a kind that may take longer: a busy machine stands still now and then, for
	// clients too. An election that an orderly restart should not have cost is a multiple of it.
	slowShare = 0.001
	// restartRounds is how often all nodes are restarted; all rounds count.
	restartRounds = 3
)

// requests are calls of clients that are timed, retries included.
type requests struct {
	t *testing.T

	mu    sync.Mutex
	times map[string][]time.Duration // guarded by mu; by kind
	errs  []error                    // guarded by mu
	acked map[recordAt]time.Time     // guarded by mu
}

type recordAt struct {
	partition int32
	offset    int64
}

func (r *requests) note(what string, began time.Time, err error) {
	took := time.Since(began)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.errs = append(r.errs, fmt.Errorf("%s after %v: %w", what, took, err))
	}
	r.times[what] = append(r.times[what], took)
}

// requestKinds are those that startRequests sends.
var requestKinds = []string{"produce", "end of a partition", "commit", "heartbeat", "consume", "consume in group", "commit in group"}

// missing returns an error while there was no request of some kind: a member of a group gets partitions with a heartbeat,
// and not always with the first.
func (r *requests) missing() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, what := range requestKinds {
		if len(r.times[what]) == 0 {
			return fmt.Errorf("no %s yet", what)
		}
	}
	return nil
}

// take returns what was noted since the last call.
func (r *requests) take() map[string][]time.Duration {
	r.t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	require.Empty(r.t, r.errs, "a request failed")
	times := r.times
	r.times = make(map[string][]time.Duration)
	return times
}

// runEvery is the time between two calls of a kind.
const runEvery = 10 * time.Millisecond

// run calls f again and again until ctx ends. A call that holds others up counts for those too.
func (r *requests) run(ctx context.Context, what string, f func(ctx context.Context, i int) error) {
	each(ctx, runEvery, func(i int) {
		began := time.Now()
		r.note(what, began, f(context.WithoutCancel(ctx), i))
		for due := began.Add(runEvery); time.Since(due) > runEvery; due = due.Add(runEvery) {
			r.note(what, due, nil)
		}
	})
}

// tooSlow returns how many of these took longer than a request may, and whether that is more than a busy machine explains.
func tooSlow(times []time.Duration) (slow int, isTooSlow bool) {
	for _, took := range times {
		if took > slowestRequest {
			slow++
		}
	}
	return slow, float64(slow) > slowShare*float64(len(times))
}

// judge checks, of each kind of request, that hardly any took long.
func judge(t *testing.T, times map[string][]time.Duration) {
	t.Helper()
	for _, what := range slices.Sorted(maps.Keys(times)) {
		list := slices.Sorted(slices.Values(times[what]))
		slow, isTooSlow := tooSlow(list)
		at := func(q float64) time.Duration { return list[int(q*float64(len(list)-1))].Round(time.Millisecond) }
		t.Logf("%s: %d, median %v, 99.9th percentile %v, slowest %v, %d above %v", what, len(list), at(0.5), at(1-slowShare), at(1), slow, slowestRequest)
		if isTooSlow {
			t.Errorf("%s: %d of %d took more than %v", what, slow, len(list), slowestRequest)
		}
	}
}

// startRequests sends requests of all kinds to a cluster until the returned function is called: writes to all partitions,
// reads of them by a consumer and by a member of a group, which commits, reads of their ends, commits by nobody, and
// heartbeats.
func startRequests(t *testing.T, c *harness.Cluster, partitions int) (r *requests, stop func()) {
	t.Helper()
	r = &requests{t: t, times: make(map[string][]time.Duration), acked: make(map[recordAt]time.Time)}
	cl := c.Client(client.Config{})
	admin := client.NewAdmin(cl)
	p, err := client.NewProducer(cl, client.ProducerConfig{Partitioner: client.Manual})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	for partition := range partitions {
		wg.Go(func() { r.produce(ctx, p, int32(partition)) })
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
	wg.Go(func() { r.run(ctx, "heartbeat", heartbeats(c)) })
	all := make([]client.TopicPartition, partitions)
	for i := range all {
		all[i] = client.TopicPartition{Topic: loadTopic, Partition: int32(i)}
	}
	for what, cfg := range map[string]client.ConsumerConfig{
		"consume":          {Partitions: all},
		"consume in group": {Group: groupName, Topics: []string{loadTopic}, ManualCommit: true},
	} {
		consumer, err := client.NewConsumer(c.Client(client.Config{}), cfg)
		require.NoError(t, err)
		wg.Go(func() { r.consume(ctx, what, consumer) })
	}
	return r, func() {
		cancel()
		wg.Wait()
		require.NoError(t, p.Close(t.Context()))
	}
}

// produce writes to a partition until ctx ends.
func (r *requests) produce(ctx context.Context, p *client.Producer, partition int32) {
	each(ctx, 5*time.Millisecond, func(i int) { //nolint:contextcheck // what is handed over is not taken back
		began := time.Now()
		record := &client.Record{Topic: loadTopic, Partition: partition, Value: fmt.Append(nil, i)}
		err := p.Produce(r.t.Context(), record, func(rec *client.Record, err error) {
			r.note("produce", began, err)
			r.mu.Lock()
			defer r.mu.Unlock()
			r.acked[recordAt{partition, rec.Offset}] = time.Now()
		})
		if err != nil {
			r.note("produce", began, err)
		}
	})
}

// consume reads until ctx ends, and times from the acknowledgement of a record until it is there. In a group it commits
// what it has read.
func (r *requests) consume(ctx context.Context, what string, consumer *client.Consumer) {
	for ctx.Err() == nil {
		records, err := consumer.Poll(ctx)
		if err != nil && ctx.Err() == nil {
			r.note(what, time.Now(), err)
		}
		for i := range records {
			r.mu.Lock()
			began, ok := r.acked[recordAt{records[i].Partition, records[i].Offset}]
			r.mu.Unlock()
			if !ok {
				began = time.Now() // it is here before its acknowledgement
			}
			r.note(what, began, nil)
		}
		if len(records) > 0 && what != "consume" {
			began := time.Now()
			r.note("commit in group", began, consumer.CommitRecords(context.WithoutCancel(ctx), records...))
		}
	}
	if err := consumer.Close(context.WithoutCancel(ctx)); err != nil {
		r.t.Errorf("close the consumer: %v", err)
	}
}

// heartbeats returns what sends a heartbeat of a member through the nodes in turn.
func heartbeats(c *harness.Cluster) func(ctx context.Context, i int) error {
	req := &streamhousev1.GroupHeartbeatRequest{Group: "beating", MemberId: "m", Topics: []string{loadTopic}}
	return func(ctx context.Context, i int) error {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		clients := make([]*harness.Client, len(c.Nodes))
		for j := range clients {
			clients[j] = c.Nodes[(i+j)%len(c.Nodes)].Client
		}
		return harness.Retry(ctx, clients, func(ctx context.Context, n *harness.Client) error {
			req.Sequence++
			resp, err := n.GroupHeartbeat(ctx, req)
			if err == nil {
				req.MemberEpoch, req.Owned = resp.GetMemberEpoch(), resp.GetAssigned()
			}
			return err
		})
	}
}

// All nodes are restarted one after the other under load, again and again: no request fails, retries included, and hardly
// any takes above a second. It does not run beside other tests, for it holds a cluster to a time.
func TestRollingRestartUnderLoad(t *testing.T) {
	const partitions = 6
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic(loadTopic, partitions, nil)
	r, stop := startRequests(t, c, partitions)
	harness.Eventually(t, time.Minute, "the first request of each kind", func(context.Context) error { return r.missing() })
	lasting(t, 3*time.Second) // connections are made, leaders are known, consumers have caught up
	r.take()
	for range restartRounds {
		for _, n := range c.Nodes {
			n.Stop()
			n.Start()
			c.WaitInSync(syncWithin)
			lasting(t, time.Second)
		}
	}
	times := r.take()
	stop()
	judge(t, times)
	r.take() // none of the last ones failed
}

// An outage in one of many restarts is seen; that the machine stood still for a moment is not held against the nodes.
func TestOneOutageIsTooSlow(t *testing.T) {
	for outage, seen := range map[time.Duration]bool{1010 * time.Millisecond: false, 1500 * time.Millisecond: true} {
		t.Run(outage.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := &requests{t: t, times: make(map[string][]time.Duration)}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				r.run(ctx, "call", func(_ context.Context, i int) error {
					if i == 100 {
						lasting(t, outage)
					}
					return nil
				})
				slow, isTooSlow := tooSlow(r.take()["call"])
				require.Positive(t, slow)
				require.Equal(t, seen, isTooSlow, "%d calls", slow)
			})
		})
	}
}

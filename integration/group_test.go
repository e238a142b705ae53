package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// groupName is the group of all tests here.
const groupName = "workers"

// lines returns the lines of the sample logs.
func lines(t *testing.T) [][]byte {
	t.Helper()
	var out [][]byte
	for _, path := range harness.TestData(t) {
		b, err := os.ReadFile(path)
		require.NoError(t, err)
		out = append(out, bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n"))...)
	}
	return out
}

// feed writes lines again and again until it is stopped, and knows what is where.
type feed struct {
	mu   sync.Mutex
	sums map[int32]map[int64]uint32 // by partition and offset
	errs []error
	stop func()
}

func startFeed(t *testing.T, c *harness.Cluster, topic string, perSecond int) *feed {
	t.Helper()
	f := &feed{sums: make(map[int32]map[int64]uint32)}
	p, err := client.NewProducer(c.Client(client.Config{}), client.ProducerConfig{Compression: client.CompressionSnappy})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	input := lines(t)
	var wg sync.WaitGroup
	wg.Go(func() {
		const perTick = 20
		tick := time.NewTicker(time.Second / time.Duration(perSecond/perTick))
		defer tick.Stop()
		for i := 0; ; i++ {
			if i%perTick == 0 {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
			}
			value := input[i%len(input)]
			err := p.Produce(t.Context(), &client.Record{Topic: topic, Key: fmt.Append(nil, i), Value: value}, f.acked) //nolint:contextcheck // what is handed over is not taken back
			if err != nil {
				f.acked(nil, err)
				return
			}
		}
	})
	f.stop = func() {
		cancel()
		wg.Wait()
		require.NoError(t, p.Close(t.Context()))
	}
	return f
}

func (f *feed) acked(r *client.Record, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		f.errs = append(f.errs, err)
		return
	}
	if f.sums[r.Partition] == nil {
		f.sums[r.Partition] = make(map[int64]uint32)
	}
	f.sums[r.Partition][r.Offset] = harness.Sum(r.Value)
}

// processed collects what consumers have processed: how often, by partition and offset.
func processed(t *testing.T, consumers []*harness.Consumer, f *feed) map[int32]map[int64]int {
	t.Helper()
	times := make(map[int32]map[int64]int)
	for _, c := range consumers {
		for _, e := range c.Events(t) {
			if e.Kind != harness.Processed {
				continue
			}
			if times[e.Partition] == nil {
				times[e.Partition] = make(map[int64]int)
			}
			for i, sum := range e.Sums {
				offset := e.Offset + int64(i)
				times[e.Partition][offset]++
				require.Equal(t, f.sums[e.Partition][offset], sum, "%s: partition %d, offset %d is not what was written", c.Name, e.Partition, offset)
			}
		}
	}
	return times
}

// requireAllProcessed checks that each record was processed, none skipped, and returns how many came more than once.
func requireAllProcessed(t *testing.T, consumers []*harness.Consumer, f *feed) (records, again int) {
	t.Helper()
	require.Empty(t, f.errs)
	times := processed(t, consumers, f)
	for p, sums := range f.sums {
		for offset := range sums {
			require.Positive(t, times[p][offset], "partition %d, offset %d was skipped", p, offset)
			records++
			if times[p][offset] > 1 {
				again++
			}
		}
	}
	return records, again
}

// tenure is for how long a consumer owned a partition.
type tenure struct {
	owner    string
	from, to time.Time
}

// tenures reads who owned what from what the consumers told. cut has when a consumer was killed or paused: the
// coordinator may give its partitions to others once its session has ended, and no sooner.
func tenures(t *testing.T, consumers []*harness.Consumer, cut map[string]time.Time) map[int32][]tenure {
	t.Helper()
	out := make(map[int32][]tenure)
	for _, c := range consumers {
		open := make(map[int32]time.Time)
		end := func(p int32, at time.Time) {
			if when, ok := cut[c.Name]; ok && when.After(open[p]) && when.Before(at) {
				at = when
			}
			out[p] = append(out[p], tenure{c.Name, open[p], at})
			delete(open, p)
		}
		for _, e := range c.Events(t) {
			for _, p := range e.Partitions {
				switch e.Kind {
				case harness.Assigned:
					require.NotContains(t, open, p, "%s was assigned partition %d twice", c.Name, p)
					open[p] = e.At
				case harness.Revoked, harness.Lost:
					require.Contains(t, open, p, "%s gave up partition %d, which it did not have", c.Name, p)
					end(p, e.At)
				}
			}
		}
		for p := range maps.Clone(open) {
			end(p, time.Now())
		}
	}
	return out
}

func requireOneOwner(t *testing.T, all map[int32][]tenure) (handovers int) {
	t.Helper()
	for p, list := range all {
		slices.SortFunc(list, func(a, b tenure) int { return a.from.Compare(b.from) })
		for i := 1; i < len(list); i++ {
			handovers++
			require.False(t, list[i].from.Before(list[i-1].to), "partition %d is %s's until %s, and %s's from %s",
				p, list[i-1].owner, list[i-1].to, list[i].owner, list[i].from)
		}
	}
	return handovers
}

// waitGroup waits until a group is stable with so many members, and for all its partitions owned.
func waitGroup(t *testing.T, a *client.Admin, members int) client.Group {
	t.Helper()
	var g client.Group
	harness.Eventually(t, syncWithin, fmt.Sprintf("%d members", members), func(ctx context.Context) error {
		var err error
		if g, err = a.DescribeGroup(ctx, groupName); err != nil {
			return err
		}
		if g.State != client.GroupStable || len(g.Members) != members {
			return fmt.Errorf("%s with %d members", g.State, len(g.Members))
		}
		return nil
	})
	return g
}

func waitNoLag(t *testing.T, a *client.Admin) {
	t.Helper()
	harness.Eventually(t, syncWithin, "no lag", func(ctx context.Context) error {
		g, err := a.DescribeGroup(ctx, groupName)
		if err == nil && g.Lag() > 0 {
			err = fmt.Errorf("lag is %d", g.Lag())
		}
		return err
	})
}

func spec(c *harness.Cluster) harness.ConsumerSpec {
	return harness.ConsumerSpec{Addrs: c.Addrs(), Group: groupName, Topic: "logs", Session: 4 * time.Second, MaxPollRecords: 50, Work: 20 * time.Millisecond}
}

// Members come and go as they should, so each record is processed once.
func TestGroupWithoutFailures(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("logs", 12, nil)
	a := client.NewAdmin(c.Client(client.Config{}))
	f := startFeed(t, c, "logs", 1000)
	var all []*harness.Consumer
	join := func() {
		all = append(all, c.StartConsumer(fmt.Sprintf("consumer-%d", len(all)), spec(c)))
	}
	for range 4 {
		join()
	}
	waitGroup(t, a, 4)
	for range 6 {
		join()
	}
	g := waitGroup(t, a, 10)
	for _, m := range g.Members {
		require.Contains(t, []int{1, 2}, len(m.Assigned), "12 partitions over 10 members")
	}
	for _, leaver := range all[:7] {
		require.NoError(t, leaver.Terminate(syncWithin))
	}
	waitGroup(t, a, 3)
	f.stop()
	waitNoLag(t, a)
	for _, leaver := range all[7:] {
		require.NoError(t, leaver.Terminate(syncWithin))
	}
	records, again := requireAllProcessed(t, all, f)
	require.Zero(t, again, "nothing failed, so nothing is processed twice")
	handovers := requireOneOwner(t, tenures(t, all, nil))
	t.Logf("%d records, %d handovers", records, handovers)
	g, err := a.DescribeGroup(t.Context(), groupName)
	require.NoError(t, err)
	require.Equal(t, client.GroupEmpty, g.State)
}

// Ten consumers over twelve partitions, while members join, leave, are killed and paused, and coordinators are killed:
// every record is processed, and no partition has two owners at once.
func TestGroupUnderFailures(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil), Network: true})
	c.CreateTopic("logs", 12, nil)
	a := client.NewAdmin(c.Client(client.Config{}))
	f := startFeed(t, c, "logs", 1000)
	var all []*harness.Consumer
	join := func() {
		all = append(all, c.StartConsumer(fmt.Sprintf("consumer-%d", len(all)), spec(c)))
	}
	for range 10 {
		join()
	}
	stable := waitGroup(t, a, 10)
	stopWatch := watchOwners(t, a)
	cut := make(map[string]time.Time)
	for range harness.Repeat(5) {
		killCoordinator(t, c, a)
		waitGroup(t, a, 10)
		isolateCoordinator(t, c, a)
		waitGroup(t, a, 10)

		killed, paused, leaver := all[len(all)-1], all[len(all)-2], all[len(all)-3]
		cut[killed.Name], cut[paused.Name] = time.Now(), time.Now()
		killed.Kill()
		require.NoError(t, paused.Pause())
		require.NoError(t, leaver.Terminate(syncWithin))
		join()
		killCoordinator(t, c, a)
		waitGroup(t, a, 8)
		resumed := time.Now()
		require.NoError(t, paused.Resume())
		waitGroup(t, a, 9)
		join()
		waitGroup(t, a, 10)
		requireDropped(t, paused, resumed)
	}
	requireFenced(t, c, stable)
	stopWatch()
	f.stop()
	waitNoLag(t, a)
	for _, m := range all {
		if m.Running() {
			require.NoError(t, m.Terminate(syncWithin))
		}
	}
	records, again := requireAllProcessed(t, all, f)
	handovers := requireOneOwner(t, tenures(t, all, cut))
	t.Logf("%d records, %d of them more than once, %d handovers", records, again, handovers)
}

// killCoordinator kills the node that coordinates the group, and starts it again once another does.
func killCoordinator(t *testing.T, c *harness.Cluster, a *client.Admin) {
	t.Helper()
	g, err := a.DescribeGroup(t.Context(), groupName)
	require.NoError(t, err)
	n := c.Node(g.Coordinator)
	n.Kill()
	harness.Eventually(t, syncWithin, "another coordinator", func(ctx context.Context) error {
		now, err := a.DescribeGroup(ctx, groupName)
		if err == nil && now.Coordinator == n.ID {
			err = fmt.Errorf("it is still %s", n.ID)
		}
		return err
	})
	n.Start()
}

// isolateCoordinator cuts the node that coordinates the group off from the others until another does. Members still reach
// it, and must not be told anything by it that counts.
func isolateCoordinator(t *testing.T, c *harness.Cluster, a *client.Admin) {
	t.Helper()
	g, err := a.DescribeGroup(t.Context(), groupName)
	require.NoError(t, err)
	n := c.Node(g.Coordinator)
	others := c.Others(n)
	c.Network.Isolate(n, others...)
	harness.Eventually(t, syncWithin, "another coordinator", func(ctx context.Context) error {
		now, err := others[0].DescribeGroup(ctx, &streamhousev1.DescribeGroupRequest{Group: groupName})
		if err == nil && now.GetCoordinator() == n.ID {
			err = fmt.Errorf("it is still %s", n.ID)
		}
		return err
	})
	c.Network.Heal()
}

// watchOwners looks at the coordinator's own record all the time, until it is stopped: what it has granted to one member
// and not taken back it must not have granted to another.
func watchOwners(t *testing.T, a *client.Admin) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	looks := 0
	wg.Go(func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for ; ctx.Err() == nil; looks++ {
			<-tick.C
			g, err := a.DescribeGroup(ctx, groupName)
			if err != nil {
				continue // a coordinator has just died
			}
			owner := make(map[client.TopicPartition]string)
			for _, m := range g.Members {
				for _, tp := range slices.Concat(m.Assigned, m.Revoking) {
					if other := owner[tp]; other != "" {
						t.Errorf("%s is granted to %s and %s", tp, other, m.ID)
					}
					owner[tp] = m.ID
				}
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
		t.Logf("looked at the owners %d times", looks)
	}
}

// requireDropped checks that a consumer that was paused beyond its session returned nothing of what it had read ahead:
// after the first Poll that began when it was resumed it has lost its partitions before it processes anything.
func requireDropped(t *testing.T, c *harness.Consumer, resumed time.Time) {
	t.Helper()
	polled := false
	for _, e := range c.Events(t) {
		if e.At.Before(resumed) {
			continue
		}
		switch {
		case e.Kind == harness.PollBegin:
			polled = true
		case e.Kind == harness.Lost:
			return
		case e.Kind == harness.Processed && polled:
			t.Fatalf("%s processed partition %d, offset %d, of a session that had ended", c.Name, e.Partition, e.Offset)
		}
	}
	t.Fatalf("%s was never told that its session had ended", c.Name)
}

// requireFenced checks that members of an earlier time can't commit: neither those that are gone nor those that have
// reached a newer epoch since.
func requireFenced(t *testing.T, c *harness.Cluster, earlier client.Group) {
	t.Helper()
	for _, m := range earlier.Members {
		for _, tp := range m.Assigned {
			_, err := c.Running()[0].CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{
				Group: groupName, Topic: tp.Topic, MemberId: m.ID, MemberEpoch: m.Epoch,
				Offsets: []*streamhousev1.CommittedOffset{{Partition: tp.Partition, Offset: 0}},
			})
			require.Contains(t, []string{"UNKNOWN_MEMBER", "FENCED_MEMBER_EPOCH"}, harness.Reason(err))
		}
	}
}

package grafana_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// workload makes a cluster do all that panels show: it writes, reads new records in groups and old ones from the object
// store, asks for what it can't get, and has the object store fail.
type workload struct {
	cluster   *harness.Cluster
	consumers []*harness.Consumer
	cancel    context.CancelFunc
	running   sync.WaitGroup
	producer  *client.Producer
	joins     int // of joinAndLeave
}

// groups are the consumer groups, by the topic that they read.
var groups = map[string]string{"orders": "workers", "clicks": "billing"}

func startWorkload(t *testing.T, c *harness.Cluster, p *harness.Prometheus) *workload {
	t.Helper()
	w := &workload{cluster: c}
	for topic := range groups {
		c.CreateTopic(topic, 3, nil)
	}
	var err error
	w.producer, err = client.NewProducer(c.Client(client.Config{}), client.ProducerConfig{})
	require.NoError(t, err)
	for i := range 2 {
		for topic, group := range groups {
			w.consumers = append(w.consumers, c.StartConsumer(fmt.Sprintf("%s-%d", group, i), harness.ConsumerSpec{
				Addrs: c.Addrs(), Group: group, Topic: topic, Session: 4 * time.Second, MaxPollRecords: 10, Work: 200 * time.Millisecond,
			}))
		}
		// A counter must be seen before it moves, else there is no rate of it.
		p.WaitValue(time.Minute, "count(count by (consumer_group) (streamhouse_consumer_rebalances_total))", float64(len(groups)))
	}
	ctx, cancel := context.WithCancel(t.Context())
	w.cancel = cancel
	t.Cleanup(w.running.Wait)
	t.Cleanup(cancel)
	w.again(ctx, 50*time.Millisecond, w.write)
	w.again(ctx, 200*time.Millisecond, w.readHistory)
	w.again(ctx, 500*time.Millisecond, w.askForNothing)
	w.again(ctx, 2*time.Second, w.failUploads)
	w.again(ctx, 5*time.Second, w.joinAndLeave)
	return w
}

// again calls f at each tick until ctx ends.
func (w *workload) again(ctx context.Context, every time.Duration, f func(context.Context)) {
	w.running.Go(func() {
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				f(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
}

func (w *workload) write(ctx context.Context) {
	for topic := range groups {
		for i := range 10 {
			_ = w.producer.Produce(ctx, &client.Record{Topic: topic, Key: fmt.Append(nil, i), Value: make([]byte, 200)}, nil)
		}
	}
}

// readHistory reads the beginning of a topic on each node, with a group and without.
func (w *workload) readHistory(ctx context.Context) {
	for _, n := range w.cluster.Nodes {
		for topic, group := range groups {
			for _, g := range []string{group, ""} {
				_, _ = n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: topic, Group: g, MaxRecords: 20, MaxWait: durationpb.New(0)})
			}
		}
	}
}

// askForNothing asks for topics and offsets that are not there.
func (w *workload) askForNothing(ctx context.Context) {
	n := w.cluster.Nodes[0]
	for topic, group := range groups {
		_, _ = n.Produce(ctx, &streamhousev1.ProduceRequest{Topic: "no-" + topic, Record: &streamhousev1.Record{}})
		_, _ = n.Produce(ctx, &streamhousev1.ProduceRequest{Topic: topic, Partition: new(int32(99)), Record: &streamhousev1.Record{}})
		_, _ = n.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: topic, Group: group, Offset: 1 << 40})
	}
}

// failUploads has the object store be slow down once, and refuse once.
func (w *workload) failUploads(context.Context) {
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusForbidden} {
		w.cluster.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Status: status, Times: 1})
	}
}

// joinAndLeave lets groups rebalance: a member comes and goes.
func (w *workload) joinAndLeave(ctx context.Context) {
	n := w.cluster.Nodes[0]
	w.joins++
	id := fmt.Sprintf("restless-%d", w.joins)
	for topic, group := range groups {
		res, err := n.GroupHeartbeat(ctx, &streamhousev1.GroupHeartbeatRequest{
			Group: group, MemberId: id, Sequence: 1, Topics: []string{topic}, SessionTimeoutMs: 1000,
		})
		if err == nil {
			_, _ = n.LeaveGroup(ctx, &streamhousev1.LeaveGroupRequest{Group: group, MemberId: id, MemberEpoch: res.GetMemberEpoch()})
		}
	}
}

// stop ends all of it, the consumers first, and returns how far the groups are behind then.
func (w *workload) stop(t *testing.T) (lag float64) {
	t.Helper()
	for _, c := range w.consumers {
		require.NoError(t, c.Terminate(30*time.Second))
	}
	w.cancel()
	w.running.Wait()
	require.NoError(t, w.producer.Close(t.Context()))
	w.cluster.Proxy.Heal()

	admin := client.NewAdmin(w.cluster.Client(client.Config{}))
	total := int64(0)
	for topic, group := range groups {
		committed, err := admin.CommittedOffsets(t.Context(), group, topic)
		require.NoError(t, err)
		ends, err := admin.ListOffsets(t.Context(), topic, client.LogEnd)
		require.NoError(t, err)
		for p, end := range ends {
			total += end - committed[p].Offset
		}
	}
	require.Positive(t, total, "the groups are behind")
	return float64(total)
}

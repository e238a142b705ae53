package integration_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// heartbeat sends one of a member of the group, with changes.
func heartbeat(change func(*streamhousev1.GroupHeartbeatRequest)) func(context.Context, *harness.Node) error {
	return func(ctx context.Context, n *harness.Node) error {
		req := &streamhousev1.GroupHeartbeatRequest{Group: groupName, MemberId: "stranger", Sequence: 1, Topics: []string{"orders"}}
		change(req)
		_, err := n.GroupHeartbeat(ctx, req)
		return err
	}
}

// commitAs commits offset 1 of partition 0, with changes.
func commitAs(member string, epoch int32, change func(*streamhousev1.CommittedOffset)) func(context.Context, *harness.Node) error {
	return func(ctx context.Context, n *harness.Node) error {
		o := &streamhousev1.CommittedOffset{Offset: 1}
		change(o)
		_, err := n.CommitOffset(ctx, &streamhousev1.CommitOffsetRequest{
			Group: groupName, Topic: "orders", MemberId: member, MemberEpoch: epoch, Offsets: []*streamhousev1.CommittedOffset{o},
		})
		return err
	}
}

// numberedCommit commits offset 1 of partition 0 as member "static", which counts its commits.
func numberedCommit(ctx context.Context, n *harness.Node, epoch int32, sequence int64) error {
	_, err := n.CommitOffset(ctx, &streamhousev1.CommitOffsetRequest{
		Group: groupName, Topic: "orders", MemberId: "static", MemberEpoch: epoch, CommitSequence: sequence,
		Offsets: []*streamhousev1.CommittedOffset{{Offset: 1}},
	})
	return err
}

// badGroupCalls are about a group whose member "static" owns partitions 0 and 1 in its epoch, and "other" none.
func badGroupCalls(epoch int32) []badCall {
	asItIs := func(*streamhousev1.CommittedOffset) {}
	invalid := func(name, field string, change func(*streamhousev1.GroupHeartbeatRequest)) badCall {
		return badCall{name: name, call: heartbeat(change), code: codes.InvalidArgument, reason: "INVALID_FIELD", field: field}
	}
	long := strings.Repeat("x", 250)
	return []badCall{
		{name: "commit in a stale epoch", call: commitAs("static", epoch-1, asItIs), code: codes.FailedPrecondition, reason: "FENCED_MEMBER_EPOCH"},
		{name: "commit in an epoch to come", call: commitAs("static", epoch+1, asItIs), code: codes.FailedPrecondition, reason: "FENCED_MEMBER_EPOCH"},
		{name: "commit for a partition of another member", call: commitAs("other", epoch, asItIs), code: codes.FailedPrecondition, reason: "PARTITION_NOT_OWNED"},
		{
			name: "commit behind a newer one", code: codes.FailedPrecondition, reason: "STALE_COMMIT",
			call: func(ctx context.Context, n *harness.Node) error {
				if err := numberedCommit(ctx, n, epoch, 7); err != nil {
					return err
				}
				return numberedCommit(ctx, n, epoch, 6)
			},
		},
		{
			name: "commit with a sequence below 0", code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "commit_sequence",
			call: func(ctx context.Context, n *harness.Node) error { return numberedCommit(ctx, n, epoch, -1) },
		},
		{name: "commit by a stranger", call: commitAs("stranger", epoch, asItIs), code: codes.FailedPrecondition, reason: "UNKNOWN_MEMBER"},
		{name: "commit by nobody", call: commitAs("", 0, asItIs), code: codes.FailedPrecondition, reason: "GROUP_NOT_EMPTY"},
		{
			name: "commit beyond the high watermark", call: commitAs("static", epoch, func(o *streamhousev1.CommittedOffset) { o.Offset = 1000 }),
			code: codes.OutOfRange, reason: "OFFSET_OUT_OF_RANGE", metadata: []string{"log_start_offset", "high_watermark"},
		},
		{
			name: "commit for a topic that had the name before", call: commitAs("static", epoch, func(o *streamhousev1.CommittedOffset) { o.PartitionId = 1 << 40 }),
			code: codes.NotFound, reason: "TOPIC_NOT_FOUND",
		},
		{name: "heartbeat of a stranger", call: heartbeat(func(r *streamhousev1.GroupHeartbeatRequest) { r.MemberEpoch = epoch }), code: codes.FailedPrecondition, reason: "UNKNOWN_MEMBER"},
		{name: "heartbeat in a stale epoch", call: heartbeat(func(r *streamhousev1.GroupHeartbeatRequest) {
			r.MemberId, r.InstanceId, r.MemberEpoch, r.Sequence = "static", "one", epoch+9, 100
		}), code: codes.FailedPrecondition, reason: "FENCED_MEMBER_EPOCH"},
		{
			name: "a second member with an instance id", call: heartbeat(func(r *streamhousev1.GroupHeartbeatRequest) { r.InstanceId = "one" }),
			code: codes.FailedPrecondition, reason: "INSTANCE_ID_IN_USE",
		},
		invalid("no group", "group", func(r *streamhousev1.GroupHeartbeatRequest) { r.Group = "" }),
		invalid("a group's name of 250 characters", "group", func(r *streamhousev1.GroupHeartbeatRequest) { r.Group = long }),
		invalid("a member id with a space", "member_id", func(r *streamhousev1.GroupHeartbeatRequest) { r.MemberId = "a b" }),
		invalid("an instance id of 250 characters", "instance_id", func(r *streamhousev1.GroupHeartbeatRequest) { r.InstanceId = long }),
		invalid("a topic's name with an umlaut", "topics", func(r *streamhousev1.GroupHeartbeatRequest) { r.Topics = []string{"bücher"} }),
		invalid("a session of half a second", "session_timeout_ms", func(r *streamhousev1.GroupHeartbeatRequest) { r.SessionTimeoutMs = 500 }),
		{name: "describe an unknown group", call: func(ctx context.Context, n *harness.Node) error {
			_, err := n.DescribeGroup(ctx, &streamhousev1.DescribeGroupRequest{Group: "nobody"})
			return err
		}, code: codes.NotFound, reason: "GROUP_NOT_FOUND", says: "nobody"},
		{name: "delete a group with members", call: func(ctx context.Context, n *harness.Node) error {
			_, err := n.DeleteGroup(ctx, &streamhousev1.DeleteGroupRequest{Group: groupName})
			return err
		}, code: codes.FailedPrecondition, reason: "GROUP_NOT_EMPTY"},
	}
}

// join sends heartbeats of a member until it has its epoch and nothing more to wait for.
func join(t *testing.T, n *harness.Node, req *streamhousev1.GroupHeartbeatRequest) *streamhousev1.GroupHeartbeatResponse {
	t.Helper()
	req.Group, req.Topics = groupName, []string{"orders"}
	req.Sequence++
	res, err := n.GroupHeartbeat(call(t), req)
	require.NoError(t, err, harness.Describe(err))
	req.MemberEpoch, req.Owned = res.GetMemberEpoch(), res.GetAssigned()
	return res
}

// What a group refuses has a reason of its own, through every node, and changes nothing.
func TestBadGroupRequests(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "p", Partitions: 2}, 5)
	static := &streamhousev1.GroupHeartbeatRequest{MemberId: "static", InstanceId: "one", SessionTimeoutMs: 60_000}
	other := &streamhousev1.GroupHeartbeatRequest{MemberId: "other", SessionTimeoutMs: 60_000}
	require.Len(t, join(t, c.Nodes[0], static).GetAssigned()[0].GetPartitions(), 2)
	require.Empty(t, join(t, c.Nodes[1], other).GetAssigned())
	join(t, c.Nodes[0], static) // it is told to give one up
	partition := static.GetOwned()[0].GetPartitions()[0]
	require.Zero(t, partition)
	join(t, c.Nodes[0], static) // it has
	epoch := join(t, c.Nodes[1], other).GetMemberEpoch()
	require.Equal(t, epoch, static.GetMemberEpoch())
	requireRefused(t, c, badGroupCalls(epoch))

	_, err := c.Nodes[2].CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{
		Group: groupName, Topic: "orders", MemberId: "static", MemberEpoch: epoch, Offsets: []*streamhousev1.CommittedOffset{{Offset: 1}},
	})
	require.NoError(t, err, "the member itself may commit, after all of that")
}

// A member whose session has ended is told so when it comes back, and its commits are refused.
func TestHeartbeatAfterExpiry(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 1, Flags: quick(map[string]string{"group-offsets-retention": "2s"})})
	c.CreateTopic("orders", 1, nil)
	n := c.Nodes[0]
	m := &streamhousev1.GroupHeartbeatRequest{MemberId: "m", SessionTimeoutMs: 1000}
	join(t, n, m)
	_, err := n.CommitOffset(call(t), &streamhousev1.CommitOffsetRequest{
		Group: groupName, Topic: "orders", MemberId: "m", MemberEpoch: m.GetMemberEpoch(), Offsets: []*streamhousev1.CommittedOffset{{}},
	})
	require.NoError(t, err)
	describe := func(ctx context.Context) (*streamhousev1.DescribeGroupResponse, error) {
		return n.DescribeGroup(ctx, &streamhousev1.DescribeGroupRequest{Group: groupName})
	}
	harness.Eventually(t, syncWithin, "the session ends", func(ctx context.Context) error {
		g, err := describe(ctx)
		if err == nil && len(g.GetMembers()) > 0 {
			err = errors.New("the member is still there")
		}
		return err
	})
	m.Sequence++
	_, err = n.GroupHeartbeat(call(t), m)
	require.Equal(t, "UNKNOWN_MEMBER", harness.Reason(err), harness.Describe(err))
	err = commitAs("m", m.GetMemberEpoch(), func(o *streamhousev1.CommittedOffset) { o.Offset = 0 })(call(t), n)
	require.Equal(t, "UNKNOWN_MEMBER", harness.Reason(err), harness.Describe(err))
	harness.Eventually(t, syncWithin, "the group is gone when the retention of its offsets is over", func(ctx context.Context) error {
		_, err := describe(ctx)
		if harness.Reason(err) == "GROUP_NOT_FOUND" {
			return nil
		}
		return fmt.Errorf("describe: %w", err)
	})
}

// Retention overtakes a consumer: the node says where the log begins, and the client does what Reset says.
func TestConsumerBelowTheLogStart(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 1, Flags: quick(nil)})
	c.CreateTopic("orders", 1, map[string]string{"retention.bytes": "1"})
	cl := c.Client(client.Config{})
	p, err := client.NewProducer(cl, client.ProducerConfig{})
	require.NoError(t, err)
	defer func() { require.NoError(t, p.Close(t.Context())) }()
	start := int64(0)
	harness.Eventually(t, syncWithin, "retention removes records", func(ctx context.Context) error {
		if err := p.ProduceSync(ctx, &client.Record{Topic: "orders", Value: []byte("line")}); err != nil {
			return err
		}
		offsets, err := client.NewAdmin(cl).ListOffsets(ctx, "orders", client.LogStart)
		if start = offsets[0]; err == nil && start == 0 {
			err = errors.New("the log still begins at 0")
		}
		return err
	})
	_, err = consume(call(t), c.Nodes[0], "orders", 0, 0, 0)
	require.Equal(t, "OFFSET_OUT_OF_RANGE", harness.Reason(err), harness.Describe(err))
	require.Contains(t, harness.ErrorMetadata(err), "log_start_offset")

	tp := client.TopicPartition{Topic: "orders"}
	for reset, want := range map[client.Reset]error{client.ResetNone: client.ErrOffsetOutOfRange, client.ResetEarliest: nil} {
		r, err := client.NewConsumer(cl, client.ConsumerConfig{Partitions: []client.TopicPartition{tp}, Reset: reset})
		require.NoError(t, err)
		require.NoError(t, r.Seek(tp, 0))
		records, err := r.Poll(call(t))
		require.ErrorIs(t, err, want)
		if want == nil {
			require.GreaterOrEqual(t, records[0].Offset, start)
		}
		require.NoError(t, r.Close(t.Context()))
	}
}

// A consumer that does not come back for more loses its partitions to the others, and learns it at its next call.
func TestConsumerThatStopsPolling(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 1, Flags: quick(nil)})
	c.CreateTopic("orders", 2, nil)
	cl := c.Client(client.Config{})
	c.ProduceN(harness.NewLedger("orders"), harness.ProducerConfig{Name: "p", Partitions: 2}, 5)
	cfg := client.ConsumerConfig{Group: groupName, Topics: []string{"orders"}, MaxPollInterval: 2 * time.Second, ManualCommit: true}
	r, err := client.NewConsumer(cl, cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close(t.Context())) }()
	records, err := r.Poll(call(t))
	require.NoError(t, err)
	a := client.NewAdmin(cl)
	waitGroupEmpty(t, a)
	other, err := client.NewConsumer(cl, cfg)
	require.NoError(t, err)
	defer func() { require.NoError(t, other.Close(t.Context())) }()
	taken, err := other.Poll(call(t))
	require.NoError(t, err)
	require.NotEmpty(t, taken)

	require.ErrorIs(t, r.CommitRecords(t.Context(), records...), client.ErrNotOwned)
	require.ErrorIs(t, r.Commit(t.Context()), client.ErrMaxPollInterval)
	_, err = r.Poll(call(t))
	require.ErrorIs(t, err, client.ErrMaxPollInterval)
}

// A topic that is deleted takes the offsets of its groups and their series with it; a group its own.
func TestDeletedTopicAndGroupLeaveNothing(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	a := client.NewAdmin(c.Client(client.Config{}))
	for _, topic := range []string{"orders", "others"} {
		c.CreateTopic(topic, 2, nil)
		for _, group := range []string{groupName, "second"} {
			require.NoError(t, a.CommitOffsets(t.Context(), group, topic, map[int32]client.Committed{0: {}, 1: {}}))
		}
	}
	series := func(ctx context.Context, labels harness.Labels) (int, error) {
		n := 0
		for _, node := range c.Nodes {
			m, err := node.Metrics(ctx)
			if err != nil {
				return 0, err
			}
			for name := range m {
				n += len(m.Select(name, labels))
			}
		}
		return n, nil
	}
	waitSeries := func(labels harness.Labels, some bool) {
		harness.Eventually(t, syncWithin, fmt.Sprintf("series of %v: %v", labels, some), func(ctx context.Context) error {
			n, err := series(ctx, labels)
			if err == nil && (n > 0) != some {
				err = fmt.Errorf("there are %d", n)
			}
			return err
		})
	}
	waitSeries(harness.Labels{"consumer_group": "second", "topic": "orders"}, true)
	for _, n := range c.Nodes {
		_, err := n.ConsumeRecordBatches(call(t), &streamhousev1.ConsumeRecordBatchesRequest{Topic: "others", Group: "second", Offset: 1})
		require.Equal(t, "OFFSET_OUT_OF_RANGE", harness.Reason(err), "which counts under the group, on this node")
	}
	require.NoError(t, a.DeleteTopic(t.Context(), "orders"))
	waitSeries(harness.Labels{"topic": "orders"}, false)
	harness.Eventually(t, syncWithin, "offsets of the topic are gone", func(ctx context.Context) error {
		g, err := a.DescribeGroup(ctx, groupName)
		if err == nil && len(g.Partitions) != 2 {
			err = fmt.Errorf("partitions: %v", g.Partitions)
		}
		return err
	})
	require.NoError(t, a.DeleteGroup(t.Context(), "second"))
	waitSeries(harness.Labels{"consumer_group": "second"}, false)
	waitSeries(harness.Labels{"consumer_group": groupName, "topic": "others"}, true)
}

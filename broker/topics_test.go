package broker

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/internal/pause"
)

func TestTopics(t *testing.T) {
	f := newFixture(t, true)
	ctx := t.Context()
	created, err := f.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: "t", Partitions: 2, Config: map[string]string{"retention.ms": "5"}})
	require.NoError(t, err)
	require.Len(t, created.GetTopic().GetUuid(), 16)
	require.Len(t, created.GetTopic().GetPartitions(), 2)
	p := created.GetTopic().GetPartitions()[1]
	require.Equal(t, uint32(1), p.GetShard())
	require.Equal(t, "n2", p.GetLeader())
	require.Equal(t, []string{"n1", "n2", "n3"}, p.GetReplicas())

	_, err = f.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: "t", Partitions: 2})
	requireReason(t, reasonTopicExists, err)
	for field, req := range map[string]*streamhousev1.CreateTopicRequest{
		"name":       {Name: "a/b", Partitions: 1},
		"partitions": {Name: "x", Partitions: 100_001},
		"config":     {Name: "x", Partitions: 1, Config: map[string]string{"nope": "1"}},
	} {
		_, err := f.CreateTopic(ctx, req)
		require.Equal(t, field, requireReason(t, reasonInvalidField, err)["field"])
	}

	got, err := f.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: "t"})
	require.NoError(t, err)
	require.Len(t, got.GetNodes(), 3)
	require.Equal(t, "n2:50051", got.GetNodes()[1].GetGrpcAddr(), "so that a client can go to the leader")

	altered, err := f.AlterTopic(ctx, &streamhousev1.AlterTopicRequest{Name: "t", Partitions: 3, UnsetConfig: []string{"retention.ms"}})
	require.NoError(t, err)
	require.Len(t, altered.GetTopic().GetPartitions(), 3)
	require.Empty(t, altered.GetTopic().GetConfig())
	_, err = f.AlterTopic(ctx, &streamhousev1.AlterTopicRequest{Name: "t", Partitions: 1})
	requireReason(t, reasonInvalidField, err)
	_, err = f.AlterTopic(ctx, &streamhousev1.AlterTopicRequest{Name: "nope"})
	requireReason(t, reasonTopicNotFound, err)

	list, err := f.ListTopics(ctx, &streamhousev1.ListTopicsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetTopics(), 2)
	require.Equal(t, "t", list.GetTopics()[1].GetName())
	require.Equal(t, int32(3), list.GetTopics()[1].GetPartitions())

	_, err = f.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: "t"})
	require.NoError(t, err)
	_, err = f.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: "t"})
	requireReason(t, reasonTopicNotFound, err)
	_, err = f.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: "t"})
	requireReason(t, reasonTopicNotFound, err)
}

// TestTopicCreatedElsewhere finds what this node has not applied yet, and says no only with the leader's word.
func TestTopicCreatedElsewhere(t *testing.T) {
	f := newFixture(t, true)
	f.meta.lag = true
	f.meta.createTopic(t, "t", 1, nil)
	_, err := f.GetTopic(t.Context(), &streamhousev1.GetTopicRequest{Name: "t"})
	require.NoError(t, err)
	barriers := f.meta.barriers
	_, err = f.GetTopic(t.Context(), &streamhousev1.GetTopicRequest{Name: "t"})
	require.NoError(t, err)
	require.Equal(t, barriers, f.meta.barriers, "it says yes from what it has")

	f.meta.must(t, &metav1.Command{Command: &metav1.Command_AlterTopic{AlterTopic: &metav1.AlterTopic{Name: "t", Partitions: 3}}})
	partition := int32(2)
	_, err = f.Produce(t.Context(), &streamhousev1.ProduceRequest{Topic: "t", Partition: &partition, Record: value("v")})
	require.NoError(t, err)

	f.meta.down = metadata.ErrNoLeader
	_, err = f.GetTopic(t.Context(), &streamhousev1.GetTopicRequest{Name: "nope"})
	requireReason(t, reasonNoLeader, err)
	list, err := f.ListTopics(t.Context(), &streamhousev1.ListTopicsRequest{})
	require.NoError(t, err, "a list shows what is known here")
	require.Len(t, list.GetTopics(), 2)
}

// TestDeleteOfATopicCreatedAnew deletes the topic that there is, not the one of the same name that a node that is behind knows.
func TestDeleteOfATopicCreatedAnew(t *testing.T) {
	f := newFixture(t, true)
	first := f.meta.createTopic(t, "t", 1, nil)
	f.meta.lag = true
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: first.UUID[:], TimeMs: 2}}})
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
		Name: "t", Uuid: []byte("another-topic-01"), Partitions: 1, TimeMs: 3,
	}}})
	known, ok := f.meta.View().Topic("t")
	require.True(t, ok)
	require.Equal(t, first.UUID, known.UUID, "the node is behind")
	_, err := f.DeleteTopic(t.Context(), &streamhousev1.DeleteTopicRequest{Name: "t"})
	require.NoError(t, err)
	_, ok = f.meta.state.View().Topic("t")
	require.False(t, ok)
}

// TestTopicNamesLeadersOfOtherNodes finds the leaders of shards that this node has no replica of, and hears of new ones
// though no call of its own fails: a client goes where it is told.
func TestTopicNamesLeadersOfOtherNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, false)
		f.meta.createTopic(t, "t", 2, nil)
		leaders := func() []string {
			res, err := f.GetTopic(t.Context(), &streamhousev1.GetTopicRequest{Name: "t"})
			require.NoError(t, err)
			var ids []string
			for _, p := range res.GetTopic().GetPartitions() {
				ids = append(ids, p.GetLeader())
			}
			return ids
		}
		require.Equal(t, []string{"n3", "n2"}, leaders())
		asked := f.peers["n2"].count("GetReplica")
		require.Equal(t, []string{"n3", "n2"}, leaders())
		require.Equal(t, asked, f.peers["n2"].count("GetReplica"), "what was just found is told")

		f.shards[0].set(func() { f.shards[0].leader = "n2/r" })
		<-time.After(leaderFor)
		require.Equal(t, []string{"n2", "n2"}, leaders())

		f.shards[0].set(func() { f.shards[0].leader = "" })
		<-time.After(leaderFor)
		require.Equal(t, []string{"", "n2"}, leaders())
	})
}

// TestTopicNamesALeaderThatTheReplicaDoesNotKnow asks the others while this node's replica has not heard of a leader.
func TestTopicNamesALeaderThatTheReplicaDoesNotKnow(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	f.local.add(0, newFakeShard("").on("n1"))
	res, err := f.GetTopic(t.Context(), &streamhousev1.GetTopicRequest{Name: "t"})
	require.NoError(t, err)
	require.Equal(t, "n1", res.GetTopic().GetPartitions()[0].GetLeader())
}

func TestClusterStatus(t *testing.T) {
	f := newFixture(t, true)
	res, err := f.GetClusterStatus(t.Context(), &streamhousev1.GetClusterStatusRequest{})
	require.NoError(t, err)
	require.Equal(t, "c1", res.GetClusterId())
	require.Equal(t, "n1", res.GetMetadataLeader())
	require.Len(t, res.GetNodes(), 3)
	require.Len(t, res.GetShards(), 2)
	s := res.GetShards()[1]
	require.Equal(t, "n2", s.GetLeader())
	require.Equal(t, uint64(3), s.GetTerm())
	require.Len(t, s.GetReplicas(), 3)
	require.Equal(t, "voter", s.GetReplicas()[0].GetRole())
	require.Equal(t, "wished", s.GetReplicas()[2].GetRole())
	require.Equal(t, int32(2), res.GetNodes()[0].GetReplicas())
	require.Equal(t, int32(1), res.GetNodes()[1].GetLeaders())

	for _, p := range f.peers {
		p.down = true
	}
	res, err = f.GetClusterStatus(t.Context(), &streamhousev1.GetClusterStatusRequest{})
	require.NoError(t, err)
	require.Empty(t, res.GetShards()[1].GetLeader())
}

// TestStatusAsksALeaderThatIsToBeRemoved has a shard that is wished on n1 and n3, and led by n2 still.
func TestStatusAsksALeaderThatIsToBeRemoved(t *testing.T) {
	f := newFixture(t, true)
	sh, _ := f.meta.View().Shard(1)
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_SetShardReplicas{SetShardReplicas: &metav1.SetShardReplicas{
		Shard: 1, Version: sh.Version, Replicas: []*metav1.Replica{newReplica("n1"), newReplica("n3")},
	}}})
	res, err := f.GetClusterStatus(t.Context(), &streamhousev1.GetClusterStatusRequest{})
	require.NoError(t, err)
	s := res.GetShards()[1]
	require.Equal(t, "n2", s.GetLeader())
	require.Len(t, s.GetReplicas(), 3)
	require.Equal(t, "n2/r", s.GetReplicas()[1].GetReplicaId())
	require.Equal(t, uint64(fakeApplied), s.GetReplicas()[1].GetAppliedIndex())
}

func TestNodeStates(t *testing.T) {
	f := newFixture(t, true)
	ctx := t.Context()
	state := func() streamhousev1.NodeState {
		n, ok := f.meta.View().Node("n3")
		require.True(t, ok)
		return publicState(n.State)
	}
	_, err := f.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: "n3"})
	require.NoError(t, err)
	require.Equal(t, streamhousev1.NodeState_NODE_STATE_DRAINING, state())
	_, err = f.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: "n3"})
	require.NoError(t, err)
	require.Equal(t, streamhousev1.NodeState_NODE_STATE_ACTIVE, state())
	_, err = f.DecommissionNode(ctx, &streamhousev1.DecommissionNodeRequest{NodeId: "n3"})
	require.NoError(t, err)
	require.Equal(t, streamhousev1.NodeState_NODE_STATE_DECOMMISSIONING, state())

	f.cfg.CanLeave = func(string) error { return errUnreachable }
	_, err = f.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: "n2"})
	requireReason(t, reasonCannotPlace, err)
	_, err = f.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: "n9"})
	requireReason(t, reasonNodeNotFound, err)
	_, err = f.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{})
	requireReason(t, reasonInvalidField, err)
}

func TestTransferLeader(t *testing.T) {
	f := newFixture(t, true)
	ctx := t.Context()
	transfer := func(shard uint32, node string) error {
		_, err := f.TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: shard, NodeId: node})
		return err
	}
	require.NoError(t, transfer(0, "n2"))
	require.Equal(t, []string{"n2/r"}, f.groups.transferred)
	require.NoError(t, transfer(1, "n3"))
	require.Equal(t, 1, f.peers["n2"].count("TransferLeadership n3/r"))
	require.NoError(t, transfer(1, "n2"), "it leads already")
	requireReason(t, reasonShardNotFound, transfer(7, "n2"))
	requireReason(t, reasonNodeNotFound, transfer(0, "n9"))
}

func TestMetricsFollowTopics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		reg := prometheus.NewPedanticRegistry()
		f.metrics = NewMetrics(reg)
		errorSeries := func() int { return testutil.CollectAndCount(f.metrics.producerErrors) }
		require.Equal(t, len(producerErrorTypes), errorSeries(), "those without a topic are there from the start")

		done := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		go func() { done <- f.Run(ctx) }()
		synctest.Wait()
		topic := f.meta.createTopic(t, "t", 1, nil)
		require.NoError(t, pause.For(t.Context(), 2*syncDelay))
		synctest.Wait()
		require.Equal(t, 3*len(producerErrorTypes), errorSeries(), "none, pad and t")
		require.Equal(t, 3*len(consumerErrorTypes), testutil.CollectAndCount(f.metrics.consumerErrors))
		require.Equal(t, 3, testutil.CollectAndCount(f.metrics.consumerRecords))

		f.produce(t, 0, "0", "1")
		f.beat(t, joining())
		_, err := f.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", Group: "g"})
		require.NoError(t, err)
		synctest.Wait()
		require.InDelta(t, 2, testutil.ToFloat64(f.metrics.consumerRecords.WithLabelValues("t", "g")), 0)
		f.CountProduceError("t", noLeader(1))
		f.CountProduceError("nope", topicNotFound("nope"))
		f.CountConsumeError("t", "g", outOfRange(1, 2, 3))
		f.CountConsumeError("nope", "a b", topicNotFound("nope"))
		require.InDelta(t, 1, testutil.ToFloat64(f.metrics.producerErrors.WithLabelValues("t", typeUnavailable)), 0)
		require.InDelta(t, 1, testutil.ToFloat64(f.metrics.producerErrors.WithLabelValues("", typeNotFound)), 0)
		require.InDelta(t, 1, testutil.ToFloat64(f.metrics.consumerErrors.WithLabelValues("t", "g", typeOutOfRange)), 0)
		require.InDelta(t, 1, testutil.ToFloat64(f.metrics.consumerErrors.WithLabelValues("", "", typeNotFound)), 0)

		f.meta.must(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: topic.UUID[:], TimeMs: 9}}})
		require.NoError(t, pause.For(t.Context(), 2*syncDelay))
		synctest.Wait()
		require.Equal(t, 2*len(producerErrorTypes), errorSeries())
		require.Equal(t, 2, testutil.CollectAndCount(f.metrics.consumerRecords))
		cancel()
		require.NoError(t, <-done)
	})
}

func TestMetricsBoundGroups(t *testing.T) {
	m := NewMetrics(nil)
	m.add("t", viewOf(t, "t"))
	name := func(i int) string { return fmt.Sprintf("g%d", i) }
	for i := range maxGroupSeries + 10 {
		m.count("t", name(i), 1, "")
	}
	require.Equal(t, 2, testutil.CollectAndCount(m.consumerRecords), "none, and t without a group: the groups may not exist")
	for i := range maxGroupSeries + 10 {
		m.settle(name(i), true)
	}
	require.Equal(t, maxGroupSeries+3, testutil.CollectAndCount(m.consumerRecords), "and the others together")
	require.InDelta(t, 10, testutil.ToFloat64(m.consumerRecords.WithLabelValues("t", otherGroups)), 0)
	for i := range maxGroupSeries + 10 {
		m.settle(name(i), false)
	}
	require.Zero(t, m.pairs)
	require.Empty(t, m.shown)

	for i := range maxWaiting + 7 {
		m.count("t", name(i), 1, typeTimeout)
	}
	require.Len(t, m.waiting, maxWaiting)
	require.InDelta(t, 7, testutil.ToFloat64(m.consumerRecords.WithLabelValues("t", "")), 0, "there is no room for more")
	for _, g := range m.groups() {
		m.settle(g, false)
	}
	require.Empty(t, m.waiting)
	require.Zero(t, m.waitingPairs)
	require.InDelta(t, maxWaiting+7, testutil.ToFloat64(m.consumerRecords.WithLabelValues("t", "")), 0)
	require.InDelta(t, maxWaiting+7, testutil.ToFloat64(m.consumerErrors.WithLabelValues("t", "", typeTimeout)), 0)
}

func TestErrorTypesAreKnown(t *testing.T) {
	for n := range streamhousev1.ErrorReason_name {
		require.Contains(t, producerErrorTypes, producerType(Reason(n)))
		require.Contains(t, consumerErrorTypes, consumerType(Reason(n)))
	}
}

func TestNewWantsItsConfig(t *testing.T) {
	_, err := New(Config{})
	require.ErrorContains(t, err, "NodeID")
	cfg := newFixture(t, true).cfg
	cfg.PeerError = nil
	_, err = New(cfg)
	require.ErrorContains(t, err, "PeerError")
}

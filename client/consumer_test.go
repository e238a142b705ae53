package client_test

import (
	"context"
	"errors"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

// fill writes the numbers from 0 to n-1 to each partition of topic t.
func (f *fixture) fill(t *testing.T, partitions, n int) {
	t.Helper()
	var s sent
	p := f.producer(t, client.ProducerConfig{Partitioner: client.Manual})
	produce(t, p, &s, partitions, n)
	require.NoError(t, p.Flush(t.Context()))
}

func (f *fixture) consumer(t *testing.T, cfg client.ConsumerConfig) *client.Consumer {
	t.Helper()
	r, err := client.NewConsumer(f.Client, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = r.Close(context.Background()) })
	return r
}

// poll polls until it has n records, and checks that each partition's are in order and without holes.
func poll(t *testing.T, r *client.Consumer, n int) []client.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	var out []client.Record
	next := make(map[int32]int64)
	for len(out) < n {
		records, err := r.Poll(ctx)
		require.NoError(t, err)
		for _, rec := range records {
			if want, ok := next[rec.Partition]; ok {
				require.Equal(t, want, rec.Offset)
			}
			next[rec.Partition] = rec.Offset + 1
		}
		out = append(out, records...)
	}
	require.Len(t, out, n)
	return out
}

// pollOnce polls once.
func pollOnce(t *testing.T, r *client.Consumer) []client.Record {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	records, err := r.Poll(ctx)
	require.NoError(t, err)
	return records
}

// idle checks that there is nothing to poll.
func idle(t *testing.T, r *client.Consumer) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	records, err := r.Poll(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, records)
}

func values(records []client.Record) []string {
	var out []string
	for _, r := range records {
		out = append(out, string(r.Value))
	}
	return out
}

var t0 = client.TopicPartition{Topic: "t", Partition: 0}

func TestConsumeATopic(t *testing.T) {
	f := start(t, 3)
	f.fill(t, 3, 50)
	r := f.consumer(t, client.ConsumerConfig{Topics: []string{"t"}, MaxPollRecords: 7})
	require.Len(t, poll(t, r, 150), 150)
	require.Len(t, r.Assignment(), 3)
	lag, err := r.Lag(t0)
	require.NoError(t, err)
	require.Zero(t, lag)
	idle(t, r)
	f.fill(t, 1, 2)
	require.Equal(t, numbers(2), values(poll(t, r, 2)))
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	f := start(t, 1)
	p := f.producer(t, client.ProducerConfig{Compression: client.CompressionZstd})
	in := []*client.Record{
		{Topic: "t"},
		{Topic: "t", Key: []byte{}, Value: []byte("v"), Timestamp: time.UnixMilli(1234)},
		{Topic: "t", Value: []byte{}, Headers: []client.Header{{Key: "a", Value: []byte("1")}, {Key: "a"}}},
	}
	require.NoError(t, p.ProduceSync(t.Context(), in...))
	out := poll(t, f.consumer(t, client.ConsumerConfig{Partitions: []client.TopicPartition{t0}}), 3)
	for i, rec := range out {
		require.Equal(t, in[i].Key, rec.Key)
		require.Equal(t, in[i].Value, rec.Value)
		require.Equal(t, in[i].Headers, rec.Headers)
		require.Equal(t, in[i].Timestamp.UnixMilli(), rec.Timestamp.UnixMilli())
		require.EqualValues(t, i, rec.Offset)
	}
}

func TestConsumeThroughFaults(t *testing.T) {
	f := start(t, 2)
	f.fill(t, 2, 60)
	var calls atomic.Int32
	for _, n := range f.nodes {
		n.Before = func(method string) error {
			if method != "Consume" {
				return nil
			}
			switch calls.Add(1) % 5 {
			case 1:
				return clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil)
			case 2:
				return clienttest.Break()
			default:
				return nil
			}
		}
	}
	poll(t, f.consumer(t, client.ConsumerConfig{Topics: []string{"t"}}), 120)
}

func TestSeekAndPause(t *testing.T) {
	f := start(t, 2)
	f.fill(t, 2, 20)
	r := f.consumer(t, client.ConsumerConfig{Partitions: []client.TopicPartition{t0, {Topic: "t", Partition: 1}}, MaxPollRecords: 5})
	require.NoError(t, r.Pause(t0))
	for _, rec := range poll(t, r, 20) {
		require.EqualValues(t, 1, rec.Partition)
	}
	require.NoError(t, r.Resume(t0))
	require.NoError(t, r.Seek(t0, 18))
	require.Equal(t, []string{"18", "19"}, values(poll(t, r, 2)), "before its first record was read")
	require.NoError(t, r.Seek(t0, 3))
	records := pollOnce(t, r)
	require.Equal(t, "3", string(records[0].Value))
	position, err := r.Position(t0)
	require.NoError(t, err)
	require.EqualValues(t, 3+len(records), position)
	require.NoError(t, r.SeekTo(t.Context(), client.LogEnd, t0))
	idle(t, r)
	require.NoError(t, r.SeekTo(t.Context(), client.AtTime(time.UnixMilli(0)), t0))
	require.Equal(t, "0", string(pollOnce(t, r)[0].Value))

	other := client.TopicPartition{Topic: "t", Partition: 7}
	require.ErrorIs(t, r.Seek(other, 0), client.ErrNotOwned)
	require.ErrorIs(t, r.Pause(t0, other), client.ErrNotOwned)
	_, err = r.Lag(other)
	require.ErrorIs(t, err, client.ErrNotOwned)
	require.ErrorIs(t, r.Seek(t0, -1), client.ErrInvalidField)
}

func TestOffsetsOutsideOfTheLog(t *testing.T) {
	for name, tc := range map[string]struct {
		reset client.Reset
		want  string
	}{
		"earliest": {client.ResetEarliest, "5"},
		"latest":   {client.ResetLatest, ""},
		"none":     {client.ResetNone, ""},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, 1)
			f.fill(t, 1, 9)
			f.cluster.Trim("t", 0, 5)
			r := f.consumer(t, client.ConsumerConfig{Partitions: []client.TopicPartition{t0}, Reset: tc.reset, MaxPollRecords: 1})
			require.NoError(t, r.Seek(t0, 1))
			switch {
			case tc.want != "":
				require.Equal(t, tc.want, values(poll(t, r, 1))[0])
			case tc.reset == client.ResetLatest:
				idle(t, r)
			default:
				_, err := r.Poll(t.Context())
				require.ErrorIs(t, err, client.ErrOffsetOutOfRange)
				e, ok := errors.AsType[*client.PartitionError](err)
				require.True(t, ok)
				require.Equal(t, t0, e.TopicPartition)
				idle(t, r)
				require.NoError(t, r.Seek(t0, 8), "it goes on")
				require.Equal(t, []string{"8"}, values(poll(t, r, 1)))
			}
		})
	}
}

func TestNoCommittedOffset(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 3)
	r := f.consumer(t, client.ConsumerConfig{Group: "g", Partitions: []client.TopicPartition{t0}, Reset: client.ResetNone})
	_, err := r.Poll(t.Context())
	require.ErrorIs(t, err, client.ErrNoOffset)
}

func TestDeletedTopic(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 3)
	r := f.consumer(t, client.ConsumerConfig{Topics: []string{"t"}})
	poll(t, r, 3)
	require.NoError(t, client.NewAdmin(f.Client).DeleteTopic(t.Context(), "t"))
	_, err := r.Poll(t.Context())
	require.ErrorIs(t, err, client.ErrTopicNotFound)

	r = f.consumer(t, client.ConsumerConfig{Topics: []string{"nope"}})
	_, err = r.Poll(t.Context())
	require.ErrorIs(t, err, client.ErrTopicNotFound)
}

func TestPrefetchIsBounded(t *testing.T) {
	f := start(t, 1)
	var s sent
	p := f.producer(t, client.ProducerConfig{BatchBytes: 2000})
	produce(t, p, &s, 1, 2000)
	require.NoError(t, p.Flush(t.Context()))
	var reads atomic.Int32
	f.nodes[0].Before = func(method string) error {
		if method == "Consume" {
			reads.Add(1)
		}
		return nil
	}
	r := f.consumer(t, client.ConsumerConfig{Topics: []string{"t"}, FetchBytes: 1024, PrefetchBytes: 1024, MaxPollRecords: 1})
	poll(t, r, 1)
	before := reads.Load()
	idleReads := func() bool { now := reads.Load(); same := now == before; before = now; return same && now > 0 }
	require.Eventually(t, idleReads, 10*time.Second, 50*time.Millisecond, "it stops reading ahead")
	require.Less(t, before, int32(20))
	require.NoError(t, r.Seek(t0, 0))
	require.Len(t, poll(t, r, 2000), 2000)
}

func TestAutoCommit(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 10)
	cfg := client.ConsumerConfig{Group: "g", Topics: []string{"t"}, MaxPollRecords: 4, AutoCommitInterval: 10 * time.Millisecond}
	r := f.consumer(t, cfg)
	first := int64(len(pollOnce(t, r)))
	require.Never(t, func() bool { return f.cluster.Offset("g", "t", 0) > 0 }, 100*time.Millisecond, 10*time.Millisecond,
		"it is still being worked on")
	all := first + int64(len(pollOnce(t, r)))
	require.Eventually(t, func() bool { return f.cluster.Offset("g", "t", 0) == first }, 10*time.Second, time.Millisecond)
	require.NoError(t, r.Close(t.Context()))
	require.NoError(t, r.Close(t.Context()))
	require.Equal(t, all, f.cluster.Offset("g", "t", 0), "Close commits")
	require.Empty(t, f.cluster.Members("g"), "and leaves")
	_, err := r.Poll(t.Context())
	require.ErrorIs(t, err, client.ErrClosed)
	require.Equal(t, numbers(10)[all:], values(poll(t, f.consumer(t, cfg), int(10-all))))
}

func TestManualCommit(t *testing.T) {
	f := start(t, 2)
	f.fill(t, 2, 10)
	r := f.consumer(t, client.ConsumerConfig{Group: "g", Topics: []string{"t"}, ManualCommit: true})
	records := poll(t, r, 20)
	var first []client.Record
	for _, rec := range records {
		if rec.Partition == 1 && rec.Offset < 3 {
			first = append(first, rec)
		}
	}
	require.NoError(t, r.CommitRecords(t.Context(), first...))
	require.EqualValues(t, 3, f.cluster.Offset("g", "t", 1))
	require.EqualValues(t, -1, f.cluster.Offset("g", "t", 0))
	require.NoError(t, r.CommitOffsets(t.Context(), map[client.TopicPartition]client.Committed{t0: {Offset: 5, Metadata: "half"}}))
	committed, err := r.Committed(t.Context(), t0)
	require.NoError(t, err)
	require.Equal(t, map[client.TopicPartition]client.Committed{t0: {Offset: 5, Metadata: "half"}}, committed)
	require.NoError(t, r.Commit(t.Context()))
	require.EqualValues(t, 10, f.cluster.Offset("g", "t", 0))
	require.ErrorIs(t, r.CommitOffsets(t.Context(), map[client.TopicPartition]client.Committed{{Topic: "x"}: {}}), client.ErrNotOwned)
}

func TestBadConsumerConfigs(t *testing.T) {
	f := start(t, 1)
	for text, cfg := range map[string]client.ConsumerConfig{
		"Topics: neither Topics nor Partitions is set":             {},
		"Partitions: either Topics or Partitions is set, not both": {Topics: []string{"t"}, Partitions: []client.TopicPartition{t0}},
		"InstanceID: it needs Group and Topics":                    {Topics: []string{"t"}, InstanceID: "i"},
		`Reset: "newest" must be earliest, latest or none`:         {Topics: []string{"t"}, Reset: "newest"},
		"SessionTimeout: 1ms is not from 1s to 30m0s":              {Topics: []string{"t"}, SessionTimeout: time.Millisecond},
		"MaxPollInterval: 25h0m0s is not from 1s to 24h0m0s":       {Topics: []string{"t"}, MaxPollInterval: 25 * time.Hour},
		"FetchBytes: 1 is not from 1024 to 16777216":               {Topics: []string{"t"}, FetchBytes: 1},
		"FetchMaxWait: 2m0s is not from 1ms to 1m0s":               {Topics: []string{"t"}, FetchMaxWait: 2 * time.Minute},
		"Topics: 1001 of them, at most 1000 are allowed":           {Topics: make([]string, 1001)},
		"MaxPollRecords: -1 is below 0":                            {Topics: []string{"t"}, MaxPollRecords: -1},
	} {
		_, err := client.NewConsumer(f.Client, cfg)
		require.EqualError(t, err, "consumer config: "+text)
	}
}

func TestAdmin(t *testing.T) {
	f := start(t, 2)
	a := client.NewAdmin(f.Client)
	ctx := t.Context()
	created, err := a.CreateTopic(ctx, "u", 3, map[string]string{"retention.ms": "5"})
	require.NoError(t, err)
	require.Len(t, created.Partitions, 3)
	_, err = a.CreateTopic(ctx, "u", 3, nil)
	require.ErrorIs(t, err, client.ErrTopicExists)
	altered, err := a.AlterTopic(ctx, "u", client.TopicChange{Partitions: 4, Unset: []string{"retention.ms"}})
	require.NoError(t, err)
	require.Len(t, altered.Partitions, 4)
	require.Empty(t, altered.Config)
	list, err := a.ListTopics(ctx)
	require.NoError(t, err)
	require.Equal(t, "u", list[1].Name)
	described, err := a.DescribeTopic(ctx, "u")
	require.NoError(t, err)
	require.Equal(t, altered, described)
	f.fill(t, 2, 6)
	offsets, err := a.ListOffsets(ctx, "t", client.LogEnd)
	require.NoError(t, err)
	require.Equal(t, map[int32]int64{0: 6, 1: 6}, offsets)

	require.NoError(t, a.CommitOffsets(ctx, "g", "t", map[int32]client.Committed{0: {Offset: 2}, 1: {Offset: 6, Metadata: "m"}}))
	committed, err := a.CommittedOffsets(ctx, "g", "t", 1)
	require.NoError(t, err)
	require.Equal(t, map[int32]client.Committed{1: {Offset: 6, Metadata: "m"}}, committed)
	g, err := a.DescribeGroup(ctx, "g")
	require.NoError(t, err)
	require.Equal(t, client.GroupEmpty, g.State)
	require.EqualValues(t, 4, g.Lag())
	groups, err := a.ListGroups(ctx)
	require.NoError(t, err)
	require.Equal(t, []client.GroupSummary{{Name: "g", State: client.GroupEmpty, Shard: 2}}, groups)
	require.NoError(t, a.DeleteGroup(ctx, "g"))
	_, err = a.DescribeGroup(ctx, "g")
	require.ErrorIs(t, err, client.ErrGroupNotFound)

	status, err := a.ClusterStatus(ctx)
	require.NoError(t, err)
	require.Equal(t, "n1", status.MetadataLeader)
	require.NoError(t, a.DrainNode(ctx, "n2"))
	status, err = a.ClusterStatus(ctx)
	require.NoError(t, err)
	require.Equal(t, client.NodeDraining, status.Nodes[1].State)
	require.NoError(t, a.UndrainNode(ctx, "n2"))
	require.NoError(t, a.TransferLeader(ctx, 0, "n2"))
	require.NoError(t, a.DecommissionNode(ctx, "n2"))
	require.ErrorIs(t, a.DrainNode(ctx, "n2"), client.ErrNodeNotFound)
	require.NoError(t, a.DeleteTopic(ctx, "u"))
	require.ErrorIs(t, a.DeleteTopic(ctx, "u"), client.ErrTopicNotFound)
}

func TestCallsFailOver(t *testing.T) {
	f := start(t, 1)
	f.nodes[0].Kill()
	_, err := client.NewAdmin(f.Client).ListTopics(t.Context())
	require.NoError(t, err)
	f.nodes[1].Kill()
	_, err = client.NewAdmin(f.Client).ListTopics(t.Context())
	require.Error(t, err)
}

func TestCallRetries(t *testing.T) {
	unknown := clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows", nil)
	for name, tc := range map[string]struct {
		failure error
		create  bool // a call that may be made once only
		want    error
	}{
		"unknown, once":       {unknown, true, client.ErrOutcomeUnknown},
		"unknown, idempotent": {unknown, false, nil},
		"no leader, once":     {clienttest.Error(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader", nil), true, nil},
		"log full":            {clienttest.Error(codes.ResourceExhausted, streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL, "full", nil), true, nil},
		"refused":             {clienttest.Error(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD, "bad", nil), false, client.ErrInvalidField},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, 1)
			var calls atomic.Int32
			for _, n := range f.nodes {
				n.Before = func(string) error {
					if calls.Add(1) == 1 {
						return tc.failure
					}
					return nil
				}
			}
			a := client.NewAdmin(f.Client)
			var err error
			if tc.create {
				_, err = a.CreateTopic(t.Context(), "x"+strconv.Itoa(len(name)), 1, nil)
			} else {
				_, err = a.ListTopics(t.Context())
			}
			require.ErrorIs(t, err, tc.want)
		})
	}
}

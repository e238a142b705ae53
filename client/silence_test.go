package client_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

// hang returns a hook that lets calls of some methods hang until the test ends.
func hang(t *testing.T, methods ...string) func(string) error {
	t.Helper()
	end := make(chan struct{})
	t.Cleanup(func() { close(end) })
	return func(method string) error {
		if slices.Contains(methods, method) {
			<-end
		}
		return nil
	}
}

// A node that takes calls and never answers costs a member neither its session nor its partitions.
func TestHeartbeatsLeaveASilentNode(t *testing.T) {
	f := start(t, 1)
	var silent [2]atomic.Bool
	for i, n := range f.nodes {
		hangs := hang(t, "GroupHeartbeat")
		n.Before = func(method string) error {
			if silent[i].Load() {
				return hangs(method)
			}
			return nil
		}
	}
	f.fill(t, 1, 5)
	var e told
	cfg := e.config()
	cfg.SessionTimeout = 6 * time.Second
	r := f.consumer(t, cfg)
	poll(t, r, 5)
	e.take()
	silent[0].Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 2*cfg.SessionTimeout)
	defer cancel()
	_, err := r.Poll(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.Empty(t, e.take(), "nothing was lost")
	require.Len(t, r.Assignment(), 1)
}

// A call with little time asks another node the next time.
func TestShortCallsLeaveASilentNode(t *testing.T) {
	f := start(t, 1)
	f.nodes[0].Before = hang(t, "ListTopics")
	a := client.NewAdmin(f.Client)
	require.Eventually(t, func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		_, err := a.ListTopics(ctx)
		return err == nil
	}, 10*time.Second, time.Millisecond)
}

// A node stops reading, so that gRPC's flow control holds up the sender: records still fail when their time is over.
func TestDeliveryTimeoutWhileTheStreamIsFull(t *testing.T) {
	f := start(t, 1)
	for _, n := range f.nodes {
		n.Before = hang(t, "write")
	}
	p := f.producer(t, client.ProducerConfig{DeliveryTimeout: time.Second, BatchBytes: 100 << 10, Linger: -1})
	var s sent
	value := strings.Repeat("x", 90<<10)
	for range 10 {
		require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t", Value: []byte(value)}, s.promise))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err := p.Flush(ctx)
	require.ErrorIs(t, err, client.ErrDeliveryTimeout)
	require.NotErrorIs(t, err, context.DeadlineExceeded)
}

// Flush waits for promises that are just being told, and tells of what failed.
func TestFlushWaitsForPromises(t *testing.T) {
	f := start(t, 1)
	f.nodes[0].Before = onWrite(func() error {
		return clienttest.StreamError(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_RECORD_TOO_LARGE, "too large")
	})
	p := f.producer(t, client.ProducerConfig{Linger: -1})
	told, goOn := make(chan struct{}), make(chan struct{})
	require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t"}, func(*client.Record, error) {
		close(told)
		<-goOn
	}))
	<-told
	require.Equal(t, 1, p.BufferedRecords())
	flushed := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { flushed <- p.Flush(t.Context()) })
	require.Never(t, func() bool { return len(flushed) > 0 }, 100*time.Millisecond, 10*time.Millisecond)
	close(goOn)
	wg.Wait()
	require.ErrorIs(t, <-flushed, client.ErrRecordTooLarge)
}

// The answer to a batch is lost in doubt, the one behind it is stored: promises still come in order.
func TestPromisesKeepTheirOrder(t *testing.T) {
	f := start(t, 1)
	var writes atomic.Int32
	f.nodes[0].Appended = func() error {
		if writes.Add(1) == 1 {
			return clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows")
		}
		return nil
	}
	p := f.producer(t, small)
	var s sent
	produce(t, p, &s, 1, 30)
	require.NoError(t, p.Flush(t.Context()))
	require.Equal(t, numbers(30), s.acked)
	f.requireAll(t, &s, 1, 30)
}

// A leader that has slept answers from what it knew: that is no reason to read everything again.
func TestOffsetBeyondAStaleHighWatermark(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 10)
	var asked atomic.Int32
	f.nodes[0].Before = func(method string) error {
		if method == "Consume" && asked.Add(1) <= 2 {
			return clienttest.Error(codes.OutOfRange, streamhousev1.ErrorReason_ERROR_REASON_OFFSET_OUT_OF_RANGE, "beyond",
				map[string]string{"log_start_offset": "0", "high_watermark": "5"})
		}
		return nil
	}
	r := f.consumer(t, client.ConsumerConfig{Partitions: []client.TopicPartition{t0}})
	require.NoError(t, r.Seek(t0, 9))
	require.Equal(t, []string{"9"}, values(poll(t, r, 1)))
}

// An offset that stays beyond the end is taken as Reset says.
func TestOffsetBeyondTheEnd(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 3)
	r := f.consumer(t, client.ConsumerConfig{Partitions: []client.TopicPartition{t0}})
	require.NoError(t, r.Seek(t0, 7))
	require.Equal(t, numbers(3), values(poll(t, r, 3)))
}

// createAnew deletes topic t and creates it again with nine records, which it polls.
func (f *fixture) createAnew(t *testing.T, r *client.Consumer) []client.Record {
	t.Helper()
	require.NoError(t, client.NewAdmin(f.Client).DeleteTopic(t.Context(), "t"))
	createTopic(t, f.nodes[0].Addr(), "t", 1)
	f.fill(t, 1, 9)
	var got []client.Record
	for len(got) < 9 {
		records, err := r.Poll(t.Context())
		if err != nil {
			require.ErrorIs(t, err, client.ErrTopicNotFound)
			continue
		}
		got = append(got, records...)
	}
	require.Equal(t, numbers(9), values(got))
	return got
}

// A topic is deleted and created again: nothing of the new one is skipped, and nothing of the old one is committed.
func TestTopicCreatedAnew(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 5)
	r := f.consumer(t, client.ConsumerConfig{Group: "g", Partitions: []client.TopicPartition{t0}, ManualCommit: true})
	old := poll(t, r, 5)
	got := f.createAnew(t, r)
	require.ErrorIs(t, r.CommitRecords(t.Context(), old...), client.ErrNotOwned)
	require.NoError(t, r.CommitRecords(t.Context(), got...))
	require.EqualValues(t, 9, f.cluster.Offset("g", "t", 0))
}

// A member of a group gets the partitions of a topic that was created anew from its group.
func TestTopicCreatedAnewForAMember(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 5)
	var e told
	cfg := e.config()
	cfg.ManualCommit = true
	r := f.consumer(t, cfg)
	old := poll(t, r, 5)
	e.take()
	got := f.createAnew(t, r)
	require.Equal(t, []string{"revoked t/0", "assigned t/0"}, e.take())
	require.ErrorIs(t, r.CommitRecords(t.Context(), old...), client.ErrNotOwned)
	require.NoError(t, r.CommitRecords(t.Context(), got...))
}

// Errors that may pass do not end the reading of a partition, whatever they are.
func TestReadThroughAnyPassingError(t *testing.T) {
	for name, failure := range map[string]error{
		"internal": status.Error(codes.Internal, "stream reset"),
		"unknown":  status.Error(codes.Unknown, "what is this"),
		"corrupt":  clienttest.Error(codes.DataLoss, streamhousev1.ErrorReason_ERROR_REASON_CORRUPT_DATA, "a damaged replica", nil),
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, 1)
			f.fill(t, 1, 20)
			hook := everyNth(3, failure)
			for _, n := range f.nodes {
				n.Before = func(method string) error {
					if method == "Consume" {
						return hook()
					}
					return nil
				}
			}
			r := f.consumer(t, client.ConsumerConfig{Topics: []string{"t"}})
			var got []client.Record
			for len(got) < 20 {
				records, err := r.Poll(t.Context())
				if err != nil {
					require.ErrorIs(t, err, client.ErrCorruptData, "the others are not told of")
				}
				got = append(got, records...)
			}
			require.Equal(t, numbers(20), values(got))
		})
	}
}

// A topic that is missing is told of once, keeps no other from being read, and is read when it is there.
func TestMissingTopicIsReadLater(t *testing.T) {
	f := start(t, 1)
	f.fill(t, 1, 3)
	r := f.consumer(t, client.ConsumerConfig{Topics: []string{"later", "t"}})
	told := 0
	var got []client.Record
	for len(got) < 3 || told == 0 {
		records, err := r.Poll(t.Context())
		if err != nil {
			require.ErrorIs(t, err, client.ErrTopicNotFound)
			told++
		}
		got = append(got, records...)
	}
	require.Equal(t, 1, told)
	createTopic(t, f.nodes[0].Addr(), "later", 1)
	p := f.producer(t, client.ProducerConfig{})
	require.NoError(t, p.ProduceSync(t.Context(), &client.Record{Topic: "later", Value: []byte("x")}))
	require.Equal(t, []string{"x"}, values(poll(t, r, 1)))
}

// A topic whose name can't be one is told of.
func TestBadTopicIsTold(t *testing.T) {
	f := start(t, 1)
	for _, n := range f.nodes {
		n.Before = func(method string) error {
			if method == "GetTopic" {
				return clienttest.Error(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_INVALID_FIELD, "topic: no such name", nil)
			}
			return nil
		}
	}
	r := f.consumer(t, client.ConsumerConfig{Topics: []string{"a/b"}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := r.Poll(ctx)
	require.ErrorIs(t, err, client.ErrInvalidField)
}

// A program that polls for moments only still gives up what it must, and commits it before.
func TestShortPollsGiveUpPartitions(t *testing.T) {
	f := start(t, 2)
	f.fill(t, 2, 5)
	for _, n := range f.nodes {
		n.Before = func(method string) error {
			if method == "CommitOffset" {
				wait := time.NewTimer(40 * time.Millisecond) // a slow coordinator
				<-wait.C
			}
			return nil
		}
	}
	var a, b told
	cfg := a.config()
	cfg.AutoCommitInterval = time.Hour
	first := f.consumer(t, cfg)
	poll(t, first, 10)
	second := f.consumer(t, b.config())
	require.Eventually(t, func() bool {
		for _, r := range []*client.Consumer{first, second} {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
			_, err := r.Poll(ctx)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded)
		}
		return len(first.Assignment()) == 1 && len(second.Assignment()) == 1
	}, 20*time.Second, time.Millisecond)
	for p := range 2 {
		require.EqualValues(t, 5, f.cluster.Offset("g", "t", p))
	}
}

// Partitions that are added are found while Poll waits.
func TestNewPartitionsAreFoundWhilePolling(t *testing.T) {
	f := start(t, 1)
	c := open(t, client.Config{Addrs: []string{f.nodes[0].Addr()}, MetadataMaxAge: 50 * time.Millisecond})
	r, err := client.NewConsumer(c, client.ConsumerConfig{Topics: []string{"t"}})
	require.NoError(t, err)
	defer func() { require.NoError(t, r.Close(t.Context())) }()
	_, err = client.NewAdmin(f.Client).AlterTopic(t.Context(), "t", client.TopicChange{Partitions: 2})
	require.NoError(t, err)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		p, err := client.NewProducer(c, client.ProducerConfig{Partitioner: client.Manual})
		if err == nil {
			err = errors.Join(p.ProduceSync(t.Context(), &client.Record{Topic: "t", Partition: 1, Value: []byte("x")}), p.Close(t.Context()))
		}
		if err != nil {
			t.Error(err)
		}
	})
	require.Equal(t, []string{"x"}, values(poll(t, r, 1)))
}

// What was read ahead of paused partitions takes no room from the others.
func TestPausedPartitionsStarveNoOther(t *testing.T) {
	const partitions = 8
	f := start(t, partitions)
	f.fill(t, partitions, 200)
	r := f.consumer(t, client.ConsumerConfig{Topics: []string{"t"}, FetchBytes: 1024, PrefetchBytes: 4096, MaxPollRecords: 10})
	pollOnce(t, r)
	require.Eventually(t, func() bool { return len(r.Assignment()) == partitions }, 10*time.Second, time.Millisecond)
	for p := range int32(partitions - 1) {
		require.NoError(t, r.Pause(client.TopicPartition{Topic: "t", Partition: p}))
	}
	last := client.TopicPartition{Topic: "t", Partition: partitions - 1}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for {
		position, err := r.Position(last)
		require.NoError(t, err)
		if position == 200 {
			return
		}
		_, err = r.Poll(ctx)
		require.NoError(t, err)
	}
}

// The coordinator does not answer a commit in time: the partition is not handed over without it.
func TestNothingIsGivenUpUncommitted(t *testing.T) {
	f := start(t, 2)
	f.fill(t, 2, 5)
	var a, b told
	var cut atomic.Bool
	cut.Store(true)
	for _, n := range f.nodes {
		n.Before = func(method string) error {
			if cut.Load() && method == "CommitOffset" {
				return clienttest.Break()
			}
			return nil
		}
	}
	cfg := a.config()
	cfg.AutoCommitInterval = time.Hour
	first := f.consumer(t, cfg)
	poll(t, first, 10)
	second := f.consumer(t, b.config())
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	_, err := second.Poll(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	for range 10 {
		until(t, first, func() bool { return true })
	}
	require.Len(t, first.Assignment(), 2)
	cut.Store(false)
	until(t, first, func() bool { return len(first.Assignment()) == 1 })
	until(t, second, func() bool { return len(second.Assignment()) == 1 })
	for p := range 2 {
		require.EqualValues(t, 5, f.cluster.Offset("g", "t", p))
	}
}

// A consumer that is closed while it joins leaves no member behind.
func TestCloseWhileJoining(t *testing.T) {
	f := start(t, 1)
	joined := make(chan struct{})
	var once sync.Once
	answer := make(chan struct{})
	f.nodes[0].Answering = func(method string) {
		if method == "GroupHeartbeat" {
			once.Do(func() { close(joined) })
			<-answer
		}
	}
	r, err := client.NewConsumer(f.Client, client.ConsumerConfig{Group: "g", Topics: []string{"t"}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = r.Poll(ctx) })
	<-joined
	cancel()
	wg.Wait()
	require.NoError(t, r.Close(t.Context()))
	close(answer)
	require.Empty(t, f.cluster.Members("g"))
}

// Two clients can't share a registerer, and the second leaves the first one's metrics alone.
func TestSecondClientOfARegisterer(t *testing.T) {
	reg := prometheus.NewRegistry()
	open(t, client.Config{Registerer: reg})
	before, err := reg.Gather()
	require.NoError(t, err)
	_, err = client.New(client.Config{Registerer: reg})
	require.Error(t, err)
	after, err := reg.Gather()
	require.NoError(t, err)
	require.Len(t, after, len(before))
}

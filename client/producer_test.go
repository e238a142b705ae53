package client_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

func TestProduce(t *testing.T) {
	for _, compression := range []client.Compression{"", client.CompressionNone, client.CompressionSnappy, client.CompressionLZ4, client.CompressionZstd} {
		t.Run(string(compression), func(t *testing.T) {
			f := start(t, 3)
			cfg := small
			cfg.Compression = compression
			var s sent
			p := f.producer(t, cfg)
			produce(t, p, &s, 3, 100)
			require.NoError(t, p.Flush(t.Context()))
			f.requireAll(t, &s, 3, 100)
			require.Zero(t, p.BufferedRecords())
		})
	}
}

// everyNth returns a hook that answers every nth call with a failure.
func everyNth(n int32, failure error) func() error {
	var calls atomic.Int32
	return func() error {
		if calls.Add(1)%n == 0 {
			return failure
		}
		return nil
	}
}

// onWrite runs a hook before writes only.
func onWrite(hook func() error) func(string) error {
	return func(method string) error {
		if method != "write" {
			return nil
		}
		return hook()
	}
}

func TestProduceThroughFaults(t *testing.T) {
	for name, failure := range map[string]error{
		"no leader":         clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader"),
		"outcome unknown":   clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows"),
		"deadline":          clienttest.StreamError(codes.DeadlineExceeded, streamhousev1.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED, "too late"),
		"log full":          clienttest.StreamError(codes.ResourceExhausted, streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL, "full"),
		"broken connection": clienttest.Break(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, 2)
			for _, n := range f.nodes {
				n.Before = onWrite(everyNth(11, failure))
				n.Appended = everyNth(17, failure)
			}
			var s sent
			p := f.producer(t, small)
			produce(t, p, &s, 2, 150)
			require.NoError(t, p.Flush(t.Context()))
			f.requireAll(t, &s, 2, 150)
		})
	}
}

func TestProduceThroughTheDeathOfANode(t *testing.T) {
	f := start(t, 1)
	var writes atomic.Int32
	killed := make(chan struct{})
	f.nodes[0].Before = onWrite(func() error {
		if writes.Add(1) == 20 {
			go func() { // Kill waits for this call
				defer close(killed)
				f.nodes[0].Kill()
			}()
		}
		return nil
	})
	var s sent
	p := f.producer(t, small)
	produce(t, p, &s, 1, 200)
	require.NoError(t, p.Flush(t.Context()))
	<-killed
	f.requireAll(t, &s, 1, 200)
}

func TestProduceFollowsTheLeader(t *testing.T) {
	f := start(t, 1)
	var first, second atomic.Int32
	f.nodes[0].Before = onWrite(func() error { first.Add(1); return nil })
	f.nodes[1].Before = onWrite(func() error { second.Add(1); return nil })
	p := f.producer(t, small)
	require.NoError(t, p.ProduceSync(t.Context(), &client.Record{Topic: "t"}))
	require.Zero(t, second.Load(), "directly to the leader")
	f.cluster.Lead("t", 0, 1)
	c := open(t, client.Config{Addrs: []string{f.nodes[0].Addr()}})
	other, err := client.NewProducer(c, small)
	require.NoError(t, err)
	require.NoError(t, other.ProduceSync(t.Context(), &client.Record{Topic: "t"}))
	require.NoError(t, other.Close(t.Context()))
	require.EqualValues(t, 1, second.Load(), "to a leader that is not in Addrs")

	require.Eventually(t, func() bool {
		return p.ProduceSync(t.Context(), &client.Record{Topic: "t"}) == nil && second.Load() > 1
	}, time.Minute, 10*time.Millisecond, "the one that led before says that it forwards")
}

// A batch that is refused fails alone: those behind it were refused for the gap, and are written under a new epoch.
func TestRefusedBatchFailsAlone(t *testing.T) {
	f := start(t, 1)
	var writes atomic.Int32
	f.nodes[0].Before = onWrite(func() error {
		if writes.Add(1) == 4 {
			return clienttest.StreamError(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_RECORD_TOO_LARGE, "9 bytes are too many")
		}
		return nil
	})
	var s sent
	p := f.producer(t, small)
	produce(t, p, &s, 1, 60)
	err := p.Flush(t.Context())
	require.ErrorIs(t, err, client.ErrRecordTooLarge)
	require.ErrorContains(t, err, fmt.Sprintf("%d records were not delivered", len(s.failed)))
	require.Less(t, len(s.failed), 5, "one batch")
	require.Equal(t, 60, len(s.acked)+len(s.failed))
	require.Equal(t, s.acked, f.cluster.Values("t", 0), "what was acknowledged is there, once and in order")
	require.NoError(t, p.Flush(t.Context()), "it was told once")
}

func TestDeliveryTimeout(t *testing.T) {
	noLeader := clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader")
	unknown := clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows")
	for name, tc := range map[string]struct {
		before, appended error
		unclear          bool
	}{
		"surely not written": {before: noLeader},
		"perhaps written":    {appended: unknown, unclear: true},
		"broken connection":  {appended: clienttest.Break(), unclear: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := start(t, 1)
			var healed atomic.Bool
			for _, n := range f.nodes {
				n.Before = onWrite(func() error {
					if healed.Load() {
						return nil
					}
					return tc.before
				})
				n.Appended = func() error {
					if healed.Load() {
						return nil
					}
					return tc.appended
				}
			}
			cfg := small
			cfg.DeliveryTimeout = time.Second
			var s sent
			p := f.producer(t, cfg)
			produce(t, p, &s, 1, 12)
			require.Error(t, p.Flush(t.Context()))
			if !tc.unclear { // an answer to the second attempt tells that a batch was written
				require.Len(t, s.failed, 12)
			}
			for _, err := range s.failed {
				require.Equal(t, tc.unclear, errors.Is(err, client.ErrOutcomeUnknown), "%v", err)
			}
			healed.Store(true)
			stored := len(f.cluster.Values("t", 0))
			require.Eventually(t, func() bool { // the pause after the failures may be longer than the time-out
				return p.ProduceSync(t.Context(), &client.Record{Topic: "t", Value: []byte("after")}) == nil
			}, 10*time.Second, time.Millisecond)
			values := f.cluster.Values("t", 0)
			require.Len(t, values, stored+1, "nothing is written twice")
			require.Equal(t, "after", values[stored])
		})
	}
}

func TestNobodyThere(t *testing.T) {
	f := start(t, 1)
	for _, n := range f.nodes {
		n.Kill()
	}
	p := f.producer(t, client.ProducerConfig{})
	err := p.Produce(t.Context(), &client.Record{Topic: "t"}, nil)
	require.ErrorContains(t, err, "cannot reach 127.0.0.1:")
	require.ErrorContains(t, err, "connection refused")
}

func TestForgottenProducerBeginsAnew(t *testing.T) {
	f := start(t, 1)
	p := f.producer(t, client.ProducerConfig{})
	for i := range 3 {
		require.NoError(t, p.ProduceSync(t.Context(), &client.Record{Topic: "t", Value: []byte(strconv.Itoa(i))}))
		f.cluster.ForgetProducers()
	}
	require.Equal(t, numbers(3), f.cluster.Values("t", 0))
}

func TestForgottenDuplicateIsStored(t *testing.T) {
	f := start(t, 1)
	f.nodes[0].Appended = everyNth(5, clienttest.StreamError(codes.AlreadyExists, streamhousev1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE, "long ago"))
	var s sent
	p := f.producer(t, small)
	produce(t, p, &s, 1, 50)
	require.NoError(t, p.Flush(t.Context()))
	f.requireAll(t, &s, 1, 50)
}

func TestProduceSync(t *testing.T) {
	f := start(t, 2)
	p := f.producer(t, client.ProducerConfig{Linger: time.Minute})
	a, b := &client.Record{Topic: "t", Key: []byte("k"), Headers: []client.Header{{Key: "h", Value: []byte("v")}}}, &client.Record{Topic: "t", Key: []byte("k")}
	require.NoError(t, p.ProduceSync(t.Context(), a, b), "it does not linger")
	require.Equal(t, a.Partition, b.Partition)
	require.EqualValues(t, 0, a.Offset)
	require.EqualValues(t, 1, b.Offset)
	require.NoError(t, p.ProduceSync(t.Context()))

	err := p.ProduceSync(t.Context(), &client.Record{Topic: "t"}, &client.Record{Topic: "nope"})
	require.ErrorIs(t, err, client.ErrTopicNotFound)
	require.Len(t, append(f.cluster.Values("t", 0), f.cluster.Values("t", 1)...), 3)
}

func TestProduceRefusesAtOnce(t *testing.T) {
	f := start(t, 2)
	_, err := client.NewAdmin(f.Client).CreateTopic(t.Context(), "narrow", 1, map[string]string{"max.message.bytes": "10"})
	require.NoError(t, err)
	p := f.producer(t, client.ProducerConfig{BufferBytes: 1000, Partitioner: client.Manual})
	for name, tc := range map[string]struct {
		record client.Record
		want   error
		text   string
	}{
		"partition": {client.Record{Topic: "t", Partition: 2}, client.ErrPartitionNotFound, "t/2: PARTITION_NOT_FOUND: the topic has partitions 0 to 1"},
		"topic":     {client.Record{Topic: "nope"}, client.ErrTopicNotFound, `topic "nope" does not exist (TOPIC_NOT_FOUND)`},
		"size":      {client.Record{Topic: "t", Value: make([]byte, 1000)}, client.ErrRecordTooLarge, "a record of 1064 bytes does not fit into a buffer of 1000 (RECORD_TOO_LARGE)"},
		"config":    {client.Record{Topic: "narrow", Value: make([]byte, 11)}, client.ErrRecordTooLarge, "a record of 11 bytes is above what topic narrow takes: 10, and 16777216 in a request (RECORD_TOO_LARGE)"},
		"header":    {client.Record{Topic: "t", Headers: []client.Header{{Key: "\xff"}}}, client.ErrInvalidField, "headers: the key of header 0 is not UTF-8 (INVALID_FIELD)"},
		"time":      {client.Record{Topic: "t", Timestamp: time.UnixMilli(-1)}, client.ErrInvalidField, ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := p.Produce(t.Context(), &tc.record, func(*client.Record, error) { t.Error("the promise of a record that was not taken") })
			require.ErrorIs(t, err, tc.want)
			if tc.text != "" {
				require.EqualError(t, err, tc.text)
			}
		})
	}
}

// A limit that was raised is asked for before a record is refused by what was known.
func TestRaisedLimit(t *testing.T) {
	f := start(t, 1)
	a := client.NewAdmin(f.Client)
	_, err := a.CreateTopic(t.Context(), "narrow", 1, map[string]string{"max.message.bytes": "10"})
	require.NoError(t, err)
	p := f.producer(t, client.ProducerConfig{})
	r := &client.Record{Topic: "narrow", Value: make([]byte, 20)}
	require.ErrorIs(t, p.ProduceSync(t.Context(), r), client.ErrRecordTooLarge)
	_, err = a.AlterTopic(t.Context(), "narrow", client.TopicChange{Set: map[string]string{"max.message.bytes": "100"}})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return p.ProduceSync(t.Context(), r) == nil }, 10*time.Second, 10*time.Millisecond)
}

func TestProduceBlocksWhileTheBufferIsFull(t *testing.T) {
	f := start(t, 1)
	var open atomic.Bool
	for _, n := range f.nodes {
		n.Before = onWrite(func() error {
			if open.Load() {
				return nil
			}
			return clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader")
		})
	}
	p := f.producer(t, client.ProducerConfig{BufferBytes: 1000})
	var s sent
	value := make([]byte, 300)
	for range 2 {
		require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t", Value: value}, s.promise))
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Produce(ctx, &client.Record{Topic: "t", Value: value}, s.promise), context.DeadlineExceeded)
	require.ErrorIs(t, p.Flush(ctx), context.DeadlineExceeded)
	require.Equal(t, 2, p.BufferedRecords())
	open.Store(true)
	require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t", Value: value}, s.promise), "room again")
	require.NoError(t, p.Flush(t.Context()))
	require.Len(t, s.acked, 3)
}

func TestCloseProducer(t *testing.T) {
	f := start(t, 1)
	p := f.producer(t, client.ProducerConfig{Linger: time.Minute})
	var s sent
	require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t", Value: []byte("a")}, s.promise))
	require.NoError(t, p.Close(t.Context()), "it flushes")
	require.Equal(t, []string{"a"}, s.acked)
	require.NoError(t, p.Close(t.Context()))
	require.ErrorIs(t, p.Produce(t.Context(), &client.Record{Topic: "t"}, s.promise), client.ErrClosed)

	appended := make(chan struct{}, 1)
	for _, n := range f.nodes {
		n.Appended = func() error {
			select {
			case appended <- struct{}{}:
			default:
			}
			return clienttest.Break()
		}
	}
	p = f.producer(t, client.ProducerConfig{})
	require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t", Value: []byte("b")}, s.promise))
	<-appended
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, p.Close(ctx), context.DeadlineExceeded)
	require.ErrorIs(t, s.failed["b"], client.ErrClosed)
	require.ErrorIs(t, s.failed["b"], client.ErrOutcomeUnknown)
}

func TestProducerOfAClosedClient(t *testing.T) {
	f := start(t, 1)
	p := f.producer(t, client.ProducerConfig{})
	require.NoError(t, p.ProduceSync(t.Context(), &client.Record{Topic: "t"}))
	require.NoError(t, f.Close())
	require.NoError(t, f.Close())
	require.ErrorIs(t, p.Produce(t.Context(), &client.Record{Topic: "t"}, nil), client.ErrClosed)
}

func TestRecordsWithoutKeyShareBatches(t *testing.T) {
	f := start(t, 8)
	p := f.producer(t, client.ProducerConfig{Linger: time.Minute})
	for range 50 {
		require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t"}, nil))
	}
	require.NoError(t, p.Flush(t.Context()))
	for range 50 {
		require.NoError(t, p.Produce(t.Context(), &client.Record{Topic: "t"}, nil))
	}
	require.NoError(t, p.Flush(t.Context()))
	used := 0
	for i := range 8 {
		if n := len(f.cluster.Values("t", i)); n > 0 {
			require.Equal(t, 50, n)
			used++
		}
	}
	require.Equal(t, 2, used, "a batch fills before another partition is chosen")
}

func TestProducerMetrics(t *testing.T) {
	f := start(t, 1)
	reg := prometheus.NewRegistry()
	c := open(t, client.Config{Addrs: []string{f.nodes[0].Addr()}, Registerer: reg})
	p, err := client.NewProducer(c, client.ProducerConfig{})
	require.NoError(t, err)
	require.NoError(t, p.ProduceSync(t.Context(), &client.Record{Topic: "t", Key: []byte("k"), Value: []byte("va")}))
	require.NoError(t, p.Close(t.Context()))
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(`
		# HELP streamhouse_client_produced_bytes_total Bytes of keys, values and headers acknowledged.
		# TYPE streamhouse_client_produced_bytes_total counter
		streamhouse_client_produced_bytes_total{topic="t"} 3
		# HELP streamhouse_client_produce_buffered_bytes Bytes that wait for their acknowledgement.
		# TYPE streamhouse_client_produce_buffered_bytes gauge
		streamhouse_client_produce_buffered_bytes 0
	`), "streamhouse_client_produced_bytes_total", "streamhouse_client_produce_buffered_bytes"))
	_, err = client.New(client.Config{Registerer: reg})
	require.ErrorContains(t, err, "another client's metrics")
}

func TestBadConfigs(t *testing.T) {
	for text, cfg := range map[string]client.Config{
		`client config: Addrs: "a" must be HOST:PORT`:                        {Addrs: []string{"a"}},
		"client config: DialTimeout: -1ns is below 0":                        {DialTimeout: -1},
		"client config: ClientID: it has 250 bytes, at most 249 are allowed": {ClientID: string(make([]byte, 250))},
	} {
		_, err := client.New(cfg)
		require.EqualError(t, err, text)
	}
	f := start(t, 1)
	for text, cfg := range map[string]client.ProducerConfig{
		`producer config: Acks: "all" must be quorum or durable`:                 {Acks: "all"},
		`producer config: Compression: "gzip" must be none, snappy, lz4 or zstd`: {Compression: "gzip"},
		"producer config: BatchBytes: 8388609 is not from 1 to 8388608":          {BatchBytes: 8<<20 + 1},
		"producer config: Linger: 2m0s is above 1m0s":                            {Linger: 2 * time.Minute},
		"producer config: BufferBytes: -1 is below 0":                            {BufferBytes: -1},
		"producer config: DeliveryTimeout: -1ns is below 0":                      {DeliveryTimeout: -1},
	} {
		_, err := client.NewProducer(f.Client, cfg)
		require.EqualError(t, err, text)
	}
}

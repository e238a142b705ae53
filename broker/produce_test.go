package broker

import (
	"context"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker/shard"
	"github.com/streamhouse/streamhouse/internal/tracing"
	"github.com/streamhouse/streamhouse/storage/record"
)

func value(v string) *streamhousev1.Record { return &streamhousev1.Record{Value: []byte(v)} }

func keyed(k, v string) *streamhousev1.Record {
	return &streamhousev1.Record{Key: []byte(k), Value: []byte(v)}
}

// produce writes values to one partition of topic "t".
func (f *fixture) produce(t *testing.T, partition int32, values ...string) {
	t.Helper()
	req := &streamhousev1.ProduceBatchRequest{Topic: "t", Partition: &partition}
	for i, v := range values {
		r := value(v)
		ms := int64(1000 + i)
		r.TimestampMs = &ms
		req.Records = append(req.Records, r)
	}
	_, err := f.ProduceBatch(t.Context(), req)
	require.NoError(t, err)
}

func TestProduceThroughLeaderAndFollower(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 2, nil) // partition 1 is in shard 1, which n2 leads
	for _, partition := range []int32{0, 1} {
		batch, err := f.ProduceBatch(t.Context(), &streamhousev1.ProduceBatchRequest{Topic: "t", Partition: &partition, Records: []*streamhousev1.Record{value("v")}})
		require.NoError(t, err)
		require.Equal(t, partition == 1, batch.GetBatches()[0].GetForwarded())
		for want := range int64(3) {
			res, err := f.Produce(t.Context(), &streamhousev1.ProduceRequest{Topic: "t", Partition: &partition, Record: value("v")})
			require.NoError(t, err)
			require.Equal(t, partition, res.GetPartition())
			require.Equal(t, want+1, res.GetOffset())
		}
	}
	require.Equal(t, 4, f.peers["n2"].count("Append"))
}

func TestProduceKeepsRecordsAsTheyAre(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 1, nil)
	ms := int64(77)
	records := []*streamhousev1.Record{
		{Key: nil, Value: nil},
		{Key: []byte{}, Value: []byte{}, TimestampMs: &ms},
		{Key: []byte("k"), Value: []byte("v"), Headers: []*streamhousev1.Header{{Key: "h", Value: nil}, {Key: "h", Value: []byte{}}}},
	}
	res, err := f.ProduceBatch(t.Context(), &streamhousev1.ProduceBatchRequest{Topic: "t", Records: records, Acks: streamhousev1.Acks_ACKS_DURABLE})
	require.NoError(t, err)
	require.Len(t, res.GetBatches(), 1)
	require.Equal(t, int32(3), res.GetBatches()[0].GetRecords())
	s := f.shards[0]
	require.Equal(t, []bool{true}, s.durable)
	require.Equal(t, int64(4), s.appends[0][0].PayloadBytes)
	require.Equal(t, "t", s.appends[0][0].Topic)
	var got []record.Record
	for r, err := range s.logs[topic.PartitionIDs[0]].batches[0].All() {
		require.NoError(t, err)
		got = append(got, r)
	}
	require.Nil(t, got[0].Key)
	require.Nil(t, got[0].Value)
	require.WithinDuration(t, time.Now(), time.UnixMilli(got[0].TimestampMs), time.Minute)
	require.NotNil(t, got[1].Key)
	require.Empty(t, got[1].Key)
	require.NotNil(t, got[1].Value)
	require.Equal(t, ms, got[1].TimestampMs)
	require.Equal(t, []record.Header{{Key: "h"}, {Key: "h", Value: []byte{}}}, got[2].Headers)
}

func TestSpread(t *testing.T) {
	records := []*streamhousev1.Record{value("a"), keyed("k1", "b"), value("c"), keyed("k2", "d"), keyed("k1", "e"), {Key: []byte{}}}
	seen := map[int32]bool{}
	for range 200 {
		numbers, by := spread(records, 7)
		require.Len(t, numbers, len(by))
		n := record.PartitionForKey([]byte("k1"), 7)
		require.Contains(t, by[n], records[1])
		require.Contains(t, by[n], records[4])
		require.Contains(t, by[record.PartitionForKey([]byte{}, 7)], records[5], "an empty key is a key")
		for number, rs := range by {
			for i, r := range rs {
				if r == records[0] {
					seen[number] = true
					require.Contains(t, rs[i:], records[2], "keyless records of a call stay together, in order")
				}
			}
		}
	}
	require.Greater(t, len(seen), 3, "calls are spread")
}

func TestProduceRefusals(t *testing.T) {
	partition, negative, missing := int32(0), int32(-1), int32(9)
	big := strings.Repeat("x", 101)
	ms := int64(-1)
	producer := func(id int64, epoch, seq int32) *streamhousev1.ProducerSequence {
		return &streamhousev1.ProducerSequence{ProducerId: id, ProducerEpoch: epoch, BaseSequence: seq}
	}
	one := []*streamhousev1.Record{value("v")}
	tests := []struct {
		name  string
		req   *streamhousev1.ProduceBatchRequest
		want  Reason
		field string
	}{
		{"bad name", &streamhousev1.ProduceBatchRequest{Topic: "a b", Records: one}, reasonInvalidField, "topic"},
		{"no topic", &streamhousev1.ProduceBatchRequest{Topic: "nope", Records: one}, reasonTopicNotFound, ""},
		{"no records", &streamhousev1.ProduceBatchRequest{Topic: "t"}, reasonInvalidField, "records"},
		{"negative partition", &streamhousev1.ProduceBatchRequest{Topic: "t", Partition: &negative, Records: one}, reasonInvalidField, "partition"},
		{"no partition", &streamhousev1.ProduceBatchRequest{Topic: "t", Partition: &missing, Records: one}, reasonPartitionNotFound, ""},
		{"record above the topic's bound", &streamhousev1.ProduceBatchRequest{Topic: "t", Records: []*streamhousev1.Record{value(big)}}, reasonRecordTooLarge, ""},
		{"negative timestamp", &streamhousev1.ProduceBatchRequest{Topic: "t", Records: []*streamhousev1.Record{{TimestampMs: &ms}}}, reasonInvalidField, "records.timestamp_ms"},
		{"unknown acks", &streamhousev1.ProduceBatchRequest{Topic: "t", Records: one, Acks: 9}, reasonInvalidField, "acks"},
		{"producer without partition", &streamhousev1.ProduceBatchRequest{Topic: "t", Records: one, Producer: producer(1, 0, 0)}, reasonInvalidField, "partition"},
		{"producer id", &streamhousev1.ProduceBatchRequest{Topic: "t", Partition: &partition, Records: one, Producer: producer(-1, 0, 0)}, reasonInvalidField, "producer.producer_id"},
		{"producer epoch", &streamhousev1.ProduceBatchRequest{Topic: "t", Partition: &partition, Records: one, Producer: producer(1, 40000, 0)}, reasonInvalidField, "producer.producer_epoch"},
		{"sequence", &streamhousev1.ProduceBatchRequest{Topic: "t", Partition: &partition, Records: one, Producer: producer(1, 0, -1)}, reasonInvalidField, "producer.base_sequence"},
	}
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, map[string]string{"max.message.bytes": "100"})
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := f.ProduceBatch(t.Context(), tt.req)
			e := requireReason(t, tt.want, err)
			if tt.field != "" {
				require.Equal(t, tt.field, e["field"])
			}
		})
	}
	require.Empty(t, f.shards[0].appends)
	_, err := f.Produce(t.Context(), &streamhousev1.ProduceRequest{Topic: "t"})
	requireReason(t, reasonInvalidField, err)
}

func rawBatch(t *testing.T, c record.BuilderConfig, values ...string) []byte {
	t.Helper()
	bl := record.NewBuilder(c)
	for _, v := range values {
		bl.Append(record.Record{TimestampMs: 5, Value: []byte(v)})
	}
	b, err := bl.Build()
	require.NoError(t, err)
	return append([]byte(nil), b...)
}

var noProducer = record.BuilderConfig{ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}

func TestProduceRecordBatches(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, map[string]string{"max.message.bytes": "100"})
	two := append(rawBatch(t, noProducer, "a", "b"), rawBatch(t, noProducer, "c")...)
	res, err := f.ProduceRecordBatches(t.Context(), &streamhousev1.ProduceRecordBatchesRequest{Topic: "t", RecordBatches: two})
	require.NoError(t, err)
	require.Len(t, res.GetBatches(), 2)
	require.Equal(t, int64(2), res.GetBatches()[1].GetBaseOffset())
	require.Len(t, f.shards[0].appends, 1, "both go in one request")

	flipped := rawBatch(t, noProducer, "a")
	flipped[len(flipped)-1] ^= 1
	for name, tt := range map[string]struct {
		data []byte
		want Reason
	}{
		"empty":     {nil, reasonInvalidField},
		"corrupt":   {flipped, reasonCorruptBatch},
		"truncated": {two[:len(two)-1], reasonCorruptBatch},
		"too large": {rawBatch(t, noProducer, strings.Repeat("x", 200)), reasonRecordTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := f.ProduceRecordBatches(t.Context(), &streamhousev1.ProduceRecordBatchesRequest{Topic: "t", RecordBatches: tt.data})
			e := requireReason(t, tt.want, err)
			require.Equal(t, "record_batches", e["field"])
		})
	}
	require.Len(t, f.shards[0].appends, 1)
}

func TestProducePartlyWrittenSaysSo(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 2, nil)
	f.shards[1].reasons[topic.PartitionIDs[1]] = reasonPartitionNotFound
	var records []*streamhousev1.Record
	for i := range 50 {
		records = append(records, keyed(strconv.Itoa(i), "v"))
	}
	_, err := f.ProduceBatch(t.Context(), &streamhousev1.ProduceBatchRequest{Topic: "t", Records: records})
	e := requireReason(t, reasonOutcomeUnknown, err)
	require.Equal(t, "0", e["written_partitions"])
	require.Len(t, f.shards[0].appends, 1, "what was written is not sent again")
	require.Len(t, f.shards[1].appends, 1)
}

func TestProduceSequencesRefused(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 1, nil)
	for _, reason := range []Reason{reasonOutOfOrder, reasonFenced, reasonUnknownProducer, reasonDuplicate} {
		f.shards[0].reasons[topic.PartitionIDs[0]] = reason
		partition := int32(0)
		_, err := f.ProduceBatch(t.Context(), &streamhousev1.ProduceBatchRequest{
			Topic: "t", Partition: &partition, Records: []*streamhousev1.Record{value("v")},
			Producer: &streamhousev1.ProducerSequence{ProducerId: 4, ProducerEpoch: 1, BaseSequence: 7},
		})
		requireReason(t, reason, err)
	}
}

func TestProduceAfterTopicWasCreatedAnew(t *testing.T) {
	f := newFixture(t, true)
	old := f.meta.createTopic(t, "t", 1, nil)
	f.meta.lag = true
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{Name: "t", Uuid: old.UUID[:], TimeMs: 3}}})
	uuid := make([]byte, 16)
	uuid[0] = 9
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{Name: "t", Uuid: uuid, Partitions: 1, TimeMs: 4}}})
	for _, s := range f.shards {
		s.reasons[old.PartitionIDs[0]] = reasonPartitionNotFound
	}
	res, err := f.Produce(t.Context(), &streamhousev1.ProduceRequest{Topic: "t", Record: value("v")})
	require.NoError(t, err)
	require.Equal(t, int64(0), res.GetOffset())
}

func TestProduceAcrossElection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFixture(t, true)
		f.meta.createTopic(t, "t", 1, nil)
		f.shards[0].leader = ""
		time.AfterFunc(2*time.Second, func() { f.shards[0].set(func() { f.shards[0].leader = "n3/r" }) })
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := f.Produce(ctx, &streamhousev1.ProduceRequest{Topic: "t", Record: value("v")})
		require.NoError(t, err)
		require.Equal(t, 1, f.peers["n3"].count("Append"))
	})
}

// vague-error: a write of unknown outcome is told as such, and sent again only where it carries a producer id.
func TestVagueError(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	lost := func() error { return shard.ErrUnknownOutcome }
	f.shards[0].answers = []func() error{lost}
	_, err := f.Produce(t.Context(), &streamhousev1.ProduceRequest{Topic: "t", Record: value("v")})
	requireReason(t, reasonOutcomeUnknown, err)
	require.Empty(t, f.shards[0].appends, "it is not sent again")

	f.shards[0].answers = []func() error{lost}
	partition := int32(0)
	_, err = f.Produce(t.Context(), &streamhousev1.ProduceRequest{
		Topic: "t", Partition: &partition, Record: value("v"), Producer: &streamhousev1.ProducerSequence{ProducerId: 1},
	})
	require.NoError(t, err)
	require.Len(t, f.shards[0].appends, 1)
}

// testStream is a client's stream in memory.
type testStream struct {
	requests chan *streamhousev1.ProduceStreamRequest
	results  chan StreamResult
	err      error
	released chan struct{}
}

func (s *testStream) Recv() (*streamhousev1.ProduceStreamRequest, func(), error, error) {
	req, ok := <-s.requests
	if !ok {
		return nil, nil, nil, s.err
	}
	return req, func() { s.released <- struct{}{} }, nil, nil
}

func (s *testStream) Send(r StreamResult) error {
	s.results <- r
	return nil
}

func TestProduceStreamKeepsOrder(t *testing.T) {
	f := newFixture(t, true)
	topic := f.meta.createTopic(t, "t", 2, nil)
	const n = 500
	s := &testStream{
		requests: make(chan *streamhousev1.ProduceStreamRequest, n+1), results: make(chan StreamResult, n+1), err: io.EOF,
		released: make(chan struct{}, n+1),
	}
	for i := range n {
		partition := int32(i % 2)
		name := "t"
		if i == 100 {
			name = "nope"
		}
		s.requests <- &streamhousev1.ProduceStreamRequest{Id: uint64(i), Write: &streamhousev1.ProduceStreamRequest_Batch{
			Batch: &streamhousev1.ProduceBatchRequest{Topic: name, Partition: &partition, Records: []*streamhousev1.Record{value(fmt.Sprint(i))}},
		}}
	}
	s.requests <- &streamhousev1.ProduceStreamRequest{Id: n}
	close(s.requests)
	require.NoError(t, f.ProduceStream(t.Context(), s))
	require.Len(t, s.released, n+1)
	for i := range n + 1 {
		r := <-s.results
		require.Equal(t, uint64(i), r.ID)
		switch i {
		case 100:
			requireReason(t, reasonTopicNotFound, r.Err)
		case n:
			requireReason(t, reasonInvalidField, r.Err)
		default:
			require.NoError(t, r.Err)
			require.Len(t, r.Batches, 1)
		}
	}
	for p, id := range topic.PartitionIDs {
		last := -1
		for _, b := range f.shards[p].logs[id].batches {
			for rec, err := range b.All() {
				require.NoError(t, err)
				i, err := strconv.Atoi(string(rec.Value))
				require.NoError(t, err)
				require.Greater(t, i, last)
				last = i
			}
		}
	}
	require.Less(t, len(f.shards[1].appends), n/2, "what waits goes together")
}

// A span waits until it is exported, and so holds no name that is not a topic's.
func TestSpansHoldNoRefusedNames(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	spans := tracetest.NewSpanRecorder()
	f.tracer = tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)))
	s := &testStream{
		requests: make(chan *streamhousev1.ProduceStreamRequest, 2), results: make(chan StreamResult, 2), err: io.EOF,
		released: make(chan struct{}, 2),
	}
	for _, name := range []string{"t", strings.Repeat("x", 1<<20)} {
		s.requests <- &streamhousev1.ProduceStreamRequest{Write: &streamhousev1.ProduceStreamRequest_Batch{
			Batch: &streamhousev1.ProduceBatchRequest{Topic: name, Records: []*streamhousev1.Record{value("v")}},
		}}
	}
	close(s.requests)
	require.NoError(t, f.ProduceStream(t.Context(), s))
	var names []string
	for _, span := range spans.Ended() {
		require.Less(t, len(span.Status().Description), 1<<10)
		for _, a := range span.Attributes() {
			if a.Key == "messaging.destination.name" {
				names = append(names, a.Value.AsString())
			}
		}
	}
	require.Equal(t, []string{"t"}, names)
}

func TestProduceStreamOfBrokenClient(t *testing.T) {
	f := newFixture(t, true)
	f.meta.createTopic(t, "t", 1, nil)
	s := &testStream{requests: make(chan *streamhousev1.ProduceStreamRequest), err: errUnreachable}
	close(s.requests)
	require.ErrorIs(t, f.ProduceStream(t.Context(), s), errUnreachable)
}

func TestInitProducer(t *testing.T) {
	f := newFixture(t, true)
	seen := map[int64]bool{}
	for range 2500 {
		res, err := f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{})
		require.NoError(t, err)
		require.Positive(t, res.GetProducerId())
		require.Zero(t, res.GetProducerEpoch())
		require.False(t, seen[res.GetProducerId()])
		seen[res.GetProducerId()] = true
	}
	res, err := f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{ProducerId: 5, ProducerEpoch: 3})
	require.NoError(t, err)
	require.Equal(t, int64(5), res.GetProducerId())
	require.Equal(t, int32(4), res.GetProducerEpoch())
	res, err = f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{ProducerId: 5, ProducerEpoch: math.MaxInt16})
	require.NoError(t, err)
	require.False(t, seen[res.GetProducerId()], "epochs are used up: a new id")
	_, err = f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{ProducerId: 1 << 40})
	requireReason(t, reasonInvalidField, err)
	_, err = f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{ProducerId: -5})
	requireReason(t, reasonInvalidField, err)
	_, err = f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{ProducerId: 5, ProducerEpoch: math.MaxInt16 + 1})
	requireReason(t, reasonInvalidField, err)
}

// TestInitProducerAfterRecovery: an id of before it is of no use any more.
func TestInitProducerAfterRecovery(t *testing.T) {
	f := newFixture(t, true)
	f.meta.recovered(t)
	first := f.meta.View().FirstProducerID()
	res, err := f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{ProducerId: 5, ProducerEpoch: 3})
	require.NoError(t, err)
	require.GreaterOrEqual(t, res.GetProducerId(), first)
	require.Zero(t, res.GetProducerEpoch())
	again, err := f.InitProducer(t.Context(), &streamhousev1.InitProducerRequest{ProducerId: res.GetProducerId()})
	require.NoError(t, err)
	require.Equal(t, res.GetProducerId(), again.GetProducerId())
	require.Equal(t, int32(1), again.GetProducerEpoch())
}

package rpc

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/broker"
	"github.com/streamhouse/streamhouse/broker/shard"
)

const (
	producerErrors = "streamhouse_producer_errors_total"
	consumerErrors = "streamhouse_consumer_errors_total"
)

func reasonOf(err error) string {
	for _, d := range status.Convert(err).Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			return info.GetReason()
		}
	}
	return ""
}

func requireFailure(t *testing.T, err error, code codes.Code, reason string) {
	t.Helper()
	require.Equal(t, code.String(), status.Code(err).String(), "%v", err)
	require.Equal(t, reason, reasonOf(err))
}

func batchOf(values ...string) *streamhousev1.ProduceBatchRequest {
	req := &streamhousev1.ProduceBatchRequest{Topic: "t"}
	for _, v := range values {
		req.Records = append(req.Records, &streamhousev1.Record{Value: []byte(v)})
	}
	return req
}

// TestOverTheWire produces and consumes through a node that has nothing of its own.
func TestOverTheWire(t *testing.T) {
	c := newCluster(t, Config{})
	ctx := t.Context()
	created, err := c.log.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: "u", Partitions: 1})
	require.NoError(t, err)
	require.Equal(t, "u", created.GetTopic().GetName())
	_, err = c.log.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: "u", Partitions: 1})
	requireFailure(t, err, codes.AlreadyExists, "TOPIC_EXISTS")
	_, err = c.log.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: "nope"})
	requireFailure(t, err, codes.NotFound, "TOPIC_NOT_FOUND")
	list, err := c.log.ListTopics(ctx, &streamhousev1.ListTopicsRequest{})
	require.NoError(t, err)
	require.Len(t, list.GetTopics(), 2)
	_, err = c.log.AlterTopic(ctx, &streamhousev1.AlterTopicRequest{Name: "u", Partitions: 2})
	require.NoError(t, err)
	_, err = c.log.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: "u"})
	require.NoError(t, err)

	one, err := c.log.Produce(ctx, &streamhousev1.ProduceRequest{Topic: "t", Record: &streamhousev1.Record{Key: []byte{}}})
	require.NoError(t, err)
	require.Zero(t, one.GetOffset())
	many, err := c.log.ProduceBatch(ctx, batchOf("1", "2"))
	require.NoError(t, err)
	require.Equal(t, int64(1), many.GetBatches()[0].GetBaseOffset())
	got, err := c.log.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "t"})
	require.NoError(t, err)
	require.Len(t, got.GetRecords(), 3)
	require.NotNil(t, got.GetRecords()[0].Key, "an empty key is not a null key")
	require.Nil(t, got.GetRecords()[0].Value)
	require.InDelta(t, 3, c.counted(t, "streamhouse_consumer_records_total", "", "t"), 0)

	raw, err := c.log.ConsumeRecordBatches(ctx, &streamhousev1.ConsumeRecordBatchesRequest{Topic: "t", Offset: 1})
	require.NoError(t, err)
	again, err := c.log.ProduceRecordBatches(ctx, &streamhousev1.ProduceRecordBatchesRequest{Topic: "t", RecordBatches: raw.GetRecordBatches()})
	require.NoError(t, err)
	require.Equal(t, int64(3), again.GetBatches()[0].GetBaseOffset())

	_, err = c.log.Consume(ctx, &streamhousev1.ConsumeRequest{Topic: "t", Offset: 99})
	requireFailure(t, err, codes.OutOfRange, "OFFSET_OUT_OF_RANGE")
	require.InDelta(t, 1, c.counted(t, consumerErrors, "", "out_of_range", "t"), 0)
	offsets, err := c.log.ListOffsets(ctx, &streamhousev1.ListOffsetsRequest{Topic: "t", Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}})
	require.NoError(t, err)
	require.Equal(t, int64(5), offsets.GetOffsets()[0].GetOffset())
	_, err = c.log.CommitOffset(ctx, &streamhousev1.CommitOffsetRequest{Group: "g", Topic: "t", Offsets: []*streamhousev1.CommittedOffset{{Offset: 5}}})
	require.NoError(t, err)
	committed, err := c.log.GetOffset(ctx, &streamhousev1.GetOffsetRequest{Group: "g", Topic: "t"})
	require.NoError(t, err)
	require.Equal(t, int64(5), committed.GetOffsets()[0].GetOffset())
	producer, err := c.log.InitProducer(ctx, &streamhousev1.InitProducerRequest{})
	require.NoError(t, err)
	require.Positive(t, producer.GetProducerId())
	st, err := c.admin.GetClusterStatus(ctx, &streamhousev1.GetClusterStatusRequest{})
	require.NoError(t, err)
	require.Equal(t, "n1", st.GetShards()[0].GetLeader())
	_, err = c.admin.TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{NodeId: "n1"})
	require.NoError(t, err)
	_, err = c.admin.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: "n1"})
	requireFailure(t, err, codes.FailedPrecondition, "CANNOT_PLACE_REPLICAS")
	_, err = c.admin.UndrainNode(ctx, &streamhousev1.UndrainNodeRequest{NodeId: "n1"})
	require.NoError(t, err)
	_, err = c.admin.DecommissionNode(ctx, &streamhousev1.DecommissionNodeRequest{NodeId: "nope"})
	requireFailure(t, err, codes.NotFound, "NODE_NOT_FOUND")
}

func TestConsumeWaitsOverTheWire(t *testing.T) {
	c := newCluster(t, Config{})
	var wg sync.WaitGroup
	defer wg.Wait()
	stream, err := c.log.ConsumeStream(t.Context(), &streamhousev1.ConsumeStreamRequest{Topic: "t", Follow: true, MaxRecords: 2})
	require.NoError(t, err)
	wg.Go(func() {
		for range 2 {
			_, err := c.log.ProduceBatch(t.Context(), batchOf("x"))
			require.NoError(t, err)
		}
	})
	res, err := c.log.Consume(t.Context(), &streamhousev1.ConsumeRequest{Topic: "t", MaxWait: durationpb.New(10 * time.Second)})
	require.NoError(t, err)
	require.NotEmpty(t, res.GetRecords())
	n := 0
	for {
		m, err := stream.Recv()
		if err == io.EOF { //nolint:errorlint // gRPC returns it bare
			break
		}
		require.NoError(t, err)
		n += len(m.GetRecords())
	}
	require.Equal(t, 2, n)
}

func TestProduceStreamOverTheWire(t *testing.T) {
	c := newCluster(t, Config{MaxRequestBytes: 1 << 10})
	s, err := c.log.ProduceStream(t.Context())
	require.NoError(t, err)
	requests := []*streamhousev1.ProduceBatchRequest{batchOf("1"), batchOf(strings.Repeat("x", 1<<10)), {Topic: "nope", Records: batchOf("x").GetRecords()}, batchOf("2", "3")}
	for i, r := range requests {
		require.NoError(t, s.Send(&streamhousev1.ProduceStreamRequest{Id: uint64(i), Write: &streamhousev1.ProduceStreamRequest_Batch{Batch: r}}))
	}
	require.NoError(t, s.CloseSend())
	want := []streamhousev1.ErrorReason{
		streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED, streamhousev1.ErrorReason_ERROR_REASON_REQUEST_TOO_LARGE,
		streamhousev1.ErrorReason_ERROR_REASON_TOPIC_NOT_FOUND, streamhousev1.ErrorReason_ERROR_REASON_UNSPECIFIED,
	}
	for i := range requests {
		res, err := s.Recv()
		require.NoError(t, err)
		require.Equal(t, uint64(i), res.GetId())
		require.Equal(t, want[i], res.GetError().GetReason(), "%d: %s", i, res.GetError().GetMessage())
		if res.GetError() != nil {
			require.NotZero(t, res.GetError().GetCode())
		}
	}
	_, err = s.Recv()
	require.Equal(t, io.EOF, err)
	require.InDelta(t, 1, c.counted(t, producerErrors, "too_large", "t"), 0)
	require.InDelta(t, 1, c.counted(t, producerErrors, "not_found", ""), 0)
}

func TestRequestsAboveTheBound(t *testing.T) {
	c := newCluster(t, Config{MaxRequestBytes: 1 << 20})
	_, err := c.log.ProduceBatch(t.Context(), batchOf(strings.Repeat("x", 1<<20)))
	requireFailure(t, err, codes.InvalidArgument, "REQUEST_TOO_LARGE")
	require.ErrorContains(t, err, "1048576")
	require.InDelta(t, 1, c.counted(t, producerErrors, "too_large", "t"), 0)

	_, err = c.log.ProduceBatch(t.Context(), batchOf(strings.Repeat("x", 3<<20)))
	require.Equal(t, codes.ResourceExhausted, status.Code(err), "gRPC refuses it unread")
	require.InDelta(t, 1, c.counted(t, producerErrors, "too_large", ""), 0)
}

// What gRPC can't decode, it refuses before any interceptor: it is counted all the same, and what an interceptor has
// counted is not counted again.
func TestUndecodableRequestsAreCounted(t *testing.T) {
	c := newCluster(t, Config{})
	before := c.counted(t, consumerErrors, "", "invalid", "")
	raw := encoding.GetCodecV2("proto")
	for i, method := range []string{
		streamhousev1.StreamHouseService_Produce_FullMethodName, streamhousev1.StreamHouseService_ProduceBatch_FullMethodName,
	} {
		err := c.conn.Invoke(t.Context(), method, t, &streamhousev1.ProduceResponse{}, grpc.ForceCodecV2(undecodable{raw}))
		require.Equal(t, codes.Internal, status.Code(err), "%v", err)
		require.InDelta(t, i+1, c.counted(t, producerErrors, "invalid", ""), 0)
	}
	err := c.conn.Invoke(t.Context(), streamhousev1.StreamHouseService_Consume_FullMethodName, t, &streamhousev1.ConsumeResponse{}, grpc.ForceCodecV2(undecodable{raw}))
	require.Equal(t, codes.Internal, status.Code(err), "%v", err)
	require.InDelta(t, before+1, c.counted(t, consumerErrors, "", "invalid", ""), 0)

	_, err = c.log.Produce(t.Context(), &streamhousev1.ProduceRequest{Topic: "nope", Record: &streamhousev1.Record{}})
	require.Equal(t, codes.NotFound, status.Code(err), "%v", err)
	require.InDelta(t, 1, c.counted(t, producerErrors, "not_found", ""), 0)
}

// undecodable sends what is no protobuf message.
type undecodable struct{ encoding.CodecV2 }

func (undecodable) Marshal(any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer("\xff")}, nil
}

// What is under way is told, beside its bound.
func TestLimiterIsExported(t *testing.T) {
	reg := prometheus.NewRegistry()
	l := newLimiter(100)
	l.export(reg, "clients")
	release, err := l.acquire(60)
	require.NoError(t, err)
	_, err = l.acquire(60)
	require.Error(t, err)
	const text = `
# HELP streamhouse_inflight_request_bytes Bytes of the requests that are under way.
# TYPE streamhouse_inflight_request_bytes gauge
streamhouse_inflight_request_bytes{callers="clients"} %d
# HELP streamhouse_inflight_request_limit_bytes Bound of the bytes of requests under way; beyond it they are refused.
# TYPE streamhouse_inflight_request_limit_bytes gauge
streamhouse_inflight_request_limit_bytes{callers="clients"} 100
`
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(text, 60))))
	release()
	require.NoError(t, testutil.GatherAndCompare(reg, strings.NewReader(fmt.Sprintf(text, 0))))
}

func TestBytesUnderWayAreBounded(t *testing.T) {
	c := newCluster(t, Config{MaxInflightBytes: 1000})
	began, end := make(chan struct{}), make(chan struct{})
	c.shard.before = func(context.Context) error {
		close(began)
		<-end
		return nil
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := c.log.ProduceBatch(t.Context(), batchOf(strings.Repeat("x", 900)))
		require.NoError(t, err)
	})
	<-began
	_, err := c.log.ProduceBatch(t.Context(), batchOf(strings.Repeat("x", 200)))
	requireFailure(t, err, codes.ResourceExhausted, "TOO_MANY_INFLIGHT_BYTES")
	require.InDelta(t, 1, c.counted(t, producerErrors, "throttled", "t"), 0)
	c.shard.before = nil
	close(end)
	wg.Wait()
	_, err = c.log.ProduceBatch(t.Context(), batchOf(strings.Repeat("x", 5000)))
	require.NoError(t, err, "one request passes alone")
}

func TestPanicsBecomeErrors(t *testing.T) {
	logs := &lockedBuffer{}
	c := newCluster(t, Config{Logger: slog.New(slog.NewTextHandler(logs, nil))})
	c.shard.before = func(context.Context) error { panic("boom") }
	_, err := c.log.ProduceBatch(t.Context(), batchOf("x"))
	// The other node may have written before it failed.
	requireFailure(t, err, codes.Unavailable, "OUTCOME_UNKNOWN")
	_, err = c.node.Append(t.Context(), &nodev1.AppendRequest{})
	requireFailure(t, err, codes.Internal, "INTERNAL")
	require.NotContains(t, err.Error(), "boom", "clients are not told")
	require.Contains(t, logs.String(), "method=/streamhouse.v1.StreamHouseService/ProduceBatch")
}

// lockedBuffer is a buffer that a server may write to while a test reads.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestForwardingKeepsTheError lets the leader refuse, and looks at what a client of another node sees.
func TestForwardingKeepsTheError(t *testing.T) {
	c := newCluster(t, Config{})
	for _, tt := range []struct {
		err    error
		code   codes.Code
		reason string
	}{
		{shard.ErrLogFull, codes.ResourceExhausted, "LOG_FULL"},
		{shard.ErrDiskFull, codes.ResourceExhausted, "DISK_FULL"},
		{shard.ErrUnknownOutcome, codes.Unavailable, "OUTCOME_UNKNOWN"},
	} {
		c.shard.before = func(context.Context) error { return tt.err }
		_, err := c.log.ProduceBatch(t.Context(), batchOf("x"))
		requireFailure(t, err, tt.code, tt.reason)
	}
	require.InDelta(t, 2, c.counted(t, producerErrors, "throttled", "t"), 0)
	c.shard.before = func(context.Context) error { return &shard.NotLeaderError{} }
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := c.log.ProduceBatch(ctx, batchOf("x"))
	requireFailure(t, err, codes.Unavailable, "NO_LEADER")
}

func TestNodeService(t *testing.T) {
	c := newCluster(t, Config{})
	ctx := t.Context()
	_, err := c.node.Join(ctx, &nodev1.JoinRequest{})
	requireFailure(t, err, codes.FailedPrecondition, "WRONG_CLUSTER")
	_, err = c.node.ProposeMetadata(ctx, &nodev1.ProposeMetadataRequest{})
	requireFailure(t, err, codes.Unavailable, "NOT_LEADER")
	index, err := c.node.ReadMetadataIndex(ctx, &nodev1.ReadMetadataIndexRequest{})
	require.NoError(t, err)
	require.Equal(t, uint64(7), index.GetIndex())
	_, err = c.node.Append(ctx, &nodev1.AppendRequest{Shard: 5})
	requireFailure(t, err, codes.NotFound, "SHARD_NOT_FOUND")
	_, err = c.node.Append(ctx, &nodev1.AppendRequest{Batches: []*nodev1.PartitionBatch{{PartitionId: 1, RecordBatch: []byte("junk")}}})
	requireFailure(t, err, codes.InvalidArgument, "CORRUPT_BATCH")
	changed, err := c.node.ChangeMembership(ctx, &nodev1.ChangeMembershipRequest{})
	require.NoError(t, err)
	require.Equal(t, uint64(9), changed.GetIndex())
	found, err := c.node.FindOffset(ctx, &nodev1.FindOffsetRequest{PartitionId: 1})
	require.NoError(t, err)
	require.Equal(t, int64(-1), found.GetOffset())
	empty, err := c.node.Fetch(ctx, &nodev1.FetchRequest{PartitionId: 1, MaxWaitMs: 20})
	require.NoError(t, err)
	require.Empty(t, empty.GetRecordBatches())
}

func TestWithDeadline(t *testing.T) {
	ctx, cancel := withDeadline(t.Context())
	defer cancel()
	deadline, ok := ctx.Deadline()
	require.True(t, ok)
	require.WithinDuration(t, time.Now().Add(broker.DefaultDeadline), deadline, 5*time.Second)
	for _, d := range []time.Duration{time.Second, time.Minute} {
		outer, cancelOuter := context.WithTimeout(t.Context(), d)
		inner, cancelInner := withDeadline(outer)
		a, _ := outer.Deadline()
		b, _ := inner.Deadline()
		require.InDelta(t, float64(min(d/reserveShare, maxReserve)), float64(a.Sub(b)), float64(20*time.Millisecond))
		cancelInner()
		cancelOuter()
	}
}

func TestCallLog(t *testing.T) {
	logs := &lockedBuffer{}
	c := newCallLog(slog.New(slog.NewTextHandler(logs, &slog.HandlerOptions{Level: slog.LevelDebug})))
	ended := func(req, res any, err error) string {
		logs.reset()
		c.ended(t.Context(), "/m", c.begin(), req, res, err)
		return logs.String()
	}
	partition := int32(3)
	line := ended(&streamhousev1.ProduceBatchRequest{Topic: "orders", Partition: &partition},
		&streamhousev1.ProduceBatchResponse{Batches: []*streamhousev1.WrittenBatch{{BaseOffset: 7, Records: 2}, {Records: 3}}}, nil)
	require.Regexp(t, `level=DEBUG msg=call method=/m topic=orders partition=3 base_offset=7 records=5 took=\d`, line)
	line = ended(&streamhousev1.ConsumeRequest{Topic: "orders", Group: "g", Offset: 9}, &streamhousev1.ConsumeResponse{NextOffset: 9}, nil)
	require.Contains(t, line, "topic=orders group=g partition=0 offset=9 records=0 next_offset=9")
	line = ended(&nodev1.AppendRequest{Shard: 4, Batches: []*nodev1.PartitionBatch{{Topic: "orders"}}}, nil, nil)
	require.Contains(t, line, "shard=4 topic=orders batches=1")

	long := strings.Repeat("x", 1<<20)
	line = ended(&streamhousev1.ConsumeRequest{Topic: long, Group: long}, nil, broker.InvalidField("topic", "too long"))
	require.Less(t, len(line), 1<<10, "a name is written as far as one can be long")
	require.Contains(t, ended(&nodev1.AppendRequest{Batches: []*nodev1.PartitionBatch{{Topic: long}}}, nil, nil), "… batches=1")

	line = ended(nil, nil, &broker.Error{Reason: streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, Cause: errNone})
	require.Contains(t, line, "level=WARN")
	require.Contains(t, line, "reason=NO_LEADER cause=none")
	require.Contains(t, ended(nil, nil, broker.InvalidField("f", "bad")), "level=DEBUG", "the client's own mistake")
	require.Contains(t, ended(nil, nil, errNone), "level=ERROR", "the node's")
}

func TestServersWantTheirConfig(t *testing.T) {
	_, err := NewServer(Config{})
	require.ErrorContains(t, err, "Broker")
	_, err = NewNodeServer(NodeConfig{})
	require.ErrorContains(t, err, "Shards")
}

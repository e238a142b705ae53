package integration_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/storage/record"
)

// blockBytes is the size of a block of the cache.
const blockBytes = 1 << 20

// workload does a script of known size on a cluster with one shard, and counts on its own what it did.
type workload struct {
	t *testing.T
	c *harness.Cluster
	// leader leads the shard, follower has a replica of it, and outsider has none.
	leader, follower, outsider *harness.Node

	records, bytes, batches map[string]float64 // by topic
	acks                    map[string]float64 // by topic; batches, of which a duplicate is acknowledged too
	produceErrors           map[string]float64 // by labels
	consumed, consumeErrors map[string]float64 // by labels
	writes, flushes         map[string]float64 // by labels
	retries, failures       float64            // of PUT
	hits, misses            float64
	cached                  float64
}

func newWorkload(t *testing.T, c *harness.Cluster) *workload {
	t.Helper()
	w := &workload{
		t: t, c: c, leader: c.ShardLeader(0),
		records: make(map[string]float64), bytes: make(map[string]float64), batches: make(map[string]float64), acks: make(map[string]float64),
		produceErrors: make(map[string]float64), consumed: make(map[string]float64), consumeErrors: make(map[string]float64),
		writes: make(map[string]float64), flushes: make(map[string]float64),
	}
	holds := make(map[string]bool)
	for _, r := range c.Status().GetShards()[0].GetReplicas() {
		holds[r.GetNodeId()] = true
	}
	for _, n := range c.Others(w.leader) {
		if holds[n.ID] {
			w.follower = n
		} else {
			w.outsider = n
		}
	}
	require.NotNil(t, w.follower)
	require.NotNil(t, w.outsider)
	for _, n := range c.Nodes { // a busy machine may have had one at the start, where the store is tried for a few seconds
		w.retries += n.MustScrape(t).Sum("streamhouse_s3_errors_total", harness.Labels{"operation": "PUT", "error_type": "retry"})
	}
	return w
}

// orders are n records, with and without a key, a value and headers.
func orders(n int) []*streamhousev1.Record {
	out := make([]*streamhousev1.Record, 0, n)
	for i := range n {
		r := &streamhousev1.Record{Value: []byte(strings.Repeat("v", 100+i))}
		switch i % 3 {
		case 0:
			r.Key = fmt.Appendf(nil, "key %d", i)
		case 1:
			r.Headers = []*streamhousev1.Header{{Key: "trace", Value: []byte("abc")}, {Key: "trace", Value: nil}}
		default:
			r.Value = nil
		}
		out = append(out, r)
	}
	return out
}

// stored counts records that were acknowledged, in so many batches.
func (w *workload) stored(topic string, recs []*streamhousev1.Record, batches int) {
	for _, r := range recs {
		w.bytes[topic] += float64(len(r.GetKey()) + len(r.GetValue()))
		for _, h := range r.GetHeaders() {
			w.bytes[topic] += float64(len(h.GetKey()) + len(h.GetValue()))
		}
	}
	w.records[topic] += float64(len(recs))
	w.batches[topic] += float64(batches)
	w.acks[topic] += float64(batches)
}

// write produces a batch, and returns what was told of it.
func (w *workload) write(n *harness.Node, req *streamhousev1.ProduceBatchRequest) *streamhousev1.WrittenBatch {
	w.t.Helper()
	res, err := n.ProduceBatch(call(w.t), req)
	require.NoError(w.t, err, harness.Describe(err))
	last := res.GetBatches()[len(res.GetBatches())-1]
	if !last.GetDuplicate() {
		w.stored(req.GetTopic(), req.GetRecords(), len(res.GetBatches()))
	} else {
		w.acks[req.GetTopic()]++
	}
	return last
}

func batchOf(topic string, partition int32, n int) *streamhousev1.ProduceBatchRequest {
	return &streamhousev1.ProduceBatchRequest{Topic: topic, Partition: &partition, Records: orders(n)}
}

// durable writes n records, and waits until they are in S3, with all else that waits for an upload: pending names the
// partitions that have a segment in it.
func (w *workload) durable(partition int32, n int, pending ...string) {
	w.t.Helper()
	req := batchOf("orders", partition, n)
	req.Acks = streamhousev1.Acks_ACKS_DURABLE
	w.write(w.follower, req)
	for _, p := range pending {
		w.writes[p]++
		w.flushes[p]++
	}
}

// raw is a record batch as a Kafka client builds it.
func (w *workload) raw(recs []*streamhousev1.Record, c record.Compression) []byte {
	w.t.Helper()
	b := record.NewBuilder(record.BuilderConfig{ProducerID: -1, Compression: c})
	for _, r := range recs {
		rec := record.Record{TimestampMs: 1_700_000_000_000, Key: r.GetKey(), Value: r.GetValue()}
		for _, h := range r.GetHeaders() {
			rec.Headers = append(rec.Headers, record.Header{Key: h.GetKey(), Value: h.GetValue()})
		}
		b.Append(rec)
	}
	batch, err := b.Build()
	require.NoError(w.t, err)
	return batch
}

// produce writes in every way, through the leader, a follower, and a node without a replica.
func (w *workload) produce() {
	w.write(w.leader, batchOf("orders", 0, 7))
	w.write(w.follower, batchOf("orders", 1, 5))
	w.write(w.outsider, batchOf("orders", 0, 11))
	w.write(w.outsider, &streamhousev1.ProduceBatchRequest{Topic: "orders", Records: orders(12)}) // spread by key
	w.write(w.leader, batchOf("short-lived", 2, 2))

	one := orders(1)[0]
	_, err := w.outsider.Produce(call(w.t), &streamhousev1.ProduceRequest{Topic: "orders", Record: one})
	require.NoError(w.t, err)
	w.stored("orders", []*streamhousev1.Record{one}, 1)

	var batches []byte
	for _, c := range []record.Compression{record.None, record.Gzip, record.Snappy, record.LZ4, record.Zstd} {
		recs := orders(20)
		batches = append(batches, w.raw(recs, c)...)
		w.stored("orders", recs, 1)
	}
	_, err = w.follower.ProduceRecordBatches(call(w.t), &streamhousev1.ProduceRecordBatchesRequest{Topic: "orders", Partition: 1, RecordBatches: batches})
	require.NoError(w.t, err)
	w.stream()
	w.idempotent()
}

// stream writes two batches in a stream, and one that is refused in it.
func (w *workload) stream() {
	s, err := w.outsider.ProduceStream(call(w.t))
	require.NoError(w.t, err)
	for i, topic := range []string{"orders", "orders", "nothing"} {
		require.NoError(w.t, s.Send(&streamhousev1.ProduceStreamRequest{
			Id: uint64(i), Write: &streamhousev1.ProduceStreamRequest_Batch{Batch: batchOf(topic, 0, 3)},
		}))
	}
	require.NoError(w.t, s.CloseSend())
	refused := 0
	for {
		res, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(w.t, err)
		if res.GetError() != nil {
			refused++
			continue
		}
		w.stored("orders", orders(3), len(res.GetBatches()))
	}
	require.Equal(w.t, 1, refused)
	w.produceErrors[`topic="",error_type="not_found"`]++
}

// idempotent writes a batch, and again through another node, out of order, and in an epoch that has passed.
func (w *workload) idempotent() {
	id, err := w.outsider.InitProducer(call(w.t), &streamhousev1.InitProducerRequest{})
	require.NoError(w.t, err)
	next, err := w.leader.InitProducer(call(w.t), &streamhousev1.InitProducerRequest{ProducerId: id.GetProducerId(), ProducerEpoch: id.GetProducerEpoch()})
	require.NoError(w.t, err)
	as := func(epoch, sequence int32) *streamhousev1.ProduceBatchRequest {
		req := batchOf("orders", 0, 4)
		req.Producer = &streamhousev1.ProducerSequence{ProducerId: id.GetProducerId(), ProducerEpoch: epoch, BaseSequence: sequence}
		return req
	}
	require.False(w.t, w.write(w.follower, as(id.GetProducerEpoch(), 0)).GetDuplicate())
	require.True(w.t, w.write(w.leader, as(id.GetProducerEpoch(), 0)).GetDuplicate(), "a retry is stored once")
	w.refusedProduce(w.leader, "OUT_OF_ORDER_SEQUENCE", `topic="orders",error_type="sequence"`, as(id.GetProducerEpoch(), 99))
	w.write(w.outsider, as(next.GetProducerEpoch(), 0))
	w.refusedProduce(w.follower, "PRODUCER_FENCED", `topic="orders",error_type="sequence"`, as(id.GetProducerEpoch(), 4))
}

func (w *workload) refusedProduce(n *harness.Node, reason, labels string, req *streamhousev1.ProduceBatchRequest) {
	w.t.Helper()
	_, err := n.ProduceBatch(call(w.t), req)
	require.Equal(w.t, reason, harness.Reason(err), harness.Describe(err))
	w.produceErrors[labels]++
}

// refusals are produced in every way that a client can make happen.
func (w *workload) refusals() {
	for _, n := range []*harness.Node{w.leader, w.follower, w.outsider} {
		w.refusedProduce(n, "TOPIC_NOT_FOUND", `topic="",error_type="not_found"`, batchOf("nothing", 0, 1))
		w.refusedProduce(n, "PARTITION_NOT_FOUND", `topic="orders",error_type="not_found"`, batchOf("orders", 9, 1))
		w.refusedProduce(n, "INVALID_FIELD", `topic="orders",error_type="invalid"`, batchOf("orders", 0, 0))
		large := batchOf("orders", 0, 1)
		large.Records[0].Value = make([]byte, 9<<20)
		w.refusedProduce(n, "RECORD_TOO_LARGE", `topic="orders",error_type="too_large"`, large)
	}
	large := batchOf("orders", 0, 1)
	large.Records = records(6<<20, 6<<20, 6<<20)
	w.refusedProduce(w.follower, "REQUEST_TOO_LARGE", `topic="orders",error_type="too_large"`, large)
	large.Records = append(large.Records, records(8<<20, 8<<20)...)
	w.refusedProduce(w.follower, "", `topic="",error_type="too_large"`, large) // gRPC refuses it unread

	corrupt := w.raw(orders(3), record.None)
	corrupt[len(corrupt)-2] ^= 1
	_, err := w.follower.ProduceRecordBatches(call(w.t), &streamhousev1.ProduceRecordBatchesRequest{Topic: "orders", RecordBatches: corrupt})
	require.Equal(w.t, "CORRUPT_BATCH", harness.Reason(err), harness.Describe(err))
	w.produceErrors[`topic="orders",error_type="invalid"`]++
}

// upload gets all that waits into S3: once as it should be, once with two attempts that S3 answers with 503, and once
// with one that it refuses, after which a new object is cut.
func (w *workload) upload() {
	p0, p1, gone := `topic="orders",partition="0"`, `topic="orders",partition="1"`, `topic="short-lived",partition="2"`
	w.durable(0, 1, p0, p1, gone)

	slow := w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Status: http.StatusServiceUnavailable, Times: 2})
	w.durable(1, 1, p1)
	slow()
	w.retries += 2

	refuse := w.c.Proxy.Inject(harness.Fault{Methods: []string{http.MethodPut}, Key: ".seg", Status: http.StatusForbidden, Times: 1})
	w.durable(0, 1, p0)
	refuse()
	w.failures++
	w.writes[p0]++ // of the object that was refused
}

// commit makes a group exist, so that it has series of its own.
func (w *workload) commit(n *harness.Node, group, topic string, offset int64) {
	w.t.Helper()
	require.NoError(w.t, commit(group, topic, &streamhousev1.CommittedOffset{Offset: offset})(call(w.t), n))
}

// read consumes once, and counts what came.
func (w *workload) read(n *harness.Node, group string, req *streamhousev1.ConsumeRequest) {
	w.t.Helper()
	req.Group = group
	res, err := n.Consume(call(w.t), req)
	require.NoError(w.t, err, harness.Describe(err))
	w.served(req.GetTopic(), group, len(res.GetRecords()))
}

func (w *workload) served(topic, group string, records int) {
	w.t.Helper()
	require.Positive(w.t, records)
	w.consumed[fmt.Sprintf("topic=%q,consumer_group=%q", topic, group)] += float64(records)
}

// consume reads in every way through all nodes, and fails in every way.
func (w *workload) consume() {
	w.commit(w.outsider, "billing", "orders", 3)
	for _, n := range []*harness.Node{w.leader, w.follower, w.outsider} {
		w.read(n, "billing", &streamhousev1.ConsumeRequest{Topic: "orders", Offset: 3, MaxRecords: 6})
		w.read(n, "", &streamhousev1.ConsumeRequest{Topic: "orders", Partition: 1})
	}
	res, err := w.follower.ConsumeRecordBatches(call(w.t), &streamhousev1.ConsumeRecordBatchesRequest{Topic: "orders", Offset: 2, MaxBytes: 1, Group: "billing"})
	require.NoError(w.t, err)
	w.served("orders", "billing", int(res.GetNextOffset()-2))

	s, err := w.leader.ConsumeStream(call(w.t), &streamhousev1.ConsumeStreamRequest{Topic: "orders", Partition: 1, MaxBytes: 1})
	require.NoError(w.t, err)
	for {
		res, err := s.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(w.t, err)
		w.served("orders", "", len(res.GetRecords()))
	}
	w.consumeRefusals()
}

func (w *workload) consumeRefusals() {
	refused := func(labels, reason string, err error) {
		w.t.Helper()
		require.Equal(w.t, reason, harness.Reason(err), harness.Describe(err))
		w.consumeErrors[labels]++
	}
	for _, n := range []*harness.Node{w.leader, w.follower, w.outsider} {
		_, err := n.Consume(call(w.t), &streamhousev1.ConsumeRequest{Topic: "orders", Offset: 1 << 40, Group: "billing"})
		refused(`topic="orders",consumer_group="billing",error_type="out_of_range"`, "OFFSET_OUT_OF_RANGE", err)
		_, err = n.Consume(call(w.t), &streamhousev1.ConsumeRequest{Topic: "nothing"})
		refused(`topic="",consumer_group="",error_type="not_found"`, "TOPIC_NOT_FOUND", err)
		_, err = n.Consume(call(w.t), &streamhousev1.ConsumeRequest{Topic: "orders", Group: "a b"})
		refused(`topic="orders",consumer_group="",error_type="invalid"`, "INVALID_FIELD", err)
		err = commit("billing", "orders", &streamhousev1.CommittedOffset{Offset: 1 << 40})(call(w.t), n)
		refused(`topic="orders",consumer_group="billing",error_type="out_of_range"`, "OFFSET_OUT_OF_RANGE", err)
		err = commitAs("nobody", 1, func(o *streamhousev1.CommittedOffset) { o.Offset = 1 })(call(w.t), n)
		refused(`topic="orders",consumer_group="workers",error_type="membership"`, "UNKNOWN_MEMBER", err)
	}
	s, err := w.outsider.ConsumeStream(call(w.t), &streamhousev1.ConsumeStreamRequest{Topic: "orders", Partition: 9})
	require.NoError(w.t, err)
	_, err = s.Recv()
	refused(`topic="orders",consumer_group="",error_type="not_found"`, "PARTITION_NOT_FOUND", err)
}

// rebalance has two members come and one go: three generations.
func (w *workload) rebalance() {
	one := &streamhousev1.GroupHeartbeatRequest{MemberId: "one", SessionTimeoutMs: 600_000}
	two := &streamhousev1.GroupHeartbeatRequest{MemberId: "two", SessionTimeoutMs: 600_000}
	join(w.t, w.leader, one)
	join(w.t, w.outsider, two)
	join(w.t, w.follower, one) // it is told to give one up
	join(w.t, w.follower, one) // it has
	require.Len(w.t, join(w.t, w.outsider, two).GetAssigned(), 1)
	_, err := w.leader.LeaveGroup(call(w.t), &streamhousev1.LeaveGroupRequest{Group: groupName, MemberId: "two", MemberEpoch: two.GetMemberEpoch()})
	require.NoError(w.t, err)
	require.Len(w.t, join(w.t, w.leader, one).GetAssigned()[0].GetPartitions(), 2)
	require.EqualValues(w.t, 3, one.GetMemberEpoch(), "generations")
	require.NoError(w.t, commitAs("one", one.GetMemberEpoch(), func(o *streamhousev1.CommittedOffset) { o.Offset = 5 })(call(w.t), w.leader))
}

// history writes an object of three blocks, and reads it twice through a node without a replica, whose reads of uploaded
// records all go through the cache. The first reads the index, which is in the last block, and then all blocks, in two
// GETs; the second knows the index.
func (w *workload) history() {
	const each = 500_000
	req := &streamhousev1.ProduceBatchRequest{Topic: "archive", Partition: new(int32), Acks: streamhousev1.Acks_ACKS_DURABLE}
	for range archived {
		req.Records = append(req.Records, &streamhousev1.Record{Value: make([]byte, each)})
	}
	w.write(w.leader, req)
	segment := `topic="archive",partition="0"`
	w.writes[segment]++
	w.flushes[segment]++
	w.commit(w.leader, "auditors", "archive", 0)
	harness.Eventually(w.t, callWithin, "the node knows the object", func(ctx context.Context) error {
		res, err := w.outsider.GetTopic(ctx, &streamhousev1.GetTopicRequest{Name: "archive"})
		if err == nil && res.GetTopic().GetPartitions()[0].GetUploadedEndOffset() != archived {
			err = errors.New("not yet")
		}
		return err
	})
	objects, err := w.c.Gateway.Objects(w.t.Context(), harness.Bucket, "")
	require.NoError(w.t, err)
	for _, size := range objects {
		w.cached = max(w.cached, float64(size))
	}
	require.Greater(w.t, w.cached, 2.0*blockBytes)
	require.Less(w.t, w.cached, 3.0*blockBytes)
	for range 2 {
		gets := w.c.Proxy.Count(http.MethodGet, ".seg")
		w.read(w.outsider, "auditors", &streamhousev1.ConsumeRequest{Topic: "archive", MaxBytes: 8 << 20})
		if w.misses == 0 {
			w.misses, w.hits = 3, 1
			require.Equal(w.t, gets+2, w.c.Proxy.Count(http.MethodGet, ".seg"))
			continue
		}
		w.hits += 3
		require.Equal(w.t, gets, w.c.Proxy.Count(http.MethodGet, ".seg"), "nothing is asked for again")
	}
}

package integration_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
	"github.com/streamhouse/streamhouse/storage/record"
)

// badCall is a request that is refused.
type badCall struct {
	name   string
	call   func(ctx context.Context, n *harness.Node) error
	code   codes.Code
	reason string
	// field is what the error names in its metadata.
	field string
	// says must be in the message.
	says string
	// metadata must be there.
	metadata []string
}

const nameRule = "[a-zA-Z0-9._-]{1,249}"

func createTopic(name string, partitions int32, config map[string]string) func(context.Context, *harness.Node) error {
	return func(ctx context.Context, n *harness.Node) error {
		_, err := n.CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: name, Partitions: partitions, Config: config})
		return err
	}
}

func produceBatch(req *streamhousev1.ProduceBatchRequest) func(context.Context, *harness.Node) error {
	return func(ctx context.Context, n *harness.Node) error {
		_, err := n.ProduceBatch(ctx, req)
		return err
	}
}

func produceRaw(batches []byte) func(context.Context, *harness.Node) error {
	return func(ctx context.Context, n *harness.Node) error {
		_, err := n.ProduceRecordBatches(ctx, &streamhousev1.ProduceRecordBatchesRequest{
			Topic: "orders", RecordBatches: batches,
		})
		return err
	}
}

func consumeFrom(topic string, partition int32, offset int64) func(context.Context, *harness.Node) error {
	return func(ctx context.Context, n *harness.Node) error {
		_, err := consume(ctx, n, topic, partition, offset, 0)
		return err
	}
}

func records(sizes ...int) []*streamhousev1.Record {
	out := make([]*streamhousev1.Record, 0, len(sizes))
	for _, size := range sizes {
		out = append(out, &streamhousev1.Record{Value: make([]byte, size)})
	}
	return out
}

func commit(group, topic string, o *streamhousev1.CommittedOffset) func(context.Context, *harness.Node) error {
	return func(ctx context.Context, n *harness.Node) error {
		_, err := n.CommitOffset(ctx, &streamhousev1.CommitOffsetRequest{Group: group, Topic: topic, Offsets: []*streamhousev1.CommittedOffset{o}})
		return err
	}
}

func batchBytes(t *testing.T) []byte {
	t.Helper()
	b := record.NewBuilder(record.BuilderConfig{ProducerID: -1})
	for _, v := range []string{"one", "two", "three"} {
		b.Append(record.Record{TimestampMs: 1_700_000_000_000, Value: []byte(v)})
	}
	batch, err := b.Build()
	require.NoError(t, err)
	return batch
}

func badTopics() []badCall {
	invalid := func(name string, f func(context.Context, *harness.Node) error, field, says string) badCall {
		return badCall{name: name, call: f, code: codes.InvalidArgument, reason: "INVALID_FIELD", field: field, says: says}
	}
	return []badCall{
		invalid("empty topic name", createTopic("", 1, nil), "name", nameRule),
		invalid("topic name with a space", createTopic("a b", 1, nil), "name", nameRule),
		invalid("topic name with an umlaut", createTopic("bücher", 1, nil), "name", nameRule),
		invalid("topic name of 250 characters", createTopic(strings.Repeat("x", 250), 1, nil), "name", nameRule),
		invalid("no partitions", createTopic("new", 0, nil), "partitions", "100000"),
		invalid("negative partitions", createTopic("new", -1, nil), "partitions", "100000"),
		invalid("100,001 partitions", createTopic("new", 100_001, nil), "partitions", "100000"),
		invalid("unknown config key", createTopic("new", 1, map[string]string{"colour": "red"}), "config", "colour"),
		invalid("bad config value", createTopic("new", 1, map[string]string{"retention.ms": "soon"}), "config", "retention.ms"),
		{name: "topic exists", call: createTopic("orders", 2, nil), code: codes.AlreadyExists, reason: "TOPIC_EXISTS", says: "orders"},
		invalid("fewer partitions", func(ctx context.Context, n *harness.Node) error {
			_, err := n.AlterTopic(ctx, &streamhousev1.AlterTopicRequest{Name: "orders", Partitions: 1})
			return err
		}, "partitions", ""),
		{name: "alter an unknown topic", call: func(ctx context.Context, n *harness.Node) error {
			_, err := n.AlterTopic(ctx, &streamhousev1.AlterTopicRequest{Name: "nothing", Partitions: 9})
			return err
		}, code: codes.NotFound, reason: "TOPIC_NOT_FOUND", says: "nothing"},
		{name: "delete an unknown topic", call: func(ctx context.Context, n *harness.Node) error {
			_, err := n.DeleteTopic(ctx, &streamhousev1.DeleteTopicRequest{Name: "nothing"})
			return err
		}, code: codes.NotFound, reason: "TOPIC_NOT_FOUND", says: "nothing"},
		{name: "drain an unknown node", call: func(ctx context.Context, n *harness.Node) error {
			_, err := n.DrainNode(ctx, &streamhousev1.DrainNodeRequest{NodeId: "n9"})
			return err
		}, code: codes.NotFound, reason: "NODE_NOT_FOUND", says: "n9"},
		{name: "transfer an unknown shard", call: func(ctx context.Context, n *harness.Node) error {
			_, err := n.TransferLeader(ctx, &streamhousev1.TransferLeaderRequest{Shard: 77, NodeId: "n1"})
			return err
		}, code: codes.NotFound, reason: "SHARD_NOT_FOUND", says: "77"},
	}
}

func badProduces(t *testing.T) []badCall {
	t.Helper()
	good := batchBytes(t)
	corrupt := append([]byte(nil), good...)
	corrupt[len(corrupt)-2] ^= 1
	one := []*streamhousev1.Record{{Value: []byte("x")}}
	return []badCall{
		{
			name: "produce to an unknown topic", call: produceBatch(&streamhousev1.ProduceBatchRequest{Topic: "nothing", Records: one}),
			code: codes.NotFound, reason: "TOPIC_NOT_FOUND", says: "nothing",
		},
		{
			name: "produce to an unknown partition", call: produceBatch(&streamhousev1.ProduceBatchRequest{Topic: "orders", Partition: new(int32(2)), Records: one}),
			code: codes.NotFound, reason: "PARTITION_NOT_FOUND", says: "2",
		},
		{name: "no record", call: func(ctx context.Context, n *harness.Node) error {
			_, err := n.Produce(ctx, &streamhousev1.ProduceRequest{Topic: "orders"})
			return err
		}, code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "record"},
		{
			name: "no records", call: produceBatch(&streamhousev1.ProduceBatchRequest{Topic: "orders"}),
			code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "records",
		},
		{
			name: "unknown acks", call: produceBatch(&streamhousev1.ProduceBatchRequest{Topic: "orders", Records: one, Acks: 7}),
			code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "acks",
		},
		{name: "producer id without a partition", call: produceBatch(&streamhousev1.ProduceBatchRequest{
			Topic: "orders", Records: one, Producer: &streamhousev1.ProducerSequence{ProducerId: 1},
		}), code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "partition"},
		{
			name: "a record over 8 MiB", call: produceBatch(&streamhousev1.ProduceBatchRequest{Topic: "orders", Records: records(8<<20 + 1)}),
			code: codes.InvalidArgument, reason: "RECORD_TOO_LARGE", metadata: []string{"limit", "size"},
		},
		{
			name: "a request over 16 MiB", call: produceBatch(&streamhousev1.ProduceBatchRequest{Topic: "orders", Records: records(6<<20, 6<<20, 6<<20)}),
			code: codes.InvalidArgument, reason: "REQUEST_TOO_LARGE", says: "16777216",
		},
		{name: "a batch with a flipped bit", call: produceRaw(corrupt), code: codes.InvalidArgument, reason: "CORRUPT_BATCH"},
		{name: "a truncated batch", call: produceRaw(good[:len(good)-1]), code: codes.InvalidArgument, reason: "CORRUPT_BATCH"},
		{
			name: "a batch and a half", call: produceRaw(append(append([]byte(nil), good...), good[:30]...)),
			code: codes.InvalidArgument, reason: "CORRUPT_BATCH",
		},
		{name: "no batch", call: produceRaw(nil), code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "record_batches"},
		{name: "a first sequence of an unknown producer that is not 0", call: produceBatch(&streamhousev1.ProduceBatchRequest{
			Topic: "orders", Partition: new(int32(0)), Records: one, Producer: &streamhousev1.ProducerSequence{ProducerId: 1 << 40, BaseSequence: 5},
		}), code: codes.FailedPrecondition, reason: "UNKNOWN_PRODUCER"},
	}
}

func badConsumes() []badCall {
	return []badCall{
		{name: "consume an unknown topic", call: consumeFrom("nothing", 0, 0), code: codes.NotFound, reason: "TOPIC_NOT_FOUND", says: "nothing"},
		{name: "consume an unknown partition", call: consumeFrom("orders", 7, 0), code: codes.NotFound, reason: "PARTITION_NOT_FOUND", says: "7"},
		{name: "consume a negative partition", call: consumeFrom("orders", -1, 0), code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "partition"},
		{
			name: "consume behind the end", call: consumeFrom("orders", 0, 1_000_000), code: codes.OutOfRange, reason: "OFFSET_OUT_OF_RANGE",
			metadata: []string{"log_start_offset", "high_watermark"},
		},
		{name: "consume a negative offset", call: consumeFrom("orders", 0, -3), code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "offset"},
		{
			name: "commit for a group with a bad name", call: commit("my group", "orders", &streamhousev1.CommittedOffset{}),
			code: codes.InvalidArgument, reason: "INVALID_FIELD", field: "group", says: nameRule,
		},
		{
			name: "commit a negative offset", call: commit("g", "orders", &streamhousev1.CommittedOffset{Offset: -1}),
			code: codes.InvalidArgument, reason: "INVALID_FIELD",
		},
		{
			name: "commit too much metadata", call: commit("g", "orders", &streamhousev1.CommittedOffset{Metadata: strings.Repeat("m", 4097)}),
			code: codes.InvalidArgument, reason: "INVALID_FIELD", says: "4096",
		},
		{
			name: "commit for an unknown topic", call: commit("g", "nothing", &streamhousev1.CommittedOffset{}),
			code: codes.NotFound, reason: "TOPIC_NOT_FOUND",
		},
	}
}

// Bad requests get a specific error at once, and the nodes stay up and keep what they have.
func TestBadRequests(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Flags: quick(nil)})
	c.CreateTopic("orders", 2, nil)
	ledger := harness.NewLedger("orders")
	c.ProduceN(ledger, harness.ProducerConfig{Name: "p", Partitions: 2}, 5)

	rows := badTopics()
	rows = append(rows, badProduces(t)...)
	rows = append(rows, badConsumes()...)
	requireRefused(t, c, rows)
	require.Len(t, c.Running(), 3)
	c.WaitInSync(syncWithin)
	ledger.Verify(t, c.Nodes...)
}

// requireRefused makes bad calls through every node.
func requireRefused(t *testing.T, c *harness.Cluster, rows []badCall) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			for _, n := range c.Nodes {
				err := row.call(call(t), n)
				said := harness.Describe(err)
				require.Equal(t, row.code, status.Code(err), said)
				require.Equal(t, row.reason, harness.Reason(err), said)
				if row.field != "" {
					require.Contains(t, harness.ErrorMetadata(err)["field"], row.field, said)
				}
				require.Contains(t, status.Convert(err).Message(), row.says, said)
				for _, key := range row.metadata {
					require.Contains(t, harness.ErrorMetadata(err), key, said)
				}
			}
		})
	}
}

// An idempotent producer's mistakes are told apart.
func TestProducerSequences(t *testing.T) {
	t.Parallel()
	c := harness.StartCluster(t, harness.Options{Nodes: 1, Flags: quick(nil)})
	c.CreateTopic("orders", 1, nil)
	n := c.Nodes[0]
	id, err := n.InitProducer(call(t), &streamhousev1.InitProducerRequest{})
	require.NoError(t, err)
	send := func(epoch, sequence int32) (*streamhousev1.WrittenBatch, error) {
		resp, err := n.ProduceBatch(call(t), &streamhousev1.ProduceBatchRequest{
			Topic: "orders", Partition: new(int32(0)), Records: records(1, 1),
			Producer: &streamhousev1.ProducerSequence{ProducerId: id.GetProducerId(), ProducerEpoch: epoch, BaseSequence: sequence},
		})
		if err != nil {
			return nil, err
		}
		return resp.GetBatches()[0], nil
	}
	for i := range int32(10) {
		b, err := send(0, 2*i)
		require.NoError(t, err)
		require.Equal(t, int64(2*i), b.GetBaseOffset())
		require.False(t, b.GetDuplicate())
	}
	again, err := send(0, 16)
	require.NoError(t, err)
	require.True(t, again.GetDuplicate())
	require.Equal(t, int64(16), again.GetBaseOffset(), "a duplicate has the offset of its original")
	_, err = send(0, 0)
	require.True(t, harness.IsCode(err, codes.AlreadyExists, "DUPLICATE_SEQUENCE"), harness.Describe(err))
	_, err = send(0, 24)
	require.True(t, harness.IsCode(err, codes.FailedPrecondition, "OUT_OF_ORDER_SEQUENCE"), harness.Describe(err))
	require.Equal(t, "20", harness.ErrorMetadata(err)["expected"])

	next, err := n.InitProducer(call(t), &streamhousev1.InitProducerRequest{ProducerId: id.GetProducerId(), ProducerEpoch: id.GetProducerEpoch()})
	require.NoError(t, err)
	require.Equal(t, id.GetProducerId(), next.GetProducerId())
	require.Greater(t, next.GetProducerEpoch(), id.GetProducerEpoch())
	b, err := send(next.GetProducerEpoch(), 0)
	require.NoError(t, err)
	require.Equal(t, int64(20), b.GetBaseOffset())
	_, err = send(0, 20)
	require.True(t, harness.IsCode(err, codes.FailedPrecondition, "PRODUCER_FENCED"), harness.Describe(err))
}

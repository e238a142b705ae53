package integration_test

import (
	"context"
	"maps"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

func TestMain(m *testing.M) { harness.Main(m) }

const (
	// syncWithin bounds how long a cluster may take to heal on a busy machine.
	syncWithin = 90 * time.Second
	// callWithin bounds one call.
	callWithin = 15 * time.Second
)

// quick are flags for a test: few shards, early uploads, no bound for a test machine's disk.
func quick(more map[string]string) map[string]string {
	flags := map[string]string{
		"shards": "3", "upload-interval": "1s", "disk-min-free": "0",
		"cache-bytes": "32MiB", "tail-bytes": "32MiB",
	}
	maps.Copy(flags, more)
	return flags
}

// steady are quick's flags for a test that counts on leaders that stay where they are, on a busy machine too.
func steady(more map[string]string) map[string]string {
	flags := quick(map[string]string{"raft-heartbeat-timeout": "5s", "raft-election-timeout": "5s", "raft-lease-timeout": "5s"})
	maps.Copy(flags, more)
	return flags
}

// call is a context for one call.
func call(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callWithin)
	t.Cleanup(cancel)
	return ctx
}

// produce writes one record.
func produce(ctx context.Context, n *harness.Node, topic string, partition int32, value string, acks streamhousev1.Acks) (int64, error) {
	resp, err := n.Produce(ctx, &streamhousev1.ProduceRequest{
		Topic: topic, Partition: &partition, Acks: acks, Record: &streamhousev1.Record{Value: []byte(value)},
	})
	return resp.GetOffset(), err
}

// consume reads once.
func consume(ctx context.Context, n *harness.Node, topic string, partition int32, offset int64, maxWait time.Duration) (*streamhousev1.ConsumeResponse, error) {
	return n.Consume(ctx, &streamhousev1.ConsumeRequest{
		Topic: topic, Partition: partition, Offset: offset, MaxWait: durationpb.New(maxWait),
	})
}

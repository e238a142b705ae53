package bench_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/bench"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T, partitions int32) (*clienttest.Cluster, *clienttest.Node, bench.Dial) {
	t.Helper()
	cluster := clienttest.New()
	node := cluster.Start(t)
	dial := func() (*client.Client, error) { return client.New(client.Config{Addrs: []string{node.Addr()}}) }
	c, err := dial()
	require.NoError(t, err)
	_, err = client.NewAdmin(c).CreateTopic(t.Context(), "t", partitions, nil)
	require.NoError(t, err)
	require.NoError(t, c.Close())
	return cluster, node, dial
}

func TestProduceAndConsume(t *testing.T) {
	cluster, _, dial := start(t, 3)
	m := bench.NewMeter()
	load := bench.Load{Topic: "t", Records: 3000, RecordBytes: 100, Clients: 2, Producer: client.ProducerConfig{Compression: client.CompressionZstd}}
	elapsed, err := bench.Produce(t.Context(), dial, load, m)
	require.NoError(t, err)
	r := m.Result("produce", elapsed)
	require.EqualValues(t, 3000, r.Records)
	require.EqualValues(t, 300_000, r.Bytes)
	require.Positive(t, r.P50)
	require.LessOrEqual(t, r.P50, r.P99)
	require.LessOrEqual(t, r.P99, r.Max)
	total := 0
	for p := range 3 {
		total += len(cluster.Values("t", p))
	}
	require.Equal(t, 3000, total)

	m = bench.NewMeter()
	_, err = bench.Consume(t.Context(), dial, bench.Load{Topic: "t", Clients: 8}, m)
	require.NoError(t, err)
	records, bytes := m.Totals()
	require.EqualValues(t, 3000, records)
	require.EqualValues(t, 300_000, bytes)

	m = bench.NewMeter()
	_, err = bench.Consume(t.Context(), dial, bench.Load{Topic: "t", Records: 10, Clients: 1}, m)
	require.NoError(t, err)
	records, _ = m.Totals()
	require.GreaterOrEqual(t, records, int64(10))
	require.Less(t, records, int64(3000))
}

func TestRateAndDuration(t *testing.T) {
	_, _, dial := start(t, 1)
	m := bench.NewMeter()
	elapsed, err := bench.Produce(t.Context(), dial, bench.Load{Topic: "t", Duration: 300 * time.Millisecond, Rate: 100, RecordBytes: 1, Clients: 3}, m)
	require.NoError(t, err)
	require.GreaterOrEqual(t, elapsed, 250*time.Millisecond)
	records, _ := m.Totals()
	require.Positive(t, records)
	require.LessOrEqual(t, records, int64(35), "a stall is not made up for beyond the rate")
}

func TestEndToEnd(t *testing.T) {
	_, _, dial := start(t, 2)
	for range 2 { // what was there before does not count
		written, read := bench.NewMeter(), bench.NewMeter()
		_, err := bench.EndToEnd(t.Context(), dial, bench.Load{Topic: "t", Records: 200, Rate: 2000, RecordBytes: 32, Clients: 1}, written, read)
		require.NoError(t, err)
		records, _ := read.Totals()
		require.EqualValues(t, 200, records)
	}
}

func TestFailures(t *testing.T) {
	_, node, dial := start(t, 1)
	_, err := bench.Consume(t.Context(), dial, bench.Load{Topic: "u", Clients: 1}, bench.NewMeter())
	require.ErrorIs(t, err, client.ErrTopicNotFound)
	node.Before = func(method string) error {
		if method == "write" {
			return clienttest.StreamError(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_RECORD_TOO_LARGE, "too large")
		}
		return nil
	}
	load := bench.Load{Topic: "t", Duration: time.Minute, RecordBytes: 32, Clients: 1}
	_, err = bench.Produce(t.Context(), dial, load, bench.NewMeter())
	require.ErrorIs(t, err, client.ErrRecordTooLarge)
	_, err = bench.EndToEnd(t.Context(), dial, load, bench.NewMeter(), bench.NewMeter())
	require.ErrorIs(t, err, client.ErrRecordTooLarge)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = bench.Produce(ctx, dial, load, bench.NewMeter())
	require.NoError(t, err, "nothing was to be flushed")
}

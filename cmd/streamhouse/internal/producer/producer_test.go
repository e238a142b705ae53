package producer_test

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client/clienttest"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/producer"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type fixture struct {
	cluster *clienttest.Cluster
	nodes   [2]*clienttest.Node
	pool    *remote.Pool
	acked   atomic.Int64
}

func start(t *testing.T, partitions int32) *fixture {
	t.Helper()
	f := &fixture{cluster: clienttest.New()}
	f.nodes = [2]*clienttest.Node{f.cluster.Start(t), f.cluster.Start(t)}
	var err error
	f.pool, err = remote.Open(f.nodes[0].Addr() + "," + f.nodes[1].Addr())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, f.pool.Close()) })
	_, err = remote.Call(t.Context(), f.pool, remote.Once, func(ctx context.Context, cc grpc.ClientConnInterface) (*streamhousev1.CreateTopicResponse, error) {
		return streamhousev1.NewStreamHouseServiceClient(cc).CreateTopic(ctx, &streamhousev1.CreateTopicRequest{Name: "t", Partitions: partitions})
	})
	require.NoError(t, err)
	return f
}

// produce writes n batches of two records to each partition and returns Run's error.
func (f *fixture) produce(t *testing.T, partitions, n int, timeout time.Duration) error {
	t.Helper()
	p, err := producer.Open(t.Context(), producer.Config{Pool: f.pool, Topic: "t", Timeout: timeout, OnAck: func(a producer.Ack) { f.acked.Add(int64(a.Records)) }})
	require.NoError(t, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer p.Finish()
		for i := range n {
			for part := range partitions {
				b := producer.Batch{Partition: int32(part), Bytes: 2, Name: fmt.Sprintf("batch %d", i)}
				for j := range 2 {
					b.Records = append(b.Records, &streamhousev1.Record{Value: []byte(strconv.Itoa(2*i + j))})
				}
				if p.Send(t.Context(), b) != nil {
					return
				}
			}
		}
	})
	err = p.Run(t.Context())
	wg.Wait()
	return err
}

func (f *fixture) requireAll(t *testing.T, partitions, n int) {
	t.Helper()
	var want []string
	for i := range 2 * n {
		want = append(want, strconv.Itoa(i))
	}
	for p := range partitions {
		require.Equal(t, want, f.cluster.Values("t", p), "partition %d: each once, in order", p)
	}
	require.EqualValues(t, partitions*n*2, f.acked.Load())
}

func TestProduceWithoutFaults(t *testing.T) {
	f := start(t, 3)
	require.NoError(t, f.produce(t, 3, 50, time.Minute))
	f.requireAll(t, 3, 50)
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

func TestProduceThroughFaults(t *testing.T) {
	for name, failure := range map[string]error{
		"no leader":         clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader"),
		"outcome unknown":   clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_OUTCOME_UNKNOWN, "who knows"),
		"deadline":          clienttest.StreamError(codes.DeadlineExceeded, streamhousev1.ErrorReason_ERROR_REASON_DEADLINE_EXCEEDED, "too late"),
		"log full":          clienttest.StreamError(codes.ResourceExhausted, streamhousev1.ErrorReason_ERROR_REASON_LOG_FULL, "full"),
		"broken connection": clienttest.Break(),
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, 2)
			for _, n := range f.nodes {
				before := everyNth(11, failure)
				n.Before = func(method string) error {
					if method != "write" {
						return nil
					}
					return before()
				}
				n.Appended = everyNth(17, failure)
			}
			require.NoError(t, f.produce(t, 2, 40, time.Minute))
			f.requireAll(t, 2, 40)
		})
	}
}

func TestProduceThroughTheDeathOfANode(t *testing.T) {
	f := start(t, 1)
	var writes atomic.Int32
	killed := make(chan struct{})
	f.nodes[0].Before = func(method string) error {
		if method == "write" && writes.Add(1) == 20 {
			go func() { // Stop waits for this call
				defer close(killed)
				f.nodes[0].Kill()
			}()
		}
		return nil
	}
	require.NoError(t, f.produce(t, 1, 50, time.Minute))
	<-killed
	f.requireAll(t, 1, 50)
}

func TestProduceIsRefused(t *testing.T) {
	f := start(t, 1)
	var writes atomic.Int32
	f.nodes[0].Before = func(method string) error {
		if method == "write" && writes.Add(1) == 4 {
			return clienttest.StreamError(codes.InvalidArgument, streamhousev1.ErrorReason_ERROR_REASON_RECORD_TOO_LARGE, "9 bytes are too many")
		}
		return nil
	}
	require.EqualError(t, f.produce(t, 1, 10, time.Minute), "batch 3: 9 bytes are too many (RECORD_TOO_LARGE)")
	require.EqualValues(t, 6, f.acked.Load())
}

func TestProduceGivesUp(t *testing.T) {
	f := start(t, 1)
	for _, n := range f.nodes {
		n.Before = func(method string) error {
			if method == "write" {
				return clienttest.StreamError(codes.Unavailable, streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "no leader")
			}
			return nil
		}
	}
	err := f.produce(t, 1, 10, 300*time.Millisecond)
	require.ErrorContains(t, err, "gave up after ")
	require.ErrorContains(t, err, "no leader (NO_LEADER)")
}

func TestProduceGapForEver(t *testing.T) {
	f := start(t, 1)
	for _, n := range f.nodes {
		n.Before = func(method string) error {
			if method == "write" {
				return clienttest.StreamError(codes.FailedPrecondition, streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, "expected 4")
			}
			return nil
		}
	}
	require.ErrorContains(t, f.produce(t, 1, 10, time.Minute), "expected 4 (OUT_OF_ORDER_SEQUENCE)")
}

func TestProduceForgottenDuplicateIsStored(t *testing.T) {
	f := start(t, 1)
	f.nodes[0].Appended = everyNth(5, clienttest.StreamError(codes.AlreadyExists, streamhousev1.ErrorReason_ERROR_REASON_DUPLICATE_SEQUENCE, "long ago"))
	require.NoError(t, f.produce(t, 1, 20, time.Minute))
	f.requireAll(t, 1, 20)
}

func TestRunEndsWithItsContext(t *testing.T) {
	f := start(t, 1)
	p, err := producer.Open(t.Context(), producer.Config{Pool: f.pool, Topic: "t", Timeout: time.Minute})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, p.Run(ctx), context.Canceled)
	for range 5 {
		require.NoError(t, p.Send(t.Context(), producer.Batch{Records: []*streamhousev1.Record{{}}}))
	}
	require.Error(t, p.Send(t.Context(), producer.Batch{Records: []*streamhousev1.Record{{}}}), "nobody makes room any more")
	require.Equal(t, 5, p.Pending())
}

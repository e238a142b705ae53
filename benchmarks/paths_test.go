package benchmarks

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/integration/harness"
)

// path is a way that batches take through the nodes.
type path struct {
	name string
	// turn sends or reads batches of three partitions through all nodes until it is over. It returns how many.
	turn func(ctx context.Context, c *harness.Cluster, worker int, over func() bool) (batches int, err error)
}

const (
	groupName = "readers"
	// storedRecords of each partition are there to be read.
	storedRecords = 1000
)

// paths that clients take. Two of three writes are forwarded, since nodes are not asked whether they lead.
var paths = []path{
	{"produce, a record a call", writeCalls},
	{"produce, stream of batches of 100", writeStream},
	{"consume, a record a call", readCalls},
	{"consume, stream of 1,000 records", readStream},
}

func request(records int, partition int32) *streamhousev1.ProduceBatchRequest {
	req := &streamhousev1.ProduceBatchRequest{Topic: topicName, Partition: &partition}
	for range records {
		req.Records = append(req.Records, &streamhousev1.Record{Value: incompressible()})
	}
	return req
}

func writeCalls(ctx context.Context, c *harness.Cluster, worker int, over func() bool) (int, error) {
	req, n := request(1, int32(worker%3)), 0
	for ; !over(); n++ {
		if _, err := c.Nodes[n%len(c.Nodes)].ProduceBatch(ctx, req); err != nil {
			return n, err
		}
	}
	return n, nil
}

// streamWindow is how many batches of a stream are under way at once.
const streamWindow = 16

func writeStream(ctx context.Context, c *harness.Cluster, worker int, over func() bool) (int, error) {
	s, err := c.Nodes[worker%len(c.Nodes)].ProduceStream(ctx)
	if err != nil {
		return 0, err
	}
	req := &streamhousev1.ProduceStreamRequest{Write: &streamhousev1.ProduceStreamRequest_Batch{Batch: request(100, int32(worker/3%3))}}
	for sent, n := 0, 0; ; n++ {
		for ; sent < n+streamWindow && !over(); sent++ {
			if err := s.Send(req); err != nil {
				return n, err
			}
		}
		if n == sent {
			return n, s.CloseSend()
		}
		res, err := s.Recv()
		if err == nil && res.GetError() != nil {
			err = status.Error(codes.Code(res.GetError().GetCode()), res.GetError().GetMessage()) //nolint:gosec // a code of gRPC
		}
		if err != nil {
			return n, err
		}
	}
}

func readCalls(ctx context.Context, c *harness.Cluster, worker int, over func() bool) (int, error) {
	n := 0
	for ; !over(); n++ {
		res, err := c.Nodes[n%len(c.Nodes)].Consume(ctx, &streamhousev1.ConsumeRequest{
			Topic: topicName, Partition: int32(worker % 3), Group: groupName, Offset: int64(n % storedRecords), MaxRecords: 1,
		})
		if err == nil && len(res.GetRecords()) == 0 {
			err = errors.New("nothing was read")
		}
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func readStream(ctx context.Context, c *harness.Cluster, worker int, over func() bool) (int, error) {
	n := 0
	for !over() {
		s, err := c.Nodes[n%len(c.Nodes)].ConsumeStream(ctx, &streamhousev1.ConsumeStreamRequest{
			Topic: topicName, Partition: int32(worker % 3), Group: groupName, MaxBytes: 100 << 10, MaxRecords: storedRecords,
		})
		for err == nil {
			if _, err = s.Recv(); err == nil {
				n++
			}
		}
		if !errors.Is(err, io.EOF) {
			return n, err
		}
	}
	return n, nil
}

// newPathCluster is a cluster of so many nodes that log as in production, with a topic of three partitions and a group.
func newPathCluster(b *testing.B, nodes int, env []string) *harness.Cluster {
	b.Helper()
	c := harness.StartCluster(b, harness.Options{Nodes: nodes, Flags: flags(map[string]string{"log-level": "info"}), Env: env})
	c.CreateTopic(topicName, 3, nil)
	commit := &streamhousev1.CommitOffsetRequest{Group: groupName, Topic: topicName}
	for p := range int32(3) {
		for range storedRecords / 100 {
			if _, err := c.Nodes[0].ProduceBatch(b.Context(), request(100, p)); err != nil {
				b.Fatal(harness.Describe(err))
			}
		}
		commit.Offsets = append(commit.Offsets, &streamhousev1.CommittedOffset{Partition: p})
	}
	if _, err := c.Nodes[0].CommitOffset(b.Context(), commit); err != nil {
		b.Fatal(harness.Describe(err))
	}
	return c
}

// run has so many workers on a path for a while, and returns how many batches went through.
func (p path) run(b *testing.B, c *harness.Cluster, workers int, during time.Duration) int64 {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), during+time.Minute)
	defer cancel()
	began := time.Now()
	over := func() bool { return time.Since(began) > during }
	var batches atomic.Int64
	var wg sync.WaitGroup
	for worker := range workers {
		wg.Go(func() {
			n, err := p.turn(ctx, c, worker, over)
			if err != nil && !harness.MayRetry(err) { // a leader that comes late to its heartbeats loses its place
				b.Errorf("%s: %s", p.name, harness.Describe(err))
			}
			batches.Add(int64(n))
		})
	}
	wg.Wait()
	return batches.Load()
}

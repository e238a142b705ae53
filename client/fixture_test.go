package client_test

import (
	"context"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/client/clienttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is a cluster of two nodes, of which the first leads all partitions of topic t.
type fixture struct {
	*client.Client

	cluster *clienttest.Cluster
	nodes   [2]*clienttest.Node
}

func start(t *testing.T, partitions int32) *fixture {
	t.Helper()
	f := &fixture{cluster: clienttest.New()}
	f.nodes = [2]*clienttest.Node{f.cluster.Start(t), f.cluster.Start(t)}
	f.Client = open(t, client.Config{Addrs: []string{f.nodes[0].Addr(), f.nodes[1].Addr()}})
	createTopic(t, f.nodes[0].Addr(), "t", partitions)
	return f
}

func open(t *testing.T, cfg client.Config) *client.Client {
	t.Helper()
	c, err := client.New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, c.Close()) })
	return c
}

func createTopic(t *testing.T, addr, name string, partitions int32) {
	t.Helper()
	cc, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(t, err)
	defer func() { require.NoError(t, cc.Close()) }()
	_, err = streamhousev1.NewStreamHouseServiceClient(cc).CreateTopic(t.Context(), &streamhousev1.CreateTopicRequest{Name: name, Partitions: partitions})
	require.NoError(t, err)
}

func (f *fixture) producer(t *testing.T, cfg client.ProducerConfig) *client.Producer {
	t.Helper()
	p, err := client.NewProducer(f.Client, cfg)
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close(context.Background()) })
	return p
}

// sent counts what promises said.
type sent struct {
	mu     sync.Mutex
	acked  []string
	failed map[string]error
}

func (s *sent) promise(r *client.Record, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.acked = append(s.acked, string(r.Value))
		return
	}
	if s.failed == nil {
		s.failed = make(map[string]error)
	}
	s.failed[string(r.Value)] = err
}

// produce writes n records to each partition, value i to all of them, in batches of a few.
func produce(t *testing.T, p *client.Producer, s *sent, partitions, n int) {
	t.Helper()
	for i := range n {
		for part := range partitions {
			r := &client.Record{Topic: "t", Partition: int32(part), Value: []byte(strconv.Itoa(i))}
			require.NoError(t, p.Produce(t.Context(), r, s.promise))
		}
	}
}

func numbers(n int) []string {
	var out []string
	for i := range n {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

// small makes batches of three records or so.
var small = client.ProducerConfig{BatchBytes: 200, Linger: -1, Partitioner: client.Manual}

func (f *fixture) requireAll(t *testing.T, s *sent, partitions, n int) {
	t.Helper()
	for p := range partitions {
		require.Equal(t, numbers(n), f.cluster.Values("t", p), "partition %d: each once, in order", p)
	}
	require.Len(t, s.acked, partitions*n)
	require.Empty(t, s.failed)
}

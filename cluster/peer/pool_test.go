package peer

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/transport"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// other is the node that is called.
const other = "n2"

// addresses is a Resolver that a test fills.
type addresses struct {
	mu sync.Mutex
	at map[string]string
}

func (a *addresses) RaftAddr(nodeID string) (string, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	addr, ok := a.at[nodeID]
	return addr, ok
}

// move says that the other node listens at addr.
func (a *addresses) move(addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.at[other] = addr
}

// service answers with its index, and remembers what came.
type service struct {
	nodev1.UnimplementedNodeServiceServer
	index    uint64
	deadline chan time.Time
}

func (s *service) ReadMetadataIndex(ctx context.Context, _ *nodev1.ReadMetadataIndexRequest) (*nodev1.ReadMetadataIndexResponse, error) {
	if s.deadline != nil {
		d, _ := ctx.Deadline()
		s.deadline <- d
	}
	return &nodev1.ReadMetadataIndexResponse{Index: s.index}, nil
}

func (s *service) Fetch(context.Context, *nodev1.FetchRequest) (*nodev1.FetchResponse, error) {
	return &nodev1.FetchResponse{RecordBatches: make([]byte, 20<<20)}, nil
}

func listen(t *testing.T, r *addresses, clusterID, addr string) *transport.Transport {
	t.Helper()
	tr, err := transport.Listen(t.Context(), transport.Config{Addr: addr, Resolver: r})
	require.NoError(t, err)
	tr.SetClusterID(clusterID)
	done := make(chan error, 1)
	go func() { done <- tr.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		require.NoError(t, tr.Close())
		require.NoError(t, <-done)
	})
	return tr
}

// serve starts a node's service; stop ends it and its listener.
func serve(t *testing.T, r *addresses, addr string, s *service) (at net.Addr, stop func()) {
	t.Helper()
	tr := listen(t, r, "C", addr)
	srv := grpc.NewServer()
	nodev1.RegisterNodeServiceServer(srv, s)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(tr.RPCListener())
	}()
	stop = sync.OnceFunc(func() {
		srv.Stop()
		require.NoError(t, tr.Close())
		<-done
	})
	t.Cleanup(stop)
	return tr.Addr(), stop
}

func newPool(t *testing.T, r *addresses, clusterID string) *Pool {
	t.Helper()
	p := New(Config{Transport: listen(t, r, clusterID, "127.0.0.1:0"), Resolver: r})
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

func ask(ctx context.Context, p *Pool) (uint64, error) {
	c, err := p.Client(other)
	if err != nil {
		return 0, err
	}
	res, err := c.ReadMetadataIndex(ctx, &nodev1.ReadMetadataIndexRequest{}, grpc.WaitForReady(true))
	return res.GetIndex(), err
}

func TestCalls(t *testing.T) {
	r := &addresses{at: map[string]string{}}
	s := &service{index: 7, deadline: make(chan time.Time, 1)}
	at, _ := serve(t, r, "127.0.0.1:0", s)
	r.move(at.String())
	p := newPool(t, r, "C")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	index, err := ask(ctx, p)
	require.NoError(t, err)
	require.EqualValues(t, 7, index)
	want, _ := ctx.Deadline()
	require.WithinDuration(t, want, <-s.deadline, time.Second, "the deadline goes along")

	first, err := p.Client(other)
	require.NoError(t, err)
	again, err := p.ClientAt(at.String())
	require.NoError(t, err)
	require.Equal(t, first, again, "one connection for a node")

	large, err := first.Fetch(ctx, &nodev1.FetchRequest{})
	require.NoError(t, err)
	require.Len(t, large.GetRecordBatches(), 20<<20)
	_, err = first.Append(ctx, &nodev1.AppendRequest{})
	require.Equal(t, codes.Unimplemented, status.Code(err), "codes come through")
}

func TestUnknownAndForeignNodes(t *testing.T) {
	r := &addresses{at: map[string]string{}}
	at, _ := serve(t, r, "127.0.0.1:0", &service{})
	r.move(at.String())
	p := newPool(t, r, "another")
	_, err := p.Client("n3")
	require.ErrorIs(t, err, ErrUnknownNode)
	c, err := p.Client(other)
	require.NoError(t, err)
	_, err = c.ReadMetadataIndex(t.Context(), &nodev1.ReadMetadataIndexRequest{})
	require.Equal(t, codes.Unavailable, status.Code(err))
	require.ErrorContains(t, err, transport.ErrWrongCluster.Error())
}

// A node that comes back, here or elsewhere, is found without a new pool.
func TestNodeComesBack(t *testing.T) {
	r := &addresses{at: map[string]string{}}
	at, stop := serve(t, r, "127.0.0.1:0", &service{index: 1})
	r.move(at.String())
	p := newPool(t, r, "C")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	_, err := ask(ctx, p)
	require.NoError(t, err)
	stop()
	c, err := p.Client(other)
	require.NoError(t, err)
	_, err = c.ReadMetadataIndex(ctx, &nodev1.ReadMetadataIndexRequest{})
	require.Equal(t, codes.Unavailable, status.Code(err))

	_, stop = serve(t, r, at.String(), &service{index: 2})
	index, err := ask(ctx, p)
	require.NoError(t, err)
	require.EqualValues(t, 2, index)
	stop()

	moved, _ := serve(t, r, "127.0.0.1:0", &service{index: 3})
	r.move(moved.String())
	index, err = ask(ctx, p)
	require.NoError(t, err)
	require.EqualValues(t, 3, index)
}

func TestClosed(t *testing.T) {
	r := &addresses{at: map[string]string{other: "127.0.0.1:1"}}
	p := newPool(t, r, "C")
	c, err := p.Client(other)
	require.NoError(t, err)
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err = c.ReadMetadataIndex(t.Context(), &nodev1.ReadMetadataIndexRequest{})
	require.Equal(t, codes.Canceled, status.Code(err))
	_, err = p.Client(other)
	require.ErrorIs(t, err, ErrClosed)
}

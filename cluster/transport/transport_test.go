package transport

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

func (a *addresses) set(nodeID, addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.at == nil {
		a.at = make(map[string]string)
	}
	a.at[nodeID] = addr
}

// listen starts a node's transport that ends with the test.
func listen(t *testing.T, r *addresses, clusterID string) *Transport {
	t.Helper()
	tr, err := Listen(t.Context(), Config{Addr: "127.0.0.1:0", Resolver: r})
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

// answering is a replica that answers every append with the name of its group and replica.
func answering(t *testing.T, tr *Transport, g Group, replicaID string) *RaftTransport {
	t.Helper()
	r, err := tr.Raft(g, replicaID, tr.Addr().String(), nil, nil)
	require.NoError(t, err)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			case rpc := <-r.Consumer():
				switch req := rpc.Command.(type) {
				case *raft.AppendEntriesRequest:
					rpc.Respond(&raft.AppendEntriesResponse{Success: true, LastLog: uint64(len(req.Entries)) + 1000*uint64(g.number)}, nil)
				case *raft.InstallSnapshotRequest:
					n, err := io.Copy(io.Discard, rpc.Reader)
					rpc.Respond(&raft.InstallSnapshotResponse{Success: n == req.Size}, err)
				case *raft.TimeoutNowRequest:
					rpc.Respond(&raft.TimeoutNowResponse{}, nil)
				default:
					rpc.Respond(&raft.RequestVoteResponse{Granted: true}, nil)
				}
			}
		}
	}()
	t.Cleanup(func() {
		require.NoError(t, r.Close())
		close(stop)
		<-done
	})
	return r
}

func appendTo(r *RaftTransport, replicaID string, addr net.Addr) (uint64, error) {
	var resp raft.AppendEntriesResponse
	err := r.AppendEntries(raft.ServerID(replicaID), ServerAddress(replicaID, addr.String()), &raft.AppendEntriesRequest{}, &resp)
	return resp.LastLog, err
}

func TestALostConnectionIsTold(t *testing.T) {
	r := &addresses{}
	a, b := listen(t, r, "C"), listen(t, r, "C")
	lost := make(chan struct{}, 10)
	there, err := b.Raft(Shard(1), "n2/B", b.Addr().String(), nil, func() { lost <- struct{}{} })
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, there.Close()) })
	go func() {
		rpc := <-there.Consumer()
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	}()
	here := answering(t, a, Shard(1), "n1/A")
	require.True(t, here.Reaches("n2/B", ServerAddress("n2/B", b.Addr().String()), time.Second))
	require.False(t, here.Reaches("n2/C", ServerAddress("n2/C", b.Addr().String()), time.Second), "another replica")
	_, err = appendTo(here, "n2/B", b.Addr())
	require.NoError(t, err)
	require.Empty(t, lost, "what has not been used is not missed")
	here.CloseStreams()
	<-lost
}

func TestGroupsShareAListener(t *testing.T) {
	r := &addresses{}
	a, b := listen(t, r, "C"), listen(t, r, "C")
	from := map[Group]*RaftTransport{}
	for _, g := range []Group{Shard(1), Shard(2)} {
		from[g] = answering(t, a, g, "n1/A")
		answering(t, b, g, "n2/B")
	}
	for g, rt := range from {
		who, err := appendTo(rt, "n2/B", b.Addr())
		require.NoError(t, err)
		require.Equal(t, 1000*uint64(g.number), who)
	}

	rt := from[Shard(1)]
	id, addr := raft.ServerID("n2/B"), ServerAddress("n2/B", b.Addr().String())
	var vote raft.RequestVoteResponse
	require.NoError(t, rt.RequestVote(id, addr, &raft.RequestVoteRequest{}, &vote))
	require.True(t, vote.Granted)
	require.NoError(t, rt.TimeoutNow(id, addr, &raft.TimeoutNowRequest{}, &raft.TimeoutNowResponse{}))
	var installed raft.InstallSnapshotResponse
	snapshot := make([]byte, 1<<20)
	require.NoError(t, rt.InstallSnapshot(id, addr, &raft.InstallSnapshotRequest{Size: int64(len(snapshot))}, &installed, &zeroReader{n: len(snapshot)}))
	require.True(t, installed.Success)

	p, err := rt.AppendEntriesPipeline(id, addr)
	require.NoError(t, err)
	_, err = p.AppendEntries(&raft.AppendEntriesRequest{Entries: []*raft.Log{{Index: 1}}}, new(raft.AppendEntriesResponse))
	require.NoError(t, err)
	future := <-p.Consumer()
	require.NoError(t, future.Error())
	require.Equal(t, uint64(1001), future.Response().LastLog)
	require.NoError(t, p.Close())
}

type zeroReader struct{ n int }

func (z *zeroReader) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.n)
	clear(p[:n])
	z.n -= n
	return n, nil
}

func TestConnectionsAreRefused(t *testing.T) {
	r := &addresses{}
	here, there := listen(t, r, "C"), listen(t, r, "C")
	stranger, fresh := listen(t, r, "D"), listen(t, r, "")
	answering(t, there, Shard(1), "n2/B")

	for name, tt := range map[string]struct {
		from *Transport
		p    preface
		want error
	}{
		"its replica":                        {here, preface{kind: kindRaft, group: Shard(1), replicaID: "n2/B"}, nil},
		"a replica that was there before":    {here, preface{kind: kindRaft, group: Shard(1), replicaID: "n2/A"}, ErrNoReplica},
		"a group that it has not":            {here, preface{kind: kindRaft, group: Shard(2), replicaID: "n2/B"}, ErrNoReplica},
		"a replica for another cluster":      {stranger, preface{kind: kindRaft, group: Shard(1), replicaID: "n2/B"}, ErrWrongCluster},
		"a replica for no cluster":           {fresh, preface{kind: kindRaft, group: Shard(1), replicaID: "n2/B"}, ErrWrongCluster},
		"a call from another cluster":        {stranger, preface{kind: kindRPC, group: Metadata}, ErrWrongCluster},
		"a call from a node without cluster": {fresh, preface{kind: kindRPC, group: Metadata}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := tt.from.dial(t.Context(), there.Addr().String(), tt.p)
			require.ErrorIs(t, err, tt.want)
			if conn != nil {
				require.NoError(t, conn.Close())
			}
		})
	}
}

// TestWipedReplica: what was meant for a replica never reaches the one that was made anew in its place.
func TestWipedReplica(t *testing.T) {
	r := &addresses{}
	here, there := listen(t, r, "C"), listen(t, r, "C")
	leader := answering(t, here, Shard(1), "n1/A")
	answering(t, there, Shard(1), "n2/NEW")
	_, err := appendTo(leader, "n2/OLD", there.Addr())
	require.ErrorIs(t, err, ErrNoReplica)
	_, err = appendTo(leader, "n2/NEW", there.Addr())
	require.NoError(t, err)
}

// new-addresses: a node is dialed where it is now, and not where it was when it was added.
func TestNewAddresses(t *testing.T) {
	r := &addresses{}
	here, old := listen(t, r, "C"), listen(t, r, "C")
	leader := answering(t, here, Shard(1), "n1/A")
	_, err := appendTo(leader, "n2/B", old.Addr())
	require.ErrorIs(t, err, ErrNoReplica, "without a better address the configuration's is dialed")
	moved := listen(t, r, "C")
	answering(t, moved, Shard(1), "n2/B")
	r.set("n2", moved.Addr().String())
	_, err = appendTo(leader, "n2/B", old.Addr())
	require.NoError(t, err)
}

func TestReplicaClosedAndOpenedAgain(t *testing.T) {
	r := &addresses{}
	here, there := listen(t, r, "C"), listen(t, r, "C")
	leader := answering(t, here, Shard(1), "n1/A")
	first, err := there.Raft(Shard(1), "n2/B", there.Addr().String(), nil, nil)
	require.NoError(t, err)
	_, err = there.Raft(Shard(1), "n2/C", there.Addr().String(), nil, nil)
	require.ErrorContains(t, err, "n2/B of shard-1 still runs")
	require.NoError(t, first.Close())
	answering(t, there, Shard(1), "n2/C")
	_, err = appendTo(leader, "n2/C", there.Addr())
	require.NoError(t, err)
}

// A node that does not say what it wants, or says nonsense, is cut off.
func TestHalfAPreface(t *testing.T) {
	there := listen(t, &addresses{}, "C")
	for name, b := range map[string]string{"nonsense": "GET / HTTP/1.1\r\n\r\n", "half": "SHN\x01"} {
		t.Run(name, func(t *testing.T) {
			var d net.Dialer
			conn, err := d.DialContext(t.Context(), "tcp", there.Addr().String())
			require.NoError(t, err)
			_, err = conn.Write([]byte(b))
			require.NoError(t, err)
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(3*prefaceTimeout)))
			_, err = conn.Read(make([]byte, 1))
			require.Error(t, err)
			require.NotErrorIs(t, err, os.ErrDeadlineExceeded, "the connection stays open")
			require.NoError(t, conn.Close())
		})
	}
}

func TestCloseEndsWhatWaits(t *testing.T) {
	there := listen(t, &addresses{}, "C")
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", there.Addr().String())
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		there.mu.Lock()
		defer there.mu.Unlock()
		return len(there.open) == 1
	}, 5*time.Second, time.Millisecond)
	require.NoError(t, there.Close())
	_, err = conn.Read(make([]byte, 1))
	require.Error(t, err)
	require.NoError(t, conn.Close())
	_, err = there.Raft(Shard(1), "n1/A", "addr", nil, nil)
	require.ErrorIs(t, err, net.ErrClosed)
}

func TestAppendIsBounded(t *testing.T) {
	entries := func(sizes ...int) []*raft.Log {
		var logs []*raft.Log
		for _, n := range sizes {
			logs = append(logs, &raft.Log{Data: make([]byte, n)})
		}
		return logs
	}
	for _, tt := range []struct {
		sizes []int
		want  int
	}{
		{nil, 0},
		{[]int{1, 2, 3}, 3},
		{[]int{2 * maxAppendBytes}, 1},
		{[]int{2 * maxAppendBytes, 1}, 1},
		{[]int{maxAppendBytes - 1, 1, 1}, 2},
	} {
		args := &raft.AppendEntriesRequest{Entries: entries(tt.sizes...)}
		bound(args)
		require.Len(t, args.Entries, tt.want, "%v", tt.sizes)
	}
}

// TestCloseWaitsForAHeartbeat: Raft writes a term while it handles one, so the log is closed after it; later ones are refused.
func TestCloseWaitsForAHeartbeat(t *testing.T) {
	r := &addresses{}
	a, b := listen(t, r, "C"), listen(t, r, "C")
	there, err := b.Raft(Shard(1), "n2/B", b.Addr().String(), nil, nil)
	require.NoError(t, err)
	handling, handled := make(chan struct{}), make(chan struct{})
	there.SetHeartbeatHandler(func(rpc raft.RPC) {
		handling <- struct{}{}
		<-handled
		rpc.Respond(&raft.AppendEntriesResponse{}, nil)
	})
	here := answering(t, a, Shard(1), "n1/A")
	sent := make(chan error, 1)
	go func() {
		sent <- here.AppendEntries("n2/B", ServerAddress("n2/B", b.Addr().String()), &raft.AppendEntriesRequest{
			RPCHeader: raft.RPCHeader{Addr: []byte("n1")}, Term: 1,
		}, &raft.AppendEntriesResponse{})
	}()
	<-handling
	closed := make(chan error, 1)
	go func() { closed <- there.Close() }()
	require.Error(t, <-sent, "its connection is closed")
	select {
	case err := <-closed:
		t.Fatal("it did not wait", err)
	case <-time.After(100 * time.Millisecond):
	}
	close(handled)
	require.NoError(t, <-closed)
	require.NoError(t, there.Close())
}

package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

const (
	// maxAppendBytes bounds the entries that one AppendEntries carries; one entry may be larger.
	maxAppendBytes = 8 << 20
	// maxPooled is how many idle connections are kept for a peer.
	maxPooled = 3
	// maxInflight is how many AppendEntries may be under way to one follower.
	maxInflight = 8
	// rpcTimeout bounds one Raft call; a snapshot has more, by its size.
	rpcTimeout = 10 * time.Second
	// deadPeerWait is how long an append waits for a peer that refuses connections, instead of failing at once: the
	// library doubles its back-off with every failure, and a returned follower would wait for its end.
	deadPeerWait = time.Second
	redialEvery  = 50 * time.Millisecond
)

// ServerAddress is a replica's address in a Raft configuration: where its node listened when it was added, and the part
// of its id that makes it differ from other replicas of that node, since Raft refuses two servers with one address.
func ServerAddress(replicaID, addr string) raft.ServerAddress {
	_, id, _ := strings.Cut(replicaID, "/")
	return raft.ServerAddress(addr + "/" + id)
}

// stream is one replica's raft.StreamLayer. The address that Raft dials is "replica id|server address".
type stream struct {
	t         *Transport
	group     Group
	replicaID string
	in        *connListener // both accepted and dialed connections close with it
}

var _ raft.StreamLayer = (*stream)(nil)

// Accept implements net.Listener.
func (s *stream) Accept() (net.Conn, error) { return s.in.Accept() }

// Addr implements net.Listener.
func (s *stream) Addr() net.Addr { return s.in.Addr() }

// Close takes the replica off the listener and closes its connections.
func (s *stream) Close() error {
	s.t.mu.Lock()
	if s.t.streams[s.group] == s {
		delete(s.t.streams, s.group)
	}
	s.t.mu.Unlock()
	return s.in.Close()
}

// Dial implements raft.StreamLayer.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	replicaID, fallback, _ := strings.Cut(string(address), "|")
	fallback, _, _ = strings.Cut(fallback, "/")
	nodeID, _, _ := strings.Cut(replicaID, "/")
	addr, ok := s.t.cfg.Resolver.RaftAddr(nodeID)
	if !ok {
		addr = fallback
	}
	if addr == "" {
		return nil, fmt.Errorf("address of node %s is not known", nodeID)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := s.t.dial(ctx, addr, preface{kind: kindRaft, group: s.group, replicaID: replicaID})
	if err != nil {
		return nil, err
	}
	owned := s.in.own(conn)
	if owned == nil {
		_ = conn.Close()
		return nil, net.ErrClosed
	}
	return owned, nil
}

// Raft returns the transport of one replica of a group, and registers it with the listener. addr is this node's
// advertised address. lost is called when another replica has closed a connection that it had used: it may be nil
// and must not block. The replica closes the transport.
func (t *Transport) Raft(group Group, replicaID, addr string, log hclog.Logger, lost func()) (*RaftTransport, error) {
	s := &stream{t: t, group: group, replicaID: replicaID, in: newConnListener(t.lis.Addr(), lost)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, net.ErrClosed
	}
	if other := t.streams[group]; other != nil {
		return nil, fmt.Errorf("replica %s of %s still runs", other.replicaID, group)
	}
	t.streams[group] = s
	return &RaftTransport{
		NetworkTransport: raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
			Logger: log, Stream: s, MaxPool: maxPooled, MaxRPCsInFlight: maxInflight, Timeout: rpcTimeout,
			MsgpackUseNewTimeFormat: true,
		}),
		stream: s, local: ServerAddress(replicaID, addr), lastLogs: make(map[raft.ServerID]uint64),
	}, nil
}

// RaftTransport adds to raft.NetworkTransport what it lacks: a target's replica id on every connection, a bound for
// what one append carries, and patience with a dead peer.
type RaftTransport struct {
	*raft.NetworkTransport
	stream *stream
	local  raft.ServerAddress

	mu       sync.Mutex
	lastLogs map[raft.ServerID]uint64 // guarded by mu; what LastLog says
	closed   bool                     // guarded by mu; no heartbeat is taken any more
	beats    sync.WaitGroup           // heartbeats that are being handled; none is added once closed
}

var (
	_ raft.Transport   = (*RaftTransport)(nil)
	_ raft.WithPreVote = (*RaftTransport)(nil)
	_ raft.WithClose   = (*RaftTransport)(nil)
)

// LocalAddr implements raft.Transport.
func (r *RaftTransport) LocalAddr() raft.ServerAddress { return r.local }

// SetHeartbeatHandler implements raft.Transport. Raft handles heartbeats on the goroutines of the connections, for which its
// shutdown does not wait, and writes the term that they bring.
func (r *RaftTransport) SetHeartbeatHandler(handle func(raft.RPC)) {
	r.NetworkTransport.SetHeartbeatHandler(func(rpc raft.RPC) {
		if !r.takeBeat() {
			rpc.Respond(nil, raft.ErrTransportShutdown)
			return
		}
		defer r.beats.Done()
		handle(rpc)
	})
}

// takeBeat adds a heartbeat to those that are being handled, unless the transport is closed.
func (r *RaftTransport) takeBeat() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.beats.Add(1)
	return true
}

// Close closes the replica's connections and takes it off the listener. It waits for a heartbeat that is being handled, so
// that the log may be closed then. It is idempotent.
func (r *RaftTransport) Close() error {
	err := errors.Join(r.NetworkTransport.Close(), r.stream.Close())
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.beats.Wait()
	return err
}

// to is the address that the stream dials for a server.
func to(id raft.ServerID, target raft.ServerAddress) raft.ServerAddress {
	return raft.ServerAddress(id) + "|" + target
}

// AppendEntries implements raft.Transport. It cuts what is beyond maxAppendBytes off the request: the leader counts
// only what the request still has when the call returns, and sends the rest next.
func (r *RaftTransport) AppendEntries(id raft.ServerID, target raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	bound(args)
	deadline := time.Now().Add(deadPeerWait)
	for {
		err := r.NetworkTransport.AppendEntries(id, to(id, target), args, resp)
		if err == nil {
			r.answered(id, resp)
		}
		if err == nil || !errors.Is(err, syscall.ECONNREFUSED) || time.Now().After(deadline) || r.IsShutdown() {
			return err
		}
		select {
		case <-time.After(redialEvery):
		case <-r.stream.in.closed:
			return err
		}
	}
}

// answered notes how far a follower's log goes. Heartbeats are enough for that: they come this way, several in every
// heartbeat timeout, also while entries go through a pipeline.
func (r *RaftTransport) answered(id raft.ServerID, resp *raft.AppendEntriesResponse) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lastLogs[id] = resp.LastLog
}

// LastLog returns the last index of another replica's log, as it said when it last answered this one. ok is false where
// it has never answered. Only a leader gets answers.
func (r *RaftTransport) LastLog(id raft.ServerID) (index uint64, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	index, ok = r.lastLogs[id]
	return index, ok
}

// bound leaves at least one entry and otherwise at most maxAppendBytes of them.
func bound(args *raft.AppendEntriesRequest) {
	bytes := 0
	for i, e := range args.Entries {
		bytes += len(e.Data)
		if i > 0 && bytes > maxAppendBytes {
			args.Entries = args.Entries[:i]
			return
		}
	}
}

// AppendEntriesPipeline implements raft.Transport.
func (r *RaftTransport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	p, err := r.NetworkTransport.AppendEntriesPipeline(id, to(id, target))
	if err != nil {
		return nil, err
	}
	return newPipeline(p), nil
}

// RequestVote implements raft.Transport.
func (r *RaftTransport) RequestVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	return r.NetworkTransport.RequestVote(id, to(id, target), args, resp)
}

// RequestPreVote implements raft.WithPreVote.
func (r *RaftTransport) RequestPreVote(id raft.ServerID, target raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	return r.NetworkTransport.RequestPreVote(id, to(id, target), args, resp)
}

// InstallSnapshot implements raft.Transport.
func (r *RaftTransport) InstallSnapshot(id raft.ServerID, target raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	return r.NetworkTransport.InstallSnapshot(id, to(id, target), args, resp, data)
}

// TimeoutNow implements raft.Transport.
func (r *RaftTransport) TimeoutNow(id raft.ServerID, target raft.ServerAddress, args *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	return r.NetworkTransport.TimeoutNow(id, to(id, target), args, resp)
}

// Reaches reports whether a new connection to a server's replica comes about in time.
func (r *RaftTransport) Reaches(id raft.ServerID, server raft.ServerAddress, timeout time.Duration) bool {
	conn, err := r.stream.Dial(to(id, server), timeout)
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// EncodePeer implements raft.Transport: the leader's address in its messages is the plain one.
func (r *RaftTransport) EncodePeer(_ raft.ServerID, addr raft.ServerAddress) []byte {
	return []byte(addr)
}

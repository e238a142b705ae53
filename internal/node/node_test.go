package node

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	wait = 60 * time.Second
	tick = 50 * time.Millisecond

	testTopic = "logs"
)

// running is a node of a test.
type running struct {
	t      *testing.T
	cfg    Config
	cancel context.CancelFunc
	done   chan error
}

// handedOut has the addresses that freeAddr has returned.
var handedOut sync.Map

// freeAddr returns a loopback address that was free a moment ago and was not returned before, below the
// ports that the kernel gives to outgoing connections.
func freeAddr(t *testing.T) string {
	t.Helper()
	for range 1000 {
		addr := fmt.Sprintf("127.0.0.1:%d", 15000+rand.IntN(17000))
		l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", addr)
		if err != nil {
			continue
		}
		require.NoError(t, l.Close())
		if _, taken := handedOut.LoadOrStore(addr, true); taken {
			continue
		}
		return addr
	}
	require.Fail(t, "no free port")
	return ""
}

// testConfig is a node that shares the object store at dir.
func testConfig(t *testing.T, id, dir string, flags map[string]string) Config {
	t.Helper()
	all := map[string]string{
		"node-id": id, "data-dir": filepath.Join(dir, id), "log-level": "warn",
		"object-store": (&url.URL{Scheme: "file", Path: filepath.Join(dir, "objects")}).String(),
		"grpc-addr":    freeAddr(t), "http-addr": freeAddr(t), "raft-addr": freeAddr(t), "gossip-addr": freeAddr(t),
		"disk-min-free": "0", "raft-heartbeat-timeout": "500ms", "raft-election-timeout": "500ms", "raft-lease-timeout": "250ms",
		"shards": "2",
	}
	maps.Copy(all, flags)
	cfg, err := Load(Sources{Flags: all})
	require.NoError(t, err)
	return cfg
}

// run starts a node; it is stopped at the end of the test.
func run(t *testing.T, cfg Config) *running {
	t.Helper()
	n, err := NewWithEdges(cfg, Edges{Logs: testLog{t}})
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{t: t, cfg: cfg, cancel: cancel, done: make(chan error, 1)}
	go func() { r.done <- n.Run(ctx) }()
	t.Cleanup(r.stop)
	return r
}

// testLog writes to the test's log.
type testLog struct{ t *testing.T }

func (l testLog) Write(b []byte) (int, error) {
	_, _ = fmt.Fprint(l.t.Output(), string(b))
	return len(b), nil
}

func (r *running) stop() {
	if r.cancel == nil {
		return
	}
	r.cancel()
	r.cancel = nil
	select {
	case err := <-r.done:
		require.NoError(r.t, err)
	case <-time.After(wait):
		stacks := make([]byte, 1<<20)
		r.t.Errorf("node did not stop:\n%s", stacks[:runtime.Stack(stacks, true)])
	}
}

// fails waits for the node to end by itself.
func (r *running) fails() error {
	r.t.Helper()
	select {
	case err := <-r.done:
		r.cancel()
		r.cancel = nil
		return err
	case <-time.After(wait):
		require.Fail(r.t, "node goes on")
		return nil
	}
}

// refuses waits for the node to end by itself, which it must do before it is ready.
func (r *running) refuses() error {
	r.t.Helper()
	var err error
	require.Eventually(r.t, func() bool {
		select {
		case err = <-r.done:
			return true
		default:
			code, body := r.ready()
			require.NotEqual(r.t, http.StatusOK, code, "the node goes on: %s", body)
			return false
		}
	}, wait, tick, "the node goes on")
	r.cancel()
	r.cancel = nil
	return err
}

func (r *running) ready() (int, string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.cfg.HTTPAddr+"/ready", nil)
	require.NoError(r.t, err)
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(r.t, err)
	return resp.StatusCode, string(body)
}

func (r *running) waitReady() {
	r.t.Helper()
	last := ""
	ok := func() bool {
		code, body := r.ready()
		last = body
		return code == http.StatusOK
	}
	if !waitFor(ok) {
		require.Fail(r.t, "node "+r.cfg.NodeID+" is not ready", last)
	}
}

func waitFor(ok func() bool) bool {
	deadline := time.Now().Add(wait)
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			return false
		}
		<-ticker.C
	}
	return true
}

func (r *running) client() streamhousev1.StreamHouseServiceClient {
	r.t.Helper()
	conn, err := grpc.NewClient(r.cfg.GRPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(r.t, err)
	r.t.Cleanup(func() { require.NoError(r.t, conn.Close()) })
	return streamhousev1.NewStreamHouseServiceClient(conn)
}

func (r *running) call() context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), wait)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *running) createTopic() {
	r.t.Helper()
	_, err := r.client().CreateTopic(r.call(), &streamhousev1.CreateTopicRequest{Name: testTopic, Partitions: 2})
	require.NoError(r.t, err)
}

func (r *running) produce(value string) {
	r.t.Helper()
	partition := int32(0)
	_, err := r.client().Produce(r.call(), &streamhousev1.ProduceRequest{
		Topic: testTopic, Partition: &partition, Record: &streamhousev1.Record{Value: []byte(value)},
	})
	require.NoError(r.t, err)
}

// consume reads until the end. A single read may end earlier; one at the end asks the leader.
func (r *running) consume() string {
	r.t.Helper()
	client := r.client()
	var values []string
	for offset := int64(0); ; {
		resp, err := client.Consume(r.call(), &streamhousev1.ConsumeRequest{Topic: testTopic, Partition: 0, Offset: offset})
		require.NoError(r.t, err)
		if len(resp.GetRecords()) == 0 {
			return strings.Join(values, " ")
		}
		for _, rec := range resp.GetRecords() {
			values = append(values, string(rec.GetValue()))
		}
		offset = resp.GetNextOffset()
	}
}

func TestOneNode(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, "n1", dir, nil)
	n := run(t, cfg)
	n.waitReady()
	n.createTopic()
	n.produce("a")
	n.produce("b")
	require.Equal(t, "a b", n.consume())

	second := run(t, cfg)
	require.ErrorContains(t, second.fails(), "another process uses it")
	n.stop()

	again := run(t, cfg)
	again.waitReady()
	require.Equal(t, "a b", again.consume())
	again.produce("c")
	require.Equal(t, "a b c", again.consume())
	again.stop()

	other := testConfig(t, "n1", dir, map[string]string{"data-dir": filepath.Join(dir, "other")})
	require.ErrorContains(t, run(t, other).fails(), "--object-store")
}

// runThree begins a cluster of three.
func runThree(t *testing.T, dir string) []*running {
	t.Helper()
	seed := freeAddr(t)
	var nodes []*running
	for i := range 3 {
		flags := map[string]string{"bootstrap-expect": "3", "join": seed}
		if i == 0 {
			flags["gossip-addr"] = seed
		}
		nodes = append(nodes, run(t, testConfig(t, fmt.Sprintf("n%d", i+1), dir, flags)))
	}
	for _, n := range nodes {
		n.waitReady()
	}
	return nodes
}

// status asks a node about the cluster.
func (r *running) status() *streamhousev1.GetClusterStatusResponse {
	r.t.Helper()
	conn, err := grpc.NewClient(r.cfg.GRPCAddr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	require.NoError(r.t, err)
	defer func() { require.NoError(r.t, conn.Close()) }()
	resp, err := streamhousev1.NewClusterServiceClient(conn).GetClusterStatus(r.call(), &streamhousev1.GetClusterStatusRequest{})
	require.NoError(r.t, err)
	return resp
}

// waitHealed waits until all three nodes vote in the metadata group and in every shard.
func (r *running) waitHealed() {
	r.t.Helper()
	var last *streamhousev1.GetClusterStatusResponse
	ok := func() bool {
		last = r.status()
		voters := 0
		for _, n := range last.GetNodes() {
			if n.GetMetadataRole() == "voter" || n.GetMetadataRole() == "leader" {
				voters++
			}
		}
		for _, s := range last.GetShards() {
			inShard := 0
			for _, rep := range s.GetReplicas() {
				if rep.GetRole() == "voter" || rep.GetRole() == "leader" {
					inShard++
				}
			}
			if inShard != 3 || len(s.GetReplicas()) != 3 || s.GetLeader() == "" {
				return false
			}
		}
		return voters == 3 && len(last.GetShards()) > 0
	}
	if !waitFor(ok) {
		require.Fail(r.t, "cluster does not heal", last.String())
	}
}

func TestThreeNodes(t *testing.T) {
	dir := t.TempDir()
	nodes := runThree(t, dir)
	nodes[1].createTopic()
	for i, n := range nodes {
		n.produce(fmt.Sprint(i))
	}
	for _, n := range nodes {
		require.Equal(t, "0 1 2", n.consume())
	}

	// A second node of one id is refused at once, and the first goes on.
	twin := testConfig(t, "n2", dir, map[string]string{"data-dir": filepath.Join(dir, "twin"), "join": nodes[0].cfg.GossipAddr})
	require.ErrorContains(t, run(t, twin).fails(), "--node-id")
	nodes[1].produce("3")

	// All stop and come back from their disks.
	for _, n := range nodes {
		n.stop()
	}
	for i := range nodes {
		nodes[i] = run(t, nodes[i].cfg)
	}
	for _, n := range nodes {
		n.waitReady()
		require.Equal(t, "0 1 2 3", n.consume())
	}
}

// A wiped disk is a new node, and a damaged replica, or one whose state can't be read, is built anew from the others.
func TestNodesHeal(t *testing.T) {
	dir := t.TempDir()
	nodes := runThree(t, dir)
	nodes[0].createTopic()
	nodes[0].produce("0")
	nodes[0].waitHealed()

	nodes[0].stop()
	require.NoError(t, os.RemoveAll(nodes[0].cfg.DataDir))
	// The others are its seeds now; its own address is among theirs.
	wiped := nodes[0].cfg
	wiped.Join = []string{nodes[1].cfg.GossipAddr}
	nodes[0] = run(t, wiped)
	nodes[0].waitReady()
	nodes[1].waitHealed()
	require.Equal(t, "0", nodes[0].consume())

	nodes[1].stop()
	damage(t, filepath.Join(nodes[1].cfg.DataDir, "meta"))
	nodes[1] = run(t, nodes[1].cfg)
	nodes[1].waitReady()
	nodes[2].waitHealed()
	require.Equal(t, "0", nodes[1].consume())
	nodes[1].produce("1")
	require.Equal(t, "0 1", nodes[2].consume())

	nodes[2].stop()
	unreadableSnapshot(t, filepath.Join(nodes[2].cfg.DataDir, "meta"))
	nodes[2] = run(t, nodes[2].cfg)
	nodes[2].waitReady()
	nodes[0].waitHealed()
	require.Equal(t, "0 1", nodes[2].consume())
}

// vanished: the only copy of the metadata is never thrown away, whatever is damaged in it.
func TestVanishedMetadata(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, "n1", dir, nil)
	n := run(t, cfg)
	n.waitReady()
	n.createTopic()
	n.stop()
	damage(t, filepath.Join(cfg.DataDir, "meta"))
	err := run(t, cfg).refuses()
	require.ErrorContains(t, err, filepath.Join(cfg.DataDir, "meta"))
	require.ErrorContains(t, err, "on no other node")
}

func TestAnotherStoreIsRefusedOnRestart(t *testing.T) {
	dir := t.TempDir()
	cfg := testConfig(t, "n1", dir, nil)
	n := run(t, cfg)
	n.waitReady()
	n.stop()
	cfg.ObjectStore = (&url.URL{Scheme: "file", Path: filepath.Join(dir, "elsewhere")}).String()
	require.ErrorIs(t, run(t, cfg).fails(), errWrongStore)
}

// damage changes the entries of the Raft log below dir.
func damage(t *testing.T, dir string) {
	t.Helper()
	damaged := false
	require.NoError(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		// The topic's name stands in the entry that created it; bolt has old copies of it.
		if !bytes.Contains(data, []byte(testTopic)) {
			return nil
		}
		damaged = true
		return os.WriteFile(path, bytes.ReplaceAll(data, []byte(testTopic), []byte("lo's")), 0o600)
	}))
	require.True(t, damaged)
}

// unreadableSnapshot gives the metadata replica below dir a newest snapshot that is as it was written, and has no metadata.
func unreadableSnapshot(t *testing.T, dir string) {
	t.Helper()
	replicas, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, replicas, 1)
	s, err := raft.NewFileSnapshotStore(filepath.Join(dir, replicas[0].Name()), 1, io.Discard)
	require.NoError(t, err)
	sink, err := s.Create(raft.SnapshotVersionMax, 1<<40, 1, raft.Configuration{}, 1, nil)
	require.NoError(t, err)
	_, err = sink.Write([]byte("no metadata"))
	require.NoError(t, err)
	require.NoError(t, sink.Close())
}

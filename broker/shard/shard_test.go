package shard

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.uber.org/goleak"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/cluster/transport"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/cache"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/record"
	"github.com/streamhouse/streamhouse/storage/segment"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// metadata is the metadata group of one node without Raft.
type metadata struct {
	mu    sync.Mutex
	state *fsm.State
	index uint64

	silent atomic.Bool // nobody answers a barrier

	// before, where it is set, is called with every command; its error ends the command, which then does nothing. after is
	// called when a command was done; its error is answered all the same.
	before, after func(*metav1.Command) error
}

// set changes the double.
func (m *metadata) set(change func(*metadata)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	change(m)
}

var _ Metadata = (*metadata)(nil)

func (m *metadata) View() *fsm.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state.View()
}

func (m *metadata) Barrier(context.Context) error {
	if m.silent.Load() {
		return context.DeadlineExceeded
	}
	return nil
}

func (m *metadata) Propose(_ context.Context, cmd *metav1.Command) (*metav1.Result, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.before != nil {
		if err := m.before(cmd); err != nil {
			return nil, err
		}
	}
	m.index++
	res, err := m.state.Apply(m.index, cmd)
	if m.after != nil {
		err = errors.Join(err, m.after(cmd))
	}
	return res, err
}

// node has a replica of shard 0, the only one as a rule, and what there is around it.
type node struct {
	t        *testing.T
	id       string
	peers    map[string]string // where the others listen
	metadata *metadata
	bucket   *object.Memory
	blocks   *cache.Cache
	history  *segment.Reader
	tr       *transport.Transport
	dir      string
	change   func(*Config) // of the next start, may be nil

	shard *Shard
	stop  func()
}

// RaftAddr implements transport.Resolver.
func (n *node) RaftAddr(id string) (string, bool) {
	addr, ok := n.peers[id]
	return addr, ok
}

func (n *node) replicaID() string { return n.id + "/A" }

// newNode starts a shard that has these many partitions of the topic "t".
func newNode(t *testing.T, partitions uint32, change func(*Config)) *node {
	t.Helper()
	n := newIdleNode(t, "n1", newMetadata(t, partitions), object.NewMemory(), change)
	n.start()
	require.NoError(t, n.shard.Replica().Bootstrap())
	n.waitLeader()
	return n
}

// newMetadata returns metadata with a topic "t" that has these many partitions; with 0 there is no topic.
func newMetadata(t *testing.T, partitions uint32) *metadata {
	t.Helper()
	m := &metadata{state: fsm.New()}
	m.do(t, &metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{ClusterId: "C1", ClusterName: "c", Shards: 1}}})
	m.do(t, &metav1.Command{Command: &metav1.Command_SetFeatureLevel{SetFeatureLevel: &metav1.SetFeatureLevel{Level: fsm.FeatureLevel}}})
	if partitions > 0 {
		m.do(t, &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
			Name: "t", Uuid: []byte("uuid-of-the-topic"[:16]), Partitions: partitions,
		}}})
	}
	return m
}

func (m *metadata) do(t *testing.T, cmd *metav1.Command) {
	t.Helper()
	_, err := m.Propose(t.Context(), cmd)
	require.NoError(t, err)
}

// newIdleNode makes the files of a replica that is not started yet.
func newIdleNode(t *testing.T, id string, m *metadata, bucket *object.Memory, change func(*Config)) *node {
	t.Helper()
	n := &node{t: t, id: id, metadata: m, bucket: bucket, dir: filepath.Join(t.TempDir(), "replica"), change: change}
	n.blocks = cache.New(n.bucket, cache.Config{})
	n.history = segment.NewReader(n.blocks, 1<<20)
	tr, err := transport.Listen(t.Context(), transport.Config{Addr: "127.0.0.1:0", Resolver: n})
	require.NoError(t, err)
	tr.SetClusterID("C1")
	n.tr = tr
	done := make(chan error, 1)
	go func() { done <- tr.Run(context.WithoutCancel(t.Context())) }()
	t.Cleanup(func() {
		n.end()
		require.NoError(t, tr.Close())
		require.NoError(t, <-done)
		require.NoError(t, n.blocks.Close())
	})
	require.NoError(t, replica.Create(n.dir))
	return n
}

func replicaTimeouts(heartbeat time.Duration) replica.Timeouts {
	return replica.Timeouts{Heartbeat: heartbeat, Election: heartbeat, Lease: heartbeat / 2, Commit: 50 * time.Millisecond}
}

func (n *node) start() {
	n.t.Helper()
	cfg := Config{
		ClusterID: "C1", NodeID: n.id,
		Replica: replica.Config{
			Dir: n.dir, Group: transport.Shard(0), ID: n.replicaID(), Addr: n.tr.Addr().String(), Store: replica.WAL,
			Transport: n.tr, Timeouts: replicaTimeouts(100 * time.Millisecond),
			Fatal: func(err error) { n.t.Errorf("fatal: %v", err) },
		},
		Metadata: n.metadata, Uploads: n.bucket, Budget: NewBudget(n.t.TempDir(), 1<<40, 0), Metrics: NewMetrics(nil),
		UploadBytes: 8 << 10, UploadInterval: 50 * time.Millisecond, CheckpointBytes: 1 << 40, TailBytes: 4 << 10,
	}
	if n.change != nil {
		n.change(&cfg)
	}
	s, err := Open(cfg)
	require.NoError(n.t, err)
	ctx, cancel := context.WithCancel(context.WithoutCancel(n.t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	n.shard = s
	n.stop = func() {
		cancel()
		require.NoError(n.t, <-done)
		require.NoError(n.t, s.Close())
	}
}

func (n *node) end() {
	if n.stop != nil {
		n.stop()
		n.stop = nil
	}
}

func (n *node) restart() {
	n.t.Helper()
	n.end()
	n.start()
	n.waitLeader()
}

func (n *node) waitLeader() {
	n.t.Helper()
	require.Eventually(n.t, func() bool { return n.shard.checkLeader() == nil }, 20*time.Second, 5*time.Millisecond)
}

// checkpoint may find that something came in between; what it promises is that it lost nothing.
func (n *node) checkpoint() {
	n.t.Helper()
	require.NoError(n.t, n.shard.checkpoint(n.t.Context()))
}

// read reads from the replica, and from the object store what the replica has let go of.
func (n *node) read(partition uint64, offset int64) []byte {
	n.t.Helper()
	data, err := n.shard.Read(n.t.Context(), partition, offset, 1000)
	if !errors.Is(err, ErrBelowLocal) {
		require.NoError(n.t, err)
		return data
	}
	p, ok := n.metadata.View().Partition(partition)
	require.True(n.t, ok)
	ref, ok := p.FindSegment(offset)
	require.True(n.t, ok, "partition %d: offset %d is neither here nor in the manifest, which ends at %d", partition, offset, p.UploadedEnd)
	data, err = n.history.Read(n.t.Context(), ref, offset, 1000)
	require.NoError(n.t, err)
	return data
}

func (n *node) waitUploaded() {
	n.t.Helper()
	require.Eventually(n.t, func() bool { return n.shard.PendingBytes() == 0 }, 20*time.Second, 5*time.Millisecond)
}

// log is what a partition must have: the value of each record.
type log []string

// requireLog reads a partition from an offset to its end.
func (n *node) requireLog(partition uint64, from int64, want log) {
	n.t.Helper()
	require.EqualValues(n.t, len(want), n.shard.HighWatermark(partition))
	for offset := from; offset < int64(len(want)); {
		data := n.read(partition, offset)
		batches, err := record.Split(data)
		require.NoError(n.t, err)
		require.NotEmpty(n.t, batches, "partition %d at %d", partition, offset)
		require.LessOrEqual(n.t, batches[0].BaseOffset(), offset)
		for _, b := range batches {
			for r, err := range b.All() {
				require.NoError(n.t, err)
				require.Equal(n.t, want[r.Offset], string(r.Value), "partition %d at %d, read from %d", partition, r.Offset, offset)
			}
			offset = b.NextOffset()
		}
	}
}

// writer is an idempotent producer that at times repeats itself and at times leaves a gap.
type writer struct {
	id   int64
	next map[uint64]int32
	sent map[uint64][]AppendBatch
}

// TestReadsAgreeWithWhatWasStored writes with duplicates and gaps, several batches in an entry, and between that takes
// checkpoints, uploads, restarts, and reads from everywhere.
func TestReadsAgreeWithWhatWasStored(t *testing.T) {
	const partitions = 3
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	n := newNode(t, partitions, nil)
	writers := []*writer{
		{id: 1, next: map[uint64]int32{}, sent: map[uint64][]AppendBatch{}},
		{id: 2, next: map[uint64]int32{}, sent: map[uint64][]AppendBatch{}},
	}
	logs := map[uint64]log{}
	appendSome := func() {
		var batches []AppendBatch
		var expect []func(AppendResult)
		for range 1 + rnd.IntN(12) {
			w, p := writers[rnd.IntN(2)], uint64(1+rnd.IntN(partitions))
			switch dice := rnd.IntN(10); {
			case dice < 2 && len(w.sent[p]) > 0: // an answer was lost
				batches = append(batches, w.sent[p][len(w.sent[p])-1])
				expect = append(expect, func(r AppendResult) { require.True(t, r.Duplicate) })
			case dice < 3 && len(w.sent[p]) > 0:
				seq := w.next[p] + 7
				batches = append(batches, AppendBatch{PartitionID: p, Topic: "t", Data: buildBatch(t, batchConfig{n: 1, id: w.id, seq: seq})})
				expect = append(expect, func(r AppendResult) {
					require.Equal(t, streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, r.Reason)
				})
			default:
				records := 1 + rnd.IntN(5)
				// Large ones make points of the log's index, which must not lie in the middle of an entry.
				value := fmt.Sprintf("%d/%d/%d/", w.id, p, w.next[p]) + strings.Repeat("x", rnd.IntN(2)*20<<10)
				b := AppendBatch{PartitionID: p, Topic: "t", Data: buildBatch(t, batchConfig{n: records, id: w.id, seq: w.next[p], value: value})}
				w.next[p] += int32(records)
				w.sent[p] = append(w.sent[p], b)
				batches = append(batches, b)
				base := int64(len(logs[p]))
				for i := range records {
					logs[p] = append(logs[p], fmt.Sprint(value, i))
				}
				expect = append(expect, func(r AppendResult) { require.Equal(t, AppendResult{BaseOffset: base}, r) })
			}
		}
		results, err := n.shard.Append(t.Context(), batches, false)
		require.NoError(t, err)
		for i, check := range expect {
			check(results[i])
		}
	}
	readSome := func() {
		p := uint64(1 + rnd.IntN(partitions))
		if end := len(logs[p]); end > 0 {
			n.requireLog(p, int64(rnd.IntN(end)), logs[p])
		}
	}
	for range 300 {
		switch dice := rnd.IntN(40); {
		case dice == 0:
			n.restart()
		case dice < 3:
			n.checkpoint()
		case dice == 3:
			n.waitUploaded()
		case dice < 15:
			readSome()
		default:
			appendSome()
		}
	}
	for p := range uint64(partitions) {
		n.requireLog(p+1, 0, logs[p+1])
	}
	n.waitUploaded()
	n.checkpoint()
	n.restart()
	for p := range uint64(partitions) {
		n.requireLog(p+1, 0, logs[p+1])
		part, _ := n.metadata.View().Partition(p + 1)
		require.EqualValues(t, len(logs[p+1]), part.UploadedEnd)
	}
}

// A leader uploads at once what the one before it left: somebody may wait there with acks=durable.
func TestNewLeaderUploadsWhatItInherits(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.UploadInterval, c.UploadBytes = time.Hour, 1<<30 })
	for _, durable := range []bool{true, false} { // the first lets this leader upload whatever it has
		_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "a")}}, durable)
		require.NoError(t, err)
	}
	s := n.shard // the last look may outlive Never
	require.Never(t, func() bool { return s.PendingBytes() == 0 }, 4*uploadTick, uploadTick, "it is neither large nor old")
	n.restart()
	n.waitUploaded()
}

// The span of an upload links to the requests that wait for it, and to each once.
func TestUploadLinksToWhoWaits(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	provider := sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans))
	n := newNode(t, 1, func(c *Config) { c.TracerProvider = provider })
	var want []string
	for range 3 {
		ctx, span := provider.Tracer("test").Start(t.Context(), "produce")
		_, err := n.shard.Append(ctx, []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "a")}}, true)
		require.NoError(t, err)
		span.End()
		want = append(want, span.SpanContext().TraceID().String())
	}
	links := func() (linked []string) {
		for _, span := range spans.Ended() {
			for _, l := range span.Links() {
				linked = append(linked, l.SpanContext.TraceID().String())
			}
		}
		return linked
	}
	require.Eventually(t, func() bool { return len(links()) >= len(want)-1 }, 10*time.Second, uploadTick/5)
	for _, linked := range links() {
		require.Contains(t, want, linked)
	}
}

// A batch whose place is forgotten may be told to be stored, but with acks=durable not before it is in the object store.
func TestForgottenDuplicateIsDurable(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.UploadInterval, c.UploadBytes = time.Hour, 1<<30 })
	write := func(seq int32, durable bool) AppendResult {
		t.Helper()
		b := AppendBatch{PartitionID: 1, Topic: "t", Data: buildBatch(t, batchConfig{n: 1, id: 1, seq: seq})}
		results, err := n.shard.Append(t.Context(), []AppendBatch{b}, durable)
		require.NoError(t, err)
		return results[0]
	}
	write(0, true) // lets this leader upload what it has inherited
	for seq := range int32(rememberedBatches + 1) {
		require.Equal(t, reasonNone, write(1+seq, false).Reason)
	}
	require.Positive(t, n.shard.PendingBytes())
	require.Equal(t, reasonForgotten, write(1, true).Reason)
	require.Zero(t, n.shard.PendingBytes())
}

// Many batches are under way at once, and come in the order in which they were given.
func TestAppendsKeepTheirOrder(t *testing.T) {
	n := newNode(t, 1, nil)
	want := log{}
	var wg sync.WaitGroup
	for i := range 200 {
		value := fmt.Sprintf("%d/", i)
		want = append(want, value+"0")
		b := AppendBatch{PartitionID: 1, Topic: "t", Data: buildBatch(t, batchConfig{n: 1, id: 1, seq: int32(i), value: value})}
		wait, err := n.shard.BeginAppend(t.Context(), []AppendBatch{b}, false)
		require.NoError(t, err)
		wg.Go(func() {
			results, err := wait(t.Context())
			if err != nil || results[0].BaseOffset != int64(i) {
				t.Errorf("batch %d: %+v, %v", i, results, err)
			}
		})
	}
	wg.Wait()
	n.requireLog(1, 0, want)
}

// A caller that gives up before its batch was proposed has written nothing.
func TestWithdrawnAppend(t *testing.T) {
	n := newNode(t, 1, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := n.shard.Append(ctx, []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "a")}}, false)
	require.ErrorIs(t, err, context.Canceled)
	wrote := errors.Is(err, ErrUnknownOutcome)
	_, err = n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "b")}}, false)
	require.NoError(t, err)
	if !wrote {
		n.requireLog(1, 0, log{"b0"})
	}
}

func TestClosedShardRefuses(t *testing.T) {
	n := newNode(t, 1, nil)
	s := n.shard
	n.end()
	_, err := s.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "a")}}, false)
	require.Error(t, err)
	require.ErrorIs(t, s.WaitHighWatermark(t.Context(), 1, 1), ErrClosed)
}

// acks=durable returns once the manifest has the record, whether it is new or a duplicate.
func TestDurableAppend(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.UploadInterval, c.UploadBytes = time.Hour, 1<<30 })
	b := []AppendBatch{{PartitionID: 1, Topic: "t", Data: buildBatch(t, batchConfig{n: 3, id: 1})}}
	for _, duplicate := range []bool{false, true} {
		results, err := n.shard.Append(t.Context(), b, true)
		require.NoError(t, err)
		require.Equal(t, duplicate, results[0].Duplicate)
		p, _ := n.metadata.View().Partition(1)
		require.EqualValues(t, 3, p.UploadedEnd)
	}
}

// A deleted topic's partitions go from all that the shard holds, and committed offsets with them.
func TestDeletedTopicIsDropped(t *testing.T) {
	n := newNode(t, 1, nil)
	_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 3, "a")}}, false)
	require.NoError(t, err)
	require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: 1, Offset: 2}}))
	require.Contains(t, n.shard.Rebalances(), "g")
	n.metadata.do(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{
		Name: "t", Uuid: []byte("uuid-of-the-topic"[:16]),
	}}})
	require.Eventually(t, func() bool { return len(n.metadata.View().DeletedTopics()) == 0 }, 20*time.Second, 5*time.Millisecond)
	require.Zero(t, n.shard.HighWatermark(1))
	require.Empty(t, n.shard.Rebalances())
	results, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "late")}}, false)
	require.NoError(t, err)
	require.Equal(t, streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND, results[0].Reason)
}

// What was committed is there after a restart, from the log and from a snapshot.
func TestRestartKeepsEverything(t *testing.T) {
	for name, checkpoint := range map[string]bool{"from the log": false, "from a snapshot": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, late)
			n.write(1, 1, "u", true) // lets this leader upload whatever it has
			b := AppendBatch{PartitionID: 1, Topic: "t", Data: buildBatch(t, batchConfig{n: 2, id: 1, value: "v"})}
			_, err := n.shard.Append(t.Context(), []AppendBatch{b}, false)
			require.NoError(t, err)
			require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: 1, Offset: 2, Metadata: "m"}}))
			if checkpoint {
				n.checkpoint()
			}
			n.restart()
			n.requireLog(1, 0, log{"u0", "v0", "v1"})
			offsets, err := n.shard.Offsets("g", nil)
			require.NoError(t, err)
			require.Equal(t, []GroupOffset{{PartitionID: 1, Offset: 2, Metadata: "m"}}, offsets)
			results, err := n.shard.Append(t.Context(), []AppendBatch{b}, false)
			require.NoError(t, err)
			require.Equal(t, []AppendResult{{BaseOffset: 1, Duplicate: true}}, results)
		})
	}
}

// The tail alone forgets; what it forgot comes from the log.
func TestReadBehindTheTail(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.UploadInterval, c.UploadBytes, c.TailBytes = time.Hour, 1<<30, 0 })
	var want log
	for i := range 500 {
		_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, fmt.Sprintf("%d/", i))}}, false)
		require.NoError(t, err)
		want = append(want, fmt.Sprintf("%d/0", i))
	}
	for _, from := range []int64{0, 1, 63, 64, 65, 400, 499} {
		n.requireLog(1, from, want)
	}
	_, err := n.shard.Read(t.Context(), 1, 501, 100)
	require.ErrorIs(t, err, ErrBehind)
	data, err := n.shard.Read(t.Context(), 1, 500, 100)
	require.NoError(t, err)
	require.Empty(t, data)
	require.Equal(t, []uint64{1}, slices.Collect(maps.Keys(n.shard.fsm.local.index)))
}

package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// s3-slowdown-death: an object store that fails holds uploads up and nothing else, also while a node recovers.
func TestS3SlowdownDeath(t *testing.T) {
	n := newNode(t, 2, nil)
	var mu sync.Mutex
	fail := true
	errDown := errors.New("down")
	n.end()
	n.bucket.Before = func(_ context.Context, op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "PUT" && fail {
			return errDown
		}
		return nil
	}
	n.start()
	n.waitLeader()
	logs := map[uint64]log{}
	for i := range 20 {
		p := uint64(1 + i%2)
		_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: p, Topic: "t", Data: plain(t, 2, fmt.Sprintf("%d/", i))}}, false)
		require.NoError(t, err)
		logs[p] = append(logs[p], fmt.Sprintf("%d/0", i), fmt.Sprintf("%d/1", i))
	}
	// A checkpoint keeps what the object store has not.
	n.checkpoint()
	n.restart()
	for p, want := range logs {
		n.requireLog(p, 0, want)
	}
	mu.Lock()
	fail = false
	mu.Unlock()
	n.waitUploaded()
	n.checkpoint()
	for p, want := range logs {
		n.requireLog(p, 0, want)
		part, _ := n.metadata.View().Partition(p)
		require.EqualValues(t, len(want), part.UploadedEnd)
		require.EqualValues(t, 0, part.Segments[0].BaseOffset)
	}
}

// late uploads only what somebody waits for with acks=durable, and what a new leader has inherited.
func late(c *Config) { c.UploadInterval, c.UploadBytes = time.Hour, 1<<30 }

// write appends n records to a partition.
func (n *node) write(partition uint64, records int, value string, durable bool) {
	n.t.Helper()
	_, err := n.shard.Append(n.t.Context(), []AppendBatch{{PartitionID: partition, Topic: "t", Data: plain(n.t, records, value)}}, durable)
	require.NoError(n.t, err)
}

// objects returns the names of all objects in the bucket.
func (n *node) objects() []string {
	n.t.Helper()
	var names []string
	require.NoError(n.t, object.All(n.t.Context(), n.bucket, "", func(a object.Attributes) error {
		names = append(names, a.Name)
		return nil
	}))
	return names
}

// listed returns the objects that the manifest of the first partition names.
func (n *node) listed() map[string]bool {
	n.t.Helper()
	p, ok := n.metadata.View().Partition(1)
	require.True(n.t, ok)
	names := make(map[string]bool)
	for _, s := range p.Segments {
		names[s.Object] = true
	}
	return names
}

// orphan-delete: a shard whose leader finds metadata without the topic, as a damaged snapshot would leave it, deletes
// nothing of what it has.
func TestOrphanDelete(t *testing.T) {
	n := newNode(t, 1, late)
	n.write(1, 2, "a", true)
	n.write(1, 2, "b", false)
	want := log{"a0", "a1", "b0", "b1"}
	whole := n.metadata.state
	n.metadata.set(func(m *metadata) { m.state = newMetadata(t, 0).state })
	n.restart()
	s := n.shard // the last look may outlive Never
	require.Never(t, func() bool { return s.HighWatermark(1) != int64(len(want)) }, 3*sweepTick, 10*time.Millisecond)
	require.Len(t, n.objects(), 1)
	n.metadata.set(func(m *metadata) { m.state = whole })
	n.restart()
	n.waitUploaded()
	n.requireLog(1, 0, want)
}

// crashBeforeCommit stops the node when an object is in the bucket and not in the manifest, and returns the command that
// would have listed it.
func (n *node) crashBeforeCommit() *metav1.Command {
	n.t.Helper()
	commit := make(chan *metav1.Command, 100)
	n.metadata.set(func(m *metadata) {
		m.before = func(cmd *metav1.Command) error {
			if cmd.GetCommitSegments() == nil {
				return nil
			}
			select {
			case commit <- cmd:
			default:
			}
			return context.DeadlineExceeded
		}
	})
	n.write(1, 2, "a", false)
	n.restart() // what is inherited is uploaded at once
	cmd := <-commit
	n.end()
	n.metadata.set(func(m *metadata) { m.before = nil })
	return cmd
}

// zombie-upload: of two leaders that upload the same records, one is listed, whoever comes first, and neither replaces the
// other's object.
func TestZombieUpload(t *testing.T) {
	for name, zombieFirst := range map[string]bool{"too late": false, "before the new leader": true} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, 1, late)
			zombie := n.crashBeforeCommit()
			if zombieFirst {
				n.metadata.do(t, zombie)
			}
			n.start()
			n.waitLeader()
			n.waitUploaded()
			res, err := n.metadata.Propose(t.Context(), zombie)
			require.NoError(t, err)
			want := metav1.SegmentOutcome_SEGMENT_OUTCOME_STALE_BASE
			if zombieFirst {
				want = metav1.SegmentOutcome_SEGMENT_OUTCOME_ALREADY_COMMITTED
			}
			require.Equal(t, []metav1.SegmentOutcome{want}, res.GetSegments())
			require.Equal(t, zombieFirst, n.listed()[zombie.GetCommitSegments().GetObject()])
			p, _ := n.metadata.View().Partition(1)
			require.Len(t, p.Segments, 1)
			n.checkpoint()
			n.restart()
			n.requireLog(1, 0, log{"a0", "a1"})
		})
	}
}

// half-a-pair: the manifest never names an object that is not there, and one that was never named is whole by itself and
// harms nobody.
func TestHalfAPair(t *testing.T) {
	n := newNode(t, 1, late)
	half := n.crashBeforeCommit().GetCommitSegments().GetObject()
	require.Empty(t, n.listed())
	attributes, err := n.bucket.Head(t.Context(), half)
	require.NoError(t, err)
	found, err := segment.Inspect(t.Context(), n.blocks, half, attributes.SizeBytes)
	require.NoError(t, err)
	require.Len(t, found.Segments, 1)

	var missing []string
	n.metadata.set(func(m *metadata) {
		m.before = func(cmd *metav1.Command) error {
			if c := cmd.GetCommitSegments(); c != nil {
				if _, err := n.bucket.Head(context.Background(), c.GetObject()); err != nil {
					missing = append(missing, c.GetObject())
				}
			}
			return nil
		}
	})
	n.start()
	n.waitLeader()
	n.write(1, 1, "b", true)
	n.waitUploaded()
	n.metadata.set(func(*metadata) { require.Empty(t, missing) })
	require.NotContains(t, n.listed(), half)
	n.requireLog(1, 0, log{"a0", "a1", "b0"})
}

// timeout-is-not-failure: a PUT, and a command that lists an object, that were done though their answers were lost, are not
// undone, and not done again under another name.
func TestTimeoutIsNotFailure(t *testing.T) {
	var mu sync.Mutex
	lost := map[string]int{"put": 3, "list": 3}
	lose := func(what string) error {
		mu.Lock()
		defer mu.Unlock()
		if lost[what] == 0 {
			return nil
		}
		lost[what]--
		return context.DeadlineExceeded
	}
	n := newNode(t, 1, late)
	n.end()
	n.change = func(c *Config) {
		late(c)
		c.Uploads = object.WithRetry(n.bucket, object.RetryConfig{MinBackoff: time.Millisecond, MaxBackoff: time.Millisecond})
	}
	n.bucket.After = func(_ context.Context, op, _ string) error {
		if op != "PUT" {
			return nil
		}
		return lose("put")
	}
	n.metadata.set(func(m *metadata) {
		m.after = func(cmd *metav1.Command) error {
			if cmd.GetCommitSegments() == nil {
				return nil
			}
			return lose("list")
		}
	})
	n.start()
	n.waitLeader()
	want := log{}
	for i := range 3 {
		n.write(1, 1, fmt.Sprintf("%d/", i), true)
		want = append(want, fmt.Sprintf("%d/0", i))
	}
	require.Equal(t, map[string]int{"put": 0, "list": 0}, lost)
	for _, name := range n.objects() {
		require.Contains(t, n.listed(), name, "an object was made twice")
	}
	n.requireLog(1, 0, want)
}

// one-commit-per-partition: the metadata gets one command for an object, however many partitions are in it.
func TestOneCommitPerPartition(t *testing.T) {
	const partitions = 50
	n := newNode(t, partitions, late)
	commits := 0
	n.metadata.set(func(m *metadata) {
		m.before = func(cmd *metav1.Command) error {
			if cmd.GetCommitSegments() != nil {
				commits++
			}
			return nil
		}
	})
	for p := range uint64(partitions) {
		n.write(1+p, 1, "a", p == partitions-1)
	}
	n.waitUploaded()
	n.metadata.set(func(*metadata) { require.Len(t, n.objects(), commits) })
	require.LessOrEqual(t, commits, 2, "the small segments of all partitions share an object")
}

// offsets-before-commit: what only this replica has on disk has no offset yet, and nobody can read it.
func TestOffsetsBeforeCommit(t *testing.T) {
	n := newNode(t, 1, func(c *Config) {
		late(c)
		c.Replica.Timeouts = replicaTimeouts(500 * time.Millisecond)
	})
	n.write(1, 1, "a", false)
	rf := n.shard.Replica().Raft()
	committed := rf.LastIndex()
	rf.AddVoter("n2/B", "127.0.0.1:1/B", 0, 0) // from now on one is no majority
	_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "b")}}, false)
	require.ErrorIs(t, err, ErrUnknownOutcome)
	last, err := n.shard.Replica().Log(rf.LastIndex())
	require.NoError(t, err)
	require.Greater(t, last.Index, committed+1)
	require.Equal(t, raft.LogCommand, last.Type, "the batch is in the log")

	require.EqualValues(t, 1, n.shard.HighWatermark(1))
	_, err = n.shard.LeaderHighWatermark(1)
	require.Error(t, err)
	data, err := n.shard.Read(t.Context(), 1, 1, 1000)
	require.NoError(t, err)
	require.Empty(t, data)
	n.requireLog(1, 0, log{"a0"})
}

// vague-error: an entry that Raft took is not said to be surely not written, and one that it did not take is not unknown.
func TestVagueErrorOfAProposal(t *testing.T) {
	for err, written := range map[error]bool{
		raft.ErrNotLeader: false, raft.ErrEnqueueTimeout: false, raft.ErrLeadershipTransferInProgress: false,
		raft.ErrLeadershipLost: true, raft.ErrRaftShutdown: true, raft.ErrAbortedByRestore: true, io.ErrUnexpectedEOF: true,
	} {
		got := proposeError(err)
		_, surelyNot := errors.AsType[*NotLeaderError](got)
		require.Equal(t, written, errors.Is(got, ErrUnknownOutcome), err)
		require.Equal(t, !written, surelyNot, err)
	}
}

// slowSink is a raft.SnapshotSink that calls during before it takes anything.
type slowSink struct {
	memorySink
	during func()
	once   sync.Once
}

func (s *slowSink) Write(b []byte) (int, error) {
	s.once.Do(s.during)
	return s.memorySink.Write(b)
}

// snapshot-stops-world: entries are applied while a snapshot is written, and do not change it.
func TestSnapshotStopsWorldInAShard(t *testing.T) {
	m := filled(t)
	for seq := int32(1); seq < rememberedBatches; seq++ {
		m.append(70, 9, batchConfig{n: 1, id: 6, epoch: 2, seq: seq})
	}
	m.apply(encodeUploaded(75, []uploadedEnd{{9, rememberedBatches}}))
	want := persist(t, m)
	sn, err := m.fsm.Snapshot()
	require.NoError(t, err)
	change := func(seq int32) {
		m.append(80, 9, batchConfig{n: 1, id: 6, epoch: 2, seq: seq})
		m.append(80, 8, batchConfig{n: 1, id: -1})
		m.apply(encodeOffsetCommit(80, offsetCommit{group: "g", offsets: []GroupOffset{{8, 2, "other"}}}))
		m.apply(encodeDrop(80, []uint64{12}))
	}
	change(rememberedBatches)
	sink := &slowSink{during: func() {
		applied := make(chan struct{})
		go func() {
			defer close(applied)
			change(rememberedBatches + 1)
		}()
		select {
		case <-applied:
		case <-time.After(10 * time.Second):
			t.Error("nothing is applied while the snapshot is written")
		}
	}}
	require.NoError(t, sn.Persist(sink))
	require.Equal(t, want, sink.Bytes())
	require.NoError(t, newMachine(t).fsm.Restore(io.NopCloser(bytes.NewReader(sink.Bytes()))))
}

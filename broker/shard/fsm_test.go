package shard

import (
	"bytes"
	"errors"
	"flag"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/stretchr/testify/require"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// machine feeds entries to a replica's state machine.
type machine struct {
	t     testing.TB
	fsm   *replicaFSM
	index uint64
	fatal error
}

func newMachine(tb testing.TB) *machine {
	tb.Helper()
	m := &machine{t: tb}
	m.fsm = newReplicaFSM(1, 1<<20, func(err error) { m.fatal = err })
	return m
}

func (m *machine) apply(data []byte) applied {
	m.index++
	return m.fsm.Apply(&raft.Log{Index: m.index, Type: raft.LogCommand, Data: data}).(applied)
}

// append applies one batch to partition id and returns its result.
func (m *machine) append(timeMs int64, id uint64, c batchConfig) AppendResult {
	m.t.Helper()
	res := m.apply(encodeAppend(timeMs, AppendBatch{PartitionID: id, Data: buildBatch(m.t, c)}))
	require.NoError(m.t, res.err)
	require.Len(m.t, res.results, 1)
	return res.results[0]
}

func TestApplyGivesDenseOffsets(t *testing.T) {
	m := newMachine(t)
	require.Equal(t, int64(0), m.append(1, 7, batchConfig{n: 3, id: -1}).BaseOffset)
	require.Equal(t, int64(0), m.append(1, 8, batchConfig{n: 2, id: -1}).BaseOffset)
	require.Equal(t, int64(3), m.append(1, 7, batchConfig{n: 4, id: -1}).BaseOffset)
	require.Equal(t, int64(7), m.fsm.highWatermarkLocked(7))
	require.Equal(t, int64(2), m.fsm.highWatermarkLocked(8))
}

// retry-duplicates: a batch that is sent again is stored once, and answered as it was the first time.
func TestRetryDuplicates(t *testing.T) {
	m := newMachine(t)
	first := m.append(1, 7, batchConfig{n: 3, id: 5, value: "a"})
	require.Equal(t, AppendResult{BaseOffset: 0}, first)
	require.Equal(t, int64(3), m.append(1, 7, batchConfig{n: 2, id: 5, seq: 3, value: "b"}).BaseOffset)

	again := m.append(1, 7, batchConfig{n: 3, id: 5, value: "a"})
	require.Equal(t, AppendResult{BaseOffset: 0, Duplicate: true}, again)
	require.Equal(t, int64(5), m.fsm.highWatermarkLocked(7), "nothing was stored twice")

	gap := m.append(1, 7, batchConfig{n: 1, id: 5, seq: 9})
	require.Equal(t, streamhousev1.ErrorReason_ERROR_REASON_OUT_OF_ORDER_SEQUENCE, gap.Reason)
	require.Equal(t, int32(5), gap.ExpectedSequence)
	require.Equal(t, []batchPlace{{3, 0}, {4, 0}}, m.fsm.local.rejected)
}

func TestApplyUploadedNeverGoesBack(t *testing.T) {
	m := newMachine(t)
	m.append(1, 7, batchConfig{n: 10, id: -1})
	m.append(1, 7, batchConfig{n: 10, id: -1})
	require.Positive(t, m.fsm.state.pendingBytes)
	for _, step := range []struct{ end, want int64 }{{10, 10}, {5, 10}, {1000, 20}} {
		require.NoError(t, m.apply(encodeUploaded(2, []uploadedEnd{{7, step.end}, {99, 5}})).err)
		require.Equal(t, step.want, m.fsm.state.partitions[7].uploaded)
	}
	require.Zero(t, m.fsm.state.pendingBytes)
	require.NotContains(t, m.fsm.state.partitions, uint64(99), "an unknown partition is not made")
}

func TestDropPartition(t *testing.T) {
	m := newMachine(t)
	m.append(1, 7, batchConfig{n: 10, id: 5})
	m.append(1, 8, batchConfig{n: 1, id: -1})
	m.apply(encodeOffsetCommit(1, offsetCommit{group: "g", offsets: []GroupOffset{{7, 3, ""}, {8, 1, ""}}}))
	require.NoError(t, m.apply(encodeDrop(2, []uint64{7})).err)

	require.Equal(t, streamhousev1.ErrorReason_ERROR_REASON_PARTITION_NOT_FOUND,
		m.append(3, 7, batchConfig{n: 1, id: -1}).Reason, "a late append does not revive it")
	require.Equal(t, []GroupOffset{{PartitionID: 8, Offset: 1}}, m.fsm.state.groupOffsets("g", nil))
	require.Equal(t, m.fsm.state.partitions[8].pendingBytes, m.fsm.state.pendingBytes)
	require.Zero(t, m.fsm.state.producers.order.Len())

	m.append(3+droppedKeepMs+60_000, 8, batchConfig{n: 1, id: -1})
	require.Empty(t, m.fsm.state.dropped, "the memory of it expires")
}

func TestTimeNeverGoesBack(t *testing.T) {
	m := newMachine(t)
	m.append(1000, 7, batchConfig{n: 1, id: -1})
	m.append(500, 7, batchConfig{n: 1, id: -1})
	require.Equal(t, int64(1000), m.fsm.state.timeMs)
}

func TestUnknownEntryEndsTheNode(t *testing.T) {
	m := newMachine(t)
	data := encodeDrop(1, nil)
	data[0] = 99
	require.ErrorIs(t, m.apply(data).err, errEntryVersion)
	require.ErrorIs(t, m.fatal, errEntryVersion)
	require.Error(t, m.apply(encodeDrop(1, nil)).err, "nothing is applied behind it")
}

// memorySink is a raft.SnapshotSink in memory.
type memorySink struct {
	bytes.Buffer
	cancelled bool
}

func (*memorySink) ID() string      { return "test" }
func (s *memorySink) Cancel() error { s.cancelled = true; return nil }
func (*memorySink) Close() error    { return nil }

// filled returns a machine with something of everything, its pending batches pinned.
func filled(tb testing.TB) *machine {
	tb.Helper()
	m := newMachine(tb)
	m.append(10, 7, batchConfig{n: 3, id: 5, value: "a"})
	m.append(20, 7, batchConfig{n: 2, id: 5, seq: 3, value: "b"})
	m.append(30, 8, batchConfig{n: 4, id: -1, value: "c"})
	m.append(40, 9, batchConfig{n: 1, id: 6, epoch: 2, value: "d"})
	m.apply(encodeUploaded(50, []uploadedEnd{{7, 3}, {9, 1}}))
	m.apply(encodeOffsetCommit(60, offsetCommit{group: "g", offsets: []GroupOffset{{7, 3, "m"}, {8, 1, ""}}}))
	m.apply(encodeDrop(70, []uint64{11}))
	l := m.fsm.local
	l.pinned = map[uint64]memRun{7: append(memRun(nil), l.tail.runs[7][1:]...), 8: append(memRun(nil), l.tail.runs[8]...)}
	return m
}

func persist(tb testing.TB, m *machine) []byte {
	tb.Helper()
	sn, err := m.fsm.Snapshot()
	require.NoError(tb, err)
	sink := &memorySink{}
	require.NoError(tb, sn.Persist(sink))
	sn.Release()
	return sink.Bytes()
}

func TestSnapshotRoundTrip(t *testing.T) {
	m := filled(t)
	data := persist(t, m)
	restored := newMachine(t)
	require.NoError(t, restored.fsm.Restore(io.NopCloser(bytes.NewReader(data))))
	require.Equal(t, data, persist(t, restored), "the same state gives the same bytes")
	require.Equal(t, m.fsm.local.pinned, restored.fsm.local.pinned)

	// Both go on alike.
	for _, x := range []*machine{m, restored} {
		x.index = 100
		require.Equal(t, AppendResult{BaseOffset: 3, Duplicate: true}, x.append(80, 7, batchConfig{n: 2, id: 5, seq: 3, value: "b"}))
		require.Equal(t, AppendResult{BaseOffset: 5}, x.append(80, 7, batchConfig{n: 1, id: 5, seq: 5}))
		require.Equal(t, AppendResult{BaseOffset: 4}, x.append(80, 8, batchConfig{n: 1, id: -1}))
	}
}

var update = flag.Bool("update", false, "write the golden file anew")

// Snapshots of version 1 are read for ever, and the same state gives the same bytes.
func TestGoldenSnapshot(t *testing.T) {
	const path = "testdata/snapshot-v1.golden"
	if *update {
		require.NoError(t, os.WriteFile(path, persist(t, filled(t)), 0o600))
	}
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, persist(t, filled(t)))
	restored := newMachine(t)
	require.NoError(t, restored.fsm.Restore(io.NopCloser(bytes.NewReader(data))))
	require.Equal(t, data, persist(t, restored))
}

func TestSnapshotWantsPinnedBatches(t *testing.T) {
	m := filled(t)
	delete(m.fsm.local.pinned, 8)
	_, err := m.fsm.Snapshot()
	require.ErrorIs(t, err, errNotPinned)
}

// A snapshot that was cut or changed anywhere is refused, and the state stays as it was.
func TestSnapshotCorrupt(t *testing.T) {
	data := persist(t, filled(t))
	restore := func(t *testing.T, b []byte) {
		t.Helper()
		m := newMachine(t)
		m.append(1, 7, batchConfig{n: 1, id: -1})
		require.ErrorIs(t, m.fsm.Restore(io.NopCloser(bytes.NewReader(b))), ErrSnapshotCorrupt)
		require.Equal(t, int64(1), m.fsm.highWatermarkLocked(7))
	}
	for n := range data {
		restore(t, data[:n])
		flipped := bytes.Clone(data)
		flipped[n] ^= 0x10
		restore(t, flipped)
	}
}

// A snapshot that a later program wrote is not damaged: nothing is given up for it.
func TestSnapshotOfALaterVersion(t *testing.T) {
	sn, err := filled(t).fsm.Snapshot()
	require.NoError(t, err)
	sn.(*snapshot).header.Version++
	var later bytes.Buffer
	require.NoError(t, sn.(*snapshot).write(&later))
	err = newMachine(t).fsm.Restore(io.NopCloser(&later))
	require.ErrorIs(t, err, ErrSnapshotVersion)
	require.NotErrorIs(t, err, ErrSnapshotCorrupt)
}

// What could not be read again is not written: the log is kept instead.
func TestSnapshotItemIsBounded(t *testing.T) {
	m := filled(t)
	o := m.fsm.state.groups["g"].offsets[7]
	o.metadata = strings.Repeat("x", maxSnapshotFrame)
	m.fsm.state.groups["g"].offsets[7] = o
	sn, err := m.fsm.Snapshot()
	require.NoError(t, err)
	sink := &memorySink{}
	require.ErrorContains(t, sn.Persist(sink), "at most")
	require.True(t, sink.cancelled)
}

func FuzzSnapshot(f *testing.F) {
	f.Add(persist(f, filled(f)))
	f.Add(persist(f, withGroups(f)))
	f.Add(persist(f, withLog(f)))
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := readSnapshot(bytes.NewReader(data), 1); err != nil && !errors.Is(err, ErrSnapshotCorrupt) && !errors.Is(err, ErrSnapshotVersion) {
			t.Fatalf("unclear error: %v", err)
		}
	})
}

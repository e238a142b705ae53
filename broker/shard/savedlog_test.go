package shard

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// withLog returns filled's machine, whose snapshots tell of its log. A batch in it was refused.
func withLog(tb testing.TB) *machine {
	tb.Helper()
	m := filled(tb)
	m.fsm.replicaID = "n1/A"
	require.True(tb, m.append(80, 7, batchConfig{n: 3, id: 5, value: "a"}).Duplicate)
	return m
}

// A replica finds in its log after a restart what it found before, and nothing by what another one's snapshot says.
func TestSnapshotTellsOfTheLog(t *testing.T) {
	m := withLog(t)
	data := persist(t, m)
	again := newMachine(t)
	again.fsm.replicaID = "n1/A"
	require.NoError(t, again.fsm.Restore(io.NopCloser(bytes.NewReader(data))))
	require.Equal(t, m.index, again.fsm.index)
	require.Equal(t, []batchPlace{{8, 0}}, again.fsm.local.rejected)
	require.Len(t, again.fsm.local.index, len(m.fsm.local.index))
	for id, x := range m.fsm.local.index {
		require.Equal(t, x.points, again.fsm.local.index[id].points, "partition id %d", id)
	}
	require.Equal(t, data, persist(t, again), "the same state and log give the same bytes")

	again.index = m.index
	again.append(90, 7, batchConfig{n: 1, id: -1})
	points := again.fsm.local.index[7].points
	require.Equal(t, point{base: 5, index: m.index + 1}, points[len(points)-1], "the log may be cut before it")

	other := newMachine(t)
	other.fsm.replicaID = "n2/B"
	require.NoError(t, other.fsm.Restore(io.NopCloser(bytes.NewReader(data))))
	require.Empty(t, other.fsm.local.index)
	require.Empty(t, other.fsm.local.rejected)
	require.Equal(t, m.index, other.fsm.index)
}

// Snapshots that tell of a log are read for ever.
func TestGoldenSnapshotOfALog(t *testing.T) {
	const path = "testdata/snapshot-v1-log.golden"
	if *update {
		require.NoError(t, os.WriteFile(path, persist(t, withLog(t)), 0o600))
	}
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, data, persist(t, withLog(t)))
}

// A log that can't be read costs the log, and not the snapshot.
func TestSnapshotWithAnUnreadableLog(t *testing.T) {
	state := persist(t, filled(t))
	whole := persist(t, withLog(t))
	for n := len(state); n < len(whole); n++ {
		read, err := readSnapshot(bytes.NewReader(whole[:n]), 1)
		require.NoError(t, err)
		require.Nil(t, read.log)
	}
}

// What a snapshot tells of the log is behind the end of what programs before it read.
func TestOlderProgramsReadSnapshots(t *testing.T) {
	m := filled(t)
	older := persist(t, m)
	m.fsm.replicaID = "n1/A"
	require.True(t, bytes.HasPrefix(persist(t, m), older))
}

// What does not fit is not used.
func TestBadLogOfASnapshot(t *testing.T) {
	log := &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_Log{Log: &metav1.ShardLog{ReplicaId: "n1/A", FirstIndex: 3, LastIndex: 9}}}
	points := func(id uint64, offsets []int64, indexes ...uint64) *metav1.ShardSnapshotItem {
		return &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_LogPoints{LogPoints: &metav1.ShardLogPoints{
			PartitionId: id, BaseOffsets: offsets, Indexes: indexes,
		}}}
	}
	refusals := func(indexes []uint64, places ...uint32) *metav1.ShardSnapshotItem {
		return &metav1.ShardSnapshotItem{Item: &metav1.ShardSnapshotItem_LogRefusals{LogRefusals: &metav1.ShardLogRefusals{Indexes: indexes, Places: places}}}
	}
	for name, tt := range map[string]struct {
		ok    bool
		items []*metav1.ShardSnapshotItem
	}{
		"points and refusals":   {true, []*metav1.ShardSnapshotItem{log, points(7, []int64{0, 3}, 3, 9), refusals([]uint64{4, 4, 5}, 0, 2, 0)}},
		"no log first":          {false, []*metav1.ShardSnapshotItem{points(7, []int64{0}, 3)}},
		"two logs":              {false, []*metav1.ShardSnapshotItem{log, log}},
		"no replica":            {false, []*metav1.ShardSnapshotItem{{Item: &metav1.ShardSnapshotItem_Log{Log: &metav1.ShardLog{}}}}},
		"another item":          {false, []*metav1.ShardSnapshotItem{log, {Item: &metav1.ShardSnapshotItem_Batch{Batch: &metav1.ShardBatch{}}}}},
		"unknown partition":     {false, []*metav1.ShardSnapshotItem{log, points(99, []int64{0}, 3)}},
		"points again":          {false, []*metav1.ShardSnapshotItem{log, points(7, []int64{0}, 3), points(7, []int64{0}, 3)}},
		"points of two items":   {true, []*metav1.ShardSnapshotItem{log, points(7, []int64{0}, 3), points(7, []int64{3}, 9)}},
		"more offsets":          {false, []*metav1.ShardSnapshotItem{log, points(7, []int64{0, 1}, 3)}},
		"offsets out of order":  {false, []*metav1.ShardSnapshotItem{log, points(7, []int64{3, 0}, 3, 9)}},
		"indexes out of order":  {false, []*metav1.ShardSnapshotItem{log, points(7, []int64{0, 3}, 9, 3)}},
		"before the log":        {false, []*metav1.ShardSnapshotItem{log, points(7, []int64{0}, 2)}},
		"behind the snapshot":   {false, []*metav1.ShardSnapshotItem{log, points(7, []int64{0}, 10)}},
		"at the high watermark": {false, []*metav1.ShardSnapshotItem{log, points(7, []int64{5}, 3)}},
		"more refused entries":  {false, []*metav1.ShardSnapshotItem{log, refusals([]uint64{4})}},
		"refusals twice":        {false, []*metav1.ShardSnapshotItem{log, refusals([]uint64{4}, 0), refusals([]uint64{4}, 0)}},
		"refusals out of order": {false, []*metav1.ShardSnapshotItem{log, refusals([]uint64{4, 4}, 2, 0)}},
		"end of another count":  {false, []*metav1.ShardSnapshotItem{log, {Item: &metav1.ShardSnapshotItem_End{End: &metav1.ShardSnapshotEnd{Items: 9}}}}},
	} {
		t.Run(name, func(t *testing.T) {
			rs := newRestorer(1)
			rs.state = filled(t).fsm.state
			var err error
			for _, item := range tt.items {
				if err == nil {
					err = rs.addLog(item)
				}
			}
			if tt.ok {
				require.NoError(t, err)
			} else {
				require.Error(t, err)
			}
		})
	}
}

// What is in the object store is read from the local log too, before a restart and after it, until the log is cut.
func TestRestartFindsTheLog(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.TailBytes, c.Replica.RetainBytes = 0, 1<<20 })
	for _, name := range []string{"a", "b", "c"} {
		n.write(1, 3, name, true)
	}
	n.waitUploaded()
	n.checkpoint()
	n.write(1, 1, "d", false)
	want := log{"a0", "a1", "a2", "b0", "b1", "b2", "c0", "c1", "c2", "d0"}
	inLog := func() {
		t.Helper()
		for offset := range int64(len(want)) {
			data, err := n.shard.Read(t.Context(), 1, offset, 1)
			require.NoError(t, err, "offset %d", offset)
			require.NotEmpty(t, data)
		}
		n.requireLog(1, 0, want)
	}
	inLog()
	for range 2 { // the second restart has it from the first
		n.restart()
		inLog()
		n.waitUploaded()
		n.checkpoint()
	}
}

// A restored point says nothing where the log was cut behind it.
func TestRestoredPointsOfACutLog(t *testing.T) {
	m := withLog(t)
	again := newMachine(t)
	again.fsm.replicaID = "n1/A"
	require.NoError(t, again.fsm.Restore(io.NopCloser(bytes.NewReader(persist(t, m)))))
	_, ok := again.fsm.cursorLocked(7, 0, 1)
	require.True(t, ok)
	_, ok = again.fsm.cursorLocked(7, 0, 2)
	require.False(t, ok)
}

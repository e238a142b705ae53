package fsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/iotest"

	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

const goldenSnapshot = "testdata/snapshot-v1.golden"

func restored(tb tester, snapshot []byte) *View {
	tb.Helper()
	s := New()
	require.NoError(tb, s.Restore(bytes.NewReader(snapshot)))
	return s.View()
}

func TestSnapshotComesBack(t *testing.T) {
	for name, m := range map[string]*machine{"empty": newMachine(t), "sample": sample(t)} {
		t.Run(name, func(t *testing.T) {
			raw := snapshotOf(t, m.state.View())
			require.Equal(t, dump(m.state.View()), dump(restored(t, raw)))
			require.Equal(t, raw, snapshotOf(t, restored(t, raw)), "the same state gives the same bytes")
		})
	}
}

// TestGoldenSnapshot holds the format: what version 1 has written is read for ever.
func TestGoldenSnapshot(t *testing.T) {
	v := sample(t).state.View()
	if *update {
		require.NoError(t, os.WriteFile(goldenSnapshot, snapshotOf(t, v), 0o600))
		require.NoError(t, os.WriteFile(goldenSnapshot+".dump", []byte(dump(v)), 0o600))
	}
	raw, err := os.ReadFile(goldenSnapshot)
	require.NoError(t, err)
	want, err := os.ReadFile(goldenSnapshot + ".dump")
	require.NoError(t, err)
	require.Equal(t, string(want), dump(restored(t, raw)))
	require.Equal(t, inflate(t, raw), inflate(t, snapshotOf(t, v)), "the writer still writes what it wrote")
}

func inflate(tb testing.TB, snapshot []byte) []byte {
	tb.Helper()
	z, err := zstd.NewReader(bytes.NewReader(snapshot[snapshotPrefixBytes:]))
	require.NoError(tb, err)
	defer z.Close()
	raw, err := io.ReadAll(z)
	require.NoError(tb, err)
	return raw
}

func deflate(tb testing.TB, raw []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	buf.WriteString(snapshotMagic + "\x01")
	z, err := zstd.NewWriter(&buf, zstd.WithWindowSize(snapshotWindowBytes))
	require.NoError(tb, err)
	_, err = z.Write(raw)
	require.NoError(tb, err)
	require.NoError(tb, z.Close())
	return buf.Bytes()
}

func TestSnapshotOfManySegments(t *testing.T) {
	m := newMachine(t)
	m.ok(initCluster(1))
	m.ok(createTopic(1, "t", 1, nil))
	for i := range int64(2*maxItemSegments + 1) {
		m.index++
		_, err := m.state.Apply(m.index, commit(fmt.Sprintf("o%d", i), 0, segment(1, i, i+1)))
		require.NoError(t, err)
	}
	v := restored(t, snapshotOf(t, m.state.View()))
	require.Equal(t, dump(m.state.View()), dump(v))
	p, ok := v.Partition(1)
	require.True(t, ok)
	require.Len(t, p.Segments, 2*maxItemSegments+1)
}

// TestDamagedSnapshots flips and cuts: all damage is found, but for bits that mean
// nothing to the decompressor, and the state stays as it was.
func TestDamagedSnapshots(t *testing.T) {
	raw := snapshotOf(t, sample(t).state.View())
	s := sample(t).state
	before := s.View()
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 0x10
		if other := New(); other.Restore(bytes.NewReader(bad)) == nil {
			require.Equal(t, dump(before), dump(other.View()), "byte %d flipped", i)
		}
		require.ErrorIs(t, s.Restore(bytes.NewReader(raw[:i])), ErrSnapshotCorrupt, "cut to %d bytes", i)
	}
	require.ErrorIs(t, s.Restore(bytes.NewReader(append(bytes.Clone(raw), 'x'))), ErrSnapshotCorrupt)
	require.Same(t, before, s.View())
}

func TestForeignSnapshots(t *testing.T) {
	raw := snapshotOf(t, sample(t).state.View())
	future := bytes.Clone(raw)
	future[len(snapshotMagic)] = 2
	require.ErrorIs(t, New().Restore(bytes.NewReader(future)), ErrSnapshotVersion)

	errDisk := errors.New("disk")
	err := New().Restore(io.MultiReader(bytes.NewReader(raw[:len(raw)/2]), iotest.ErrReader(errDisk)))
	require.ErrorIs(t, err, errDisk)

	long := binary.BigEndian.AppendUint32(nil, maxItemBytes+1)
	require.ErrorContains(t, New().Restore(bytes.NewReader(deflate(t, long))), "at most")
}

// TestSnapshotsThatDoNotFitTogether are whole, with the right CRC, and refused.
func TestSnapshotsThatDoNotFitTogether(t *testing.T) {
	header := &metav1.SnapshotHeader{Version: 1, ClusterId: "C", Shards: 1, NextProducerId: 1, NextPartitionId: 2}
	topic := &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Topic{Topic: &metav1.TopicItem{
		Name: "t", Uuid: uuidOf(1), PartitionIds: []uint64{1},
	}}}
	partition := func(p *metav1.PartitionItem) *metav1.SnapshotItem {
		p.PartitionId, p.TopicUuid = 1, uuidOf(1)
		return &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Partition{Partition: p}}
	}
	object := func(live uint32) *metav1.SnapshotItem {
		return &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Object{Object: &metav1.ObjectItem{Object: "o", LiveSegments: live}}}
	}
	segs := func(offsets ...int64) *metav1.PartitionItem {
		p := &metav1.PartitionItem{UploadedEndOffset: offsets[len(offsets)-1]}
		for i := 0; i < len(offsets); i += 2 {
			p.Segments = append(p.Segments, &metav1.SegmentRef{Object: "o", Entry: segment(1, offsets[i], offsets[i+1])})
		}
		return p
	}
	for name, items := range map[string][]proto.Message{
		"no header":            {},
		"version":              {&metav1.SnapshotHeader{Version: 7}},
		"too many shards":      {&metav1.SnapshotHeader{Version: 1, ClusterId: "C", Shards: MaxShards + 1, NextProducerId: 1, NextPartitionId: 1}},
		"no cluster":           {&metav1.SnapshotHeader{Version: 1}, topic},
		"unknown item":         {header, &metav1.SnapshotItem{}},
		"topic alone":          {header, topic},
		"partition alone":      {header, partition(&metav1.PartitionItem{})},
		"shard out of bounds":  {header, topic, partition(&metav1.PartitionItem{Shard: 1})},
		"hole":                 {header, topic, partition(segs(0, 5, 6, 9)), object(2)},
		"overlap":              {header, topic, partition(segs(0, 5, 4, 9)), object(2)},
		"empty segment":        {header, topic, partition(segs(5, 5)), object(1)},
		"no segments":          {header, topic, partition(&metav1.PartitionItem{UploadedEndOffset: 4})},
		"begins too late":      {header, topic, partition(segs(3, 5)), object(1)},
		"object is not known":  {header, topic, partition(segs(0, 5))},
		"wrong count":          {header, topic, partition(segs(0, 5)), object(2)},
		"partition twice":      {header, topic, partition(segs(0, 5)), object(1), &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Topic{Topic: &metav1.TopicItem{Name: "u", Uuid: uuidOf(2), PartitionIds: []uint64{1}}}}},
		"replica without node": {header, &metav1.SnapshotItem{Item: &metav1.SnapshotItem_Shard{Shard: &metav1.ShardItem{Version: 1, Replicas: []*metav1.Replica{{ReplicaId: "n/a", NodeId: "n", State: 1}}}}}},
		"used and condemned":   {header, object(0), &metav1.SnapshotItem{Item: &metav1.SnapshotItem_DroppedObject{DroppedObject: &metav1.DroppedObjectItem{Object: "o"}}}},
		"bad uuid":             {header, &metav1.SnapshotItem{Item: &metav1.SnapshotItem_DeletedTopic{DeletedTopic: &metav1.DeletedTopicItem{Uuid: []byte("x")}}}},
		"nobody purges":        {header, &metav1.SnapshotItem{Item: &metav1.SnapshotItem_DeletedTopic{DeletedTopic: &metav1.DeletedTopicItem{Uuid: uuidOf(3)}}}},
	} {
		t.Run(name, func(t *testing.T) {
			require.ErrorIs(t, New().Restore(bytes.NewReader(assemble(t, items...))), ErrSnapshotCorrupt)
		})
	}
	require.NoError(t, New().Restore(bytes.NewReader(assemble(t, header, topic, partition(segs(0, 5, 5, 9)), object(2)))))
}

// assemble writes a snapshot of any messages, with the right end.
func assemble(tb testing.TB, items ...proto.Message) []byte {
	tb.Helper()
	var buf bytes.Buffer
	prefix := append([]byte(snapshotMagic), snapshotVersion)
	sw := &snapshotWriter{w: &buf}
	require.NoError(tb, sw.write(prefix))
	for _, m := range items {
		require.NoError(tb, sw.message(m))
	}
	require.NoError(tb, sw.end())
	return deflate(tb, buf.Bytes()[len(prefix):])
}

// snapshot-stops-world: a view can be written while commands are applied.
func TestSnapshotStopsWorld(t *testing.T) {
	m := sample(t)
	v := m.state.View()
	want := dump(v)
	var buf bytes.Buffer
	done := make(chan error)
	go func() { done <- WriteSnapshot(v, &buf) }()
	for i := range int64(200) {
		m.index++
		_, err := m.state.Apply(m.index, commit(fmt.Sprintf("p%d", i), 0, segment(2, 20+i, 21+i)))
		require.NoError(t, err)
	}
	require.NoError(t, <-done)
	require.Equal(t, want, dump(restored(t, buf.Bytes())))
	require.Equal(t, want, dump(v))
}

func TestWriteSnapshotReportsErrors(t *testing.T) {
	v := sample(t).state.View()
	size := len(snapshotOf(t, v))
	for _, n := range []int{0, 4, 20, size - 1} {
		require.Error(t, WriteSnapshot(v, &limitedWriter{left: n}), "after %d bytes", n)
	}
}

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(b []byte) (int, error) {
	if len(b) > w.left {
		return 0, io.ErrShortWrite
	}
	w.left -= len(b)
	return len(b), nil
}

func FuzzRestore(f *testing.F) {
	f.Add(snapshotOf(f, sample(f).state.View()))
	f.Add(snapshotOf(f, New().View()))
	f.Add([]byte(snapshotMagic + "\x01"))
	f.Fuzz(func(t *testing.T, raw []byte) { restoreAnything(t, raw) })
}

// FuzzRestoreInflated begins behind the decompressor and the CRC.
func FuzzRestoreInflated(f *testing.F) {
	raw := inflate(f, snapshotOf(f, sample(f).state.View()))
	f.Add(raw[:len(raw)-16])
	f.Fuzz(func(t *testing.T, raw []byte) {
		var buf bytes.Buffer
		sw := &snapshotWriter{w: &buf}
		require.NoError(t, sw.write(append([]byte(snapshotMagic), snapshotVersion)))
		for rest := raw; len(rest) >= 4; {
			n := min(int(binary.BigEndian.Uint32(rest)), len(rest)-4)
			if n > 0 {
				sw.items++
			}
			require.NoError(t, sw.write(binary.BigEndian.AppendUint32(nil, uint32(n))))
			require.NoError(t, sw.write(rest[4:4+n]))
			rest = rest[4+n:]
		}
		require.NoError(t, sw.end())
		restoreAnything(t, deflate(t, buf.Bytes()[snapshotPrefixBytes:]))
	})
}

// restoreAnything restores without a panic; what is accepted holds together and comes back.
func restoreAnything(t *testing.T, raw []byte) {
	t.Helper()
	s := New()
	if err := s.Restore(bytes.NewReader(raw)); err != nil {
		return
	}
	require.NoError(t, s.View().Check())
	require.Equal(t, dump(s.View()), dump(restored(t, snapshotOf(t, s.View()))))
}

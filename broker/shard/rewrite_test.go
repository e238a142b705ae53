package shard

import (
	"context"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
)

// listedIn returns what the manifest lists in an object.
func (n *node) listedIn(name string) []*metav1.SegmentEntry {
	n.t.Helper()
	view := n.metadata.View()
	var entries []*metav1.SegmentEntry
	for t := range view.Topics() {
		for _, id := range t.PartitionIDs {
			p, _ := view.Partition(id)
			for i := range p.Segments {
				if ref := p.Segments[i].Ref(id); ref.GetObject() == name {
					entries = append(entries, ref.GetEntry())
				}
			}
		}
	}
	return entries
}

// listedObject returns the only object of which the manifest lists something.
func (n *node) listedObject() string {
	n.t.Helper()
	view := n.metadata.View()
	names := slices.DeleteFunc(n.objects(), func(name string) bool { return !view.ObjectListed(name) })
	require.Len(n.t, names, 1)
	return names[0]
}

// requireHistory reads a partition from the object store alone.
func (n *node) requireHistory(partition uint64, want log) {
	n.t.Helper()
	p, ok := n.metadata.View().Partition(partition)
	require.True(n.t, ok)
	var got log
	for offset := int64(0); offset < p.UploadedEnd; {
		ref, ok := p.FindSegment(offset)
		require.True(n.t, ok)
		data, err := n.history.Read(n.t.Context(), ref, offset, 1<<20)
		require.NoError(n.t, err)
		batches, err := record.Split(data)
		require.NoError(n.t, err)
		for _, b := range batches {
			for r, err := range b.All() {
				require.NoError(n.t, err)
				got = append(got, string(r.Value))
			}
			offset = b.NextOffset()
		}
	}
	require.Equal(n.t, want, got)
}

// lost removes the only object of the shard, which has records of two partitions, and returns its name.
func (n *node) lost() string {
	n.t.Helper()
	_, err := n.shard.Append(n.t.Context(), []AppendBatch{
		{PartitionID: 1, Topic: "t", Data: plain(n.t, 3, "a")}, {PartitionID: 2, Topic: "t", Data: plain(n.t, 2, "b")},
	}, true)
	require.NoError(n.t, err)
	n.waitUploaded()
	names := n.objects()
	require.Len(n.t, names, 1)
	require.NoError(n.t, n.bucket.Delete(n.t.Context(), names[0]))
	return names[0]
}

// TestObjectIsWrittenAnew: the records of a lost object are read from the object store again, under a new name; the old one is
// let go of. Whoever writes it anew as well, and is late, changes nothing.
func TestObjectIsWrittenAnew(t *testing.T) {
	n := newNode(t, 2, late)
	name := n.lost()
	listed := n.listedIn(name)
	segments, err := n.shard.RewriteObject(t.Context(), name, listed)
	require.NoError(t, err)
	require.Equal(t, 2, segments)
	replacement := n.listedObject()
	require.Equal(t, []string{replacement}, n.objects())
	require.NotEqual(t, name, replacement)
	require.Len(t, n.listedIn(replacement), 2)
	n.requireHistory(1, log{"a0", "a1", "a2"})
	n.requireHistory(2, log{"b0", "b1"})
	require.NoError(t, n.metadata.View().Check())

	segments, err = n.shard.RewriteObject(t.Context(), name, listed)
	require.NoError(t, err)
	require.Zero(t, segments)
	require.Len(t, n.listedIn(replacement), 2)
	objects := n.objects()
	require.Len(t, objects, 2)
	second := objects[slices.IndexFunc(objects, func(name string) bool { return name != replacement })]
	unused := make(map[string]bool)
	for name := range n.metadata.View().UnusedObjects() {
		unused[name] = true
	}
	require.Equal(t, map[string]bool{name: true, second: true}, unused, "the janitor takes them")
	n.write(1, 1, "c", true)
	n.requireLog(1, 0, log{"a0", "a1", "a2", "c0"})
}

// TestRewriteWithoutAnswer: that a command was not answered says nothing of what became of it, and it is listed once.
func TestRewriteWithoutAnswer(t *testing.T) {
	n := newNode(t, 2, late)
	name := n.lost()
	silent := 0
	n.metadata.set(func(m *metadata) {
		m.after = func(cmd *metav1.Command) error {
			if cmd.GetReplaceSegments() == nil || silent > 0 {
				return nil
			}
			silent++
			return context.DeadlineExceeded
		}
	})
	segments, err := n.shard.RewriteObject(t.Context(), name, n.listedIn(name))
	require.NoError(t, err)
	require.Equal(t, 1, silent)
	require.Equal(t, 2, segments)
	require.Len(t, n.listedIn(n.listedObject()), 2)
	require.Len(t, n.objects(), 1)
}

// TestRewriteOfTrimmedAndDeleted: what retention and the deletion of a topic have let go of meanwhile does not come back.
func TestRewriteOfTrimmedAndDeleted(t *testing.T) {
	n := newNode(t, 2, late)
	name := n.lost()
	n.metadata.set(func(m *metadata) {
		m.before = func(cmd *metav1.Command) error {
			if cmd.GetReplaceSegments() == nil {
				return nil
			}
			m.index++
			_, err := m.state.Apply(m.index, &metav1.Command{Command: &metav1.Command_TrimPartition{
				TrimPartition: &metav1.TrimPartition{PartitionId: 1, LogStartOffset: 3},
			}})
			return err
		}
	})
	segments, err := n.shard.RewriteObject(t.Context(), name, n.listedIn(name))
	require.NoError(t, err)
	require.Equal(t, 1, segments)
	replacement := n.listedObject()
	require.Len(t, n.listedIn(replacement), 1)
	n.requireHistory(2, log{"b0", "b1"})
	listed := n.listedIn(replacement)
	n.metadata.set(func(m *metadata) { m.before = nil })
	n.metadata.do(t, &metav1.Command{Command: &metav1.Command_DeleteTopic{DeleteTopic: &metav1.DeleteTopic{
		Name: "t", Uuid: []byte("uuid-of-the-topic"[:16]),
	}}})
	segments, err = n.shard.RewriteObject(t.Context(), replacement, listed)
	if err != nil {
		require.ErrorIs(t, err, ErrBelowLocal, "the shard has dropped the partition")
	}
	require.Zero(t, segments)
	require.Len(t, n.objects(), 1, "nothing was put")
}

// TestRewriteWantsTheSameRecords: other bytes than those that the manifest lists never take their place, and of what the log
// has not, nothing is written.
func TestRewriteWantsTheSameRecords(t *testing.T) {
	n := newNode(t, 2, late)
	name := n.lost()
	for what, change := range map[string]func(e *metav1.SegmentEntry){
		"bytes":  func(e *metav1.SegmentEntry) { e.SizeBytes++ },
		"time":   func(e *metav1.SegmentEntry) { e.MaxTimestampMs-- },
		"offset": func(e *metav1.SegmentEntry) { e.BaseOffset++ },
	} {
		listed := n.listedIn(name)
		change(listed[0])
		_, err := n.shard.RewriteObject(t.Context(), name, listed)
		require.ErrorIs(t, err, ErrOtherRecords, what)
		require.ErrorContains(t, err, "the log has offsets 0 to 3", what)
	}
	listed := n.listedIn(name)[:1]
	listed[0].EndOffset = 4 // it has not applied so much
	_, err := n.shard.RewriteObject(t.Context(), name, listed)
	require.ErrorIs(t, err, ErrBelowLocal)
	require.Empty(t, n.objects())
}

// TestRewriteOfWhatTheLogHasCut: a replica whose log begins later has nothing to write anew, or a part of it.
func TestRewriteOfWhatTheLogHasCut(t *testing.T) {
	n := newNode(t, 2, func(c *Config) {
		late(c)
		c.TailBytes = 0
	})
	name := n.lost()
	listed := n.listedIn(name)
	n.checkpoint()
	_, err := n.shard.RewriteObject(t.Context(), name, listed)
	require.ErrorIs(t, err, ErrBelowLocal)
	require.Empty(t, n.objects())
	n.write(2, 2, "c", true)
	n.waitUploaded()
	whole := n.objects()[0]
	require.NoError(t, n.bucket.Delete(t.Context(), whole))
	listed = append(n.listedIn(whole), listed[0]) // as if it had been one object
	segments, err := n.shard.RewriteObject(t.Context(), whole, listed)
	require.NoError(t, err)
	require.Equal(t, 1, segments)
	require.Empty(t, n.listedIn(whole))
}

// TestRewriteWaitsForTheFeatureLevel: a node that is too old to know the command would be ended by it.
func TestRewriteWaitsForTheFeatureLevel(t *testing.T) {
	n := newNode(t, 2, late)
	name := n.lost()
	listed := n.listedIn(name)
	n.metadata.set(func(m *metadata) { m.state = fsm.New() })
	_, err := n.shard.RewriteObject(t.Context(), name, listed)
	require.ErrorContains(t, err, "upgrade all nodes")
	require.Empty(t, n.objects())
}

package shard

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/cluster/recovery"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

// elsewhere is a partition of shard 1, which no test node has; the groups that read it are in shard 0.
const elsewhere = 1

// newLife is a node of shard 0 without disks in a cluster of two shards, whose groups' offsets are in the bucket.
func newLife(t *testing.T, m *metadata, bucket *object.Memory) *node {
	t.Helper()
	n := newIdleNode(t, "n1", m, bucket, func(c *Config) { c.Groups = &recovery.Groups{Bucket: bucket, Grace: time.Hour} })
	n.start()
	require.NoError(t, n.shard.Replica().Bootstrap())
	n.waitLeader()
	return n
}

// uploads has shard 1 upload its partition up to an offset.
func (m *metadata) uploads(t *testing.T, end int64) {
	t.Helper()
	p, ok := m.View().Partition(elsewhere)
	require.True(t, ok)
	res, err := m.Propose(t.Context(), &metav1.Command{Command: &metav1.Command_CommitSegments{CommitSegments: &metav1.CommitSegments{
		Object: fmt.Sprintf("C1/%s-%d.seg", m.View().RecoveryID(), end), ObjectBytes: 100, Shard: 1,
		Segments: []*metav1.SegmentEntry{{PartitionId: elsewhere, BaseOffset: p.NextBase(), EndOffset: end, SizeBytes: 10}},
	}}})
	require.NoError(t, err)
	require.Equal(t, []metav1.SegmentOutcome{metav1.SegmentOutcome_SEGMENT_OUTCOME_COMMITTED}, res.GetSegments())
}

// loses takes all disks of the cluster: what the manifest has is left, and a new life begins with it.
func (m *metadata) loses(t *testing.T, bucket *object.Memory) {
	t.Helper()
	id := ulid.Make().String()
	v, _, err := fsm.Recover(&fsm.Recovery{ID: id, TimeMs: 1, Base: m.View(), ClusterID: "C1", ClusterName: "c", Shards: 2})
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, fsm.WriteSnapshot(v, &b))
	require.NoError(t, bucket.Put(t.Context(), "C1/recovery/"+id+".meta", bytes.NewReader(b.Bytes()), int64(b.Len())))
	require.NoError(t, bucket.Put(t.Context(), "C1/recovery/"+id+".claim", strings.NewReader("{}"), 2))
	m.mu.Lock()
	defer m.mu.Unlock()
	require.NoError(t, m.state.Restore(&b))
	m.index = m.state.View().Index()
}

// TestOffsetsOfAnEarlierLife: a group has read records that a loss took, and other records have their offsets now. It reads
// those, whichever life it is in which they were written, and whether or not the group's shard had a leader in it.
func TestOffsetsOfAnEarlierLife(t *testing.T) {
	for name, tc := range map[string]struct {
		since func(t *testing.T, m *metadata, b *object.Memory)
		want  int64
	}{
		"nothing was written since": {func(t *testing.T, m *metadata, b *object.Memory) { t.Helper(); m.loses(t, b) }, 50},
		"in this life, before the group's shard had a leader": {func(t *testing.T, m *metadata, b *object.Memory) {
			t.Helper()
			m.loses(t, b)
			m.uploads(t, 80)
		}, 50},
		"in a life in which the group's shard had no leader": {func(t *testing.T, m *metadata, b *object.Memory) {
			t.Helper()
			m.loses(t, b)
			m.uploads(t, 80)
			m.loses(t, b)
			m.uploads(t, 120)
		}, 50},
		"in a life in which the partition's shard had no leader": {func(t *testing.T, m *metadata, b *object.Memory) {
			t.Helper()
			m.loses(t, b)
			newLife(t, m, b).end()
			m.loses(t, b)
			m.uploads(t, 120)
		}, 50},
		"in a life whose beginning nobody knows any more": {func(t *testing.T, m *metadata, b *object.Memory) {
			t.Helper()
			m.loses(t, b)
			require.NoError(t, b.Delete(t.Context(), "C1/recovery/"+m.View().RecoveryID()+".meta"))
			m.uploads(t, 80)
			m.do(t, &metav1.Command{Command: &metav1.Command_TrimPartition{
				TrimPartition: &metav1.TrimPartition{PartitionId: elsewhere, LogStartOffset: 7},
			}})
			m.loses(t, b)
		}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			m, bucket := &metadata{state: fsm.New()}, object.NewMemory()
			m.do(t, &metav1.Command{Command: &metav1.Command_InitCluster{InitCluster: &metav1.InitCluster{ClusterId: "C1", ClusterName: "c", Shards: 2}}})
			m.do(t, &metav1.Command{Command: &metav1.Command_SetFeatureLevel{SetFeatureLevel: &metav1.SetFeatureLevel{Level: fsm.FeatureLevel}}})
			m.do(t, &metav1.Command{Command: &metav1.Command_CreateTopic{CreateTopic: &metav1.CreateTopic{
				Name: "t", Uuid: []byte("uuid-of-the-topic"[:16]), Partitions: 2,
			}}})
			m.uploads(t, 50)
			n := newLife(t, m, bucket)
			require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: elsewhere, Offset: 100}}))
			require.NoError(t, n.shard.CommitOffsets(t.Context(), "slow", Committer{}, []GroupOffset{{PartitionID: elsewhere, Offset: 3}}))
			_, err := n.shard.saveGroups(t.Context(), "")
			require.NoError(t, err)
			n.end()

			tc.since(t, m, bucket)
			n = newLife(t, m, bucket)
			offsets, err := n.shard.Offsets("g", nil)
			require.NoError(t, err)
			require.Equal(t, []GroupOffset{{PartitionID: elsewhere, Offset: tc.want}}, offsets)
			offsets, err = n.shard.Offsets("slow", nil)
			require.NoError(t, err)
			require.Equal(t, []GroupOffset{{PartitionID: elsewhere, Offset: 3}}, offsets)
		})
	}
}

package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
	"github.com/streamhouse/streamhouse/storage/segment"
)

// savedGroups is an object store for committed offsets.
type savedGroups struct {
	data  atomic.Pointer[[]byte]
	index atomic.Uint64 // that data is of
	away  atomic.Bool   // saves fail
	tries atomic.Int32  // saves that failed
	fails atomic.Int32  // so many loads fail
	loads atomic.Int32

	mu    sync.Mutex
	lives map[string][]byte // guarded by mu; the last state that was saved, by recovery
}

// Save keeps the newest state by its index, as a bucket does.
func (g *savedGroups) Save(_ context.Context, _ string, _ uint32, recoveryID string, index uint64, data []byte) error {
	if g.away.Load() {
		g.tries.Add(1)
		return errors.New("503")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lives == nil {
		g.lives = make(map[string][]byte)
	}
	g.lives[recoveryID] = data
	if index >= g.index.Load() {
		g.index.Store(index)
		g.data.Store(&data)
	}
	return nil
}

func (g *savedGroups) Load(_ context.Context, _ string, _ uint32, _ string, parse func([]byte) error) ([]*fsm.View, bool, error) {
	g.loads.Add(1)
	if g.fails.Add(-1) >= 0 {
		return nil, false, errors.New("503")
	}
	data := g.data.Load()
	if data == nil {
		return nil, false, nil
	}
	return nil, true, parse(*data)
}

// recoverCluster makes the metadata anew from what it has and what is uploaded.
func (n *node) recoverCluster(id string) {
	n.t.Helper()
	n.metadata.mu.Lock()
	defer n.metadata.mu.Unlock()
	base := n.metadata.state.View()
	v, _, err := fsm.Recover(&fsm.Recovery{ID: id, Base: base, ClusterID: "C1", ClusterName: "c", Shards: 1})
	require.NoError(n.t, err)
	var b bytes.Buffer
	require.NoError(n.t, fsm.WriteSnapshot(v, &b))
	require.NoError(n.t, n.metadata.state.Restore(&b))
}

// wipe begins the shard anew with an empty log.
func (n *node) wipe() {
	n.t.Helper()
	n.end()
	require.NoError(n.t, os.RemoveAll(n.dir))
	require.NoError(n.t, replica.Create(n.dir))
	n.start()
	require.NoError(n.t, n.shard.Replica().Bootstrap())
}

func (n *node) mustAppend(partition uint64, records int) int64 {
	n.t.Helper()
	var res []AppendResult
	require.Eventually(n.t, func() bool {
		var err error
		res, err = n.shard.Append(n.t.Context(), []AppendBatch{{PartitionID: partition, Topic: "t", Data: plain(n.t, records, "v")}}, false)
		return err == nil
	}, 20*time.Second, 5*time.Millisecond)
	require.Equal(n.t, reasonNone, res[0].Reason)
	return res[0].BaseOffset
}

// TestShardGoesOnAfterRecovery: with an empty log it goes on where the manifest ends, with the groups' offsets, once.
func TestShardGoesOnAfterRecovery(t *testing.T) {
	groups := &savedGroups{}
	n := newNode(t, 3, func(c *Config) { c.Groups = groups })
	require.Zero(t, n.mustAppend(1, 5))
	require.Zero(t, n.mustAppend(2, 7))
	n.waitUploaded()
	require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{
		{PartitionID: 1, Offset: 3, Metadata: "m"}, {PartitionID: 2, Offset: 100}, {PartitionID: 99, Offset: 1},
	}))
	require.Eventually(t, func() bool { return groups.data.Load() != nil }, 20*time.Second, 5*time.Millisecond)

	n.recoverCluster("01R")
	groups.fails.Store(2)
	n.wipe()
	require.Equal(t, int64(5), n.mustAppend(1, 2), "no offset is given twice")
	require.Equal(t, int64(7), n.mustAppend(2, 1))
	require.Zero(t, n.mustAppend(3, 1))
	require.Equal(t, int32(3), groups.loads.Load(), "it tries until the object store answers")
	offsets, err := n.shard.Offsets("g", nil)
	require.NoError(t, err)
	require.Equal(t, []GroupOffset{{PartitionID: 1, Offset: 3, Metadata: "m"}, {PartitionID: 2, Offset: 7}}, offsets,
		"what is beyond the end goes to the end, what is deleted goes")
	require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: 1, Offset: 6}}))

	n.checkpoint()
	n.restart()
	n.waitLeader()
	require.Equal(t, int64(7), n.mustAppend(1, 1))
	require.Equal(t, int32(3), groups.loads.Load(), "it is done once")
	offsets, err = n.shard.Offsets("g", nil)
	require.NoError(t, err)
	require.Equal(t, int64(6), offsets[0].Offset)
}

// TestProducersOfBeforeARecovery: what they have written is there and nobody remembers who wrote it, so a first batch that is
// sent again would be stored twice.
func TestProducersOfBeforeARecovery(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.Groups = &savedGroups{} })
	require.Zero(t, n.mustAppend(1, 1))
	batch := func(id int64) AppendBatch {
		return AppendBatch{PartitionID: 1, Topic: "t", Data: buildBatch(t, batchConfig{n: 2, id: id, value: fmt.Sprint("of ", id, "/")})}
	}
	append1 := func(batches ...AppendBatch) []AppendResult {
		t.Helper()
		res, err := n.shard.Append(t.Context(), batches, true)
		require.NoError(t, err)
		return res
	}
	require.Equal(t, []AppendResult{{BaseOffset: 1}}, append1(batch(0)))
	n.recoverCluster("01S")
	n.wipe()
	require.Equal(t, int64(3), n.mustAppend(1, 1))

	unknown := AppendResult{Reason: streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_PRODUCER}
	require.Equal(t, []AppendResult{unknown}, append1(batch(0)))
	first := n.metadata.View().FirstProducerID()
	require.Equal(t, []AppendResult{unknown, {BaseOffset: 4}, unknown}, append1(batch(first-1), batch(first), batch(0)))
	require.Equal(t, []AppendResult{{BaseOffset: 4, Duplicate: true}}, append1(batch(first)))
	require.Equal(t, int64(6), n.shard.HighWatermark(1))
}

// TestObjectsNameTheirRecovery: in the first life none, and then the one that the shard goes on from.
func TestObjectsNameTheirRecovery(t *testing.T) {
	n := newNode(t, 1, func(c *Config) { c.Groups = &savedGroups{} })
	n.mustAppend(1, 5)
	n.waitUploaded()
	n.recoverCluster("01R")
	n.wipe()
	n.mustAppend(1, 1)
	n.waitUploaded()
	p, ok := n.metadata.View().Partition(1)
	require.True(t, ok)
	require.Len(t, p.Segments, 2)
	for i, want := range []string{"", "01R"} {
		name := p.Segments[i].Object
		attrs, err := n.bucket.Head(t.Context(), name)
		require.NoError(t, err)
		footer, err := segment.ReadFooter(t.Context(), object.Ranges{Getter: n.bucket}, name, attrs.SizeBytes)
		require.NoError(t, err)
		require.NotNil(t, footer.RecoveryId)
		require.Equal(t, want, footer.GetRecoveryId())
	}
}

// What was committed while the object store was away is the newest state there after a restart from a snapshot, too.
func TestOffsetsAreSavedAsOfTheirIndex(t *testing.T) {
	groups := &savedGroups{}
	n := newNode(t, 1, func(c *Config) { c.Groups = groups })
	n.mustAppend(1, 5)
	commit := func(offset int64) {
		require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: 1, Offset: offset}}))
	}
	saved := func(offset int64) bool {
		data := groups.data.Load()
		if data == nil {
			return false
		}
		read, err := readSnapshot(bytes.NewReader(*data), n.shard.cfg.Shard)
		require.NoError(t, err)
		g := read.state.groups["g"]
		return g != nil && g.offsets[1].offset == offset
	}
	commit(2)
	require.Eventually(t, func() bool { return saved(2) }, 20*time.Second, 5*time.Millisecond)
	groups.away.Store(true)
	commit(4)
	n.checkpoint()
	n.end()
	groups.away.Store(false)
	n.start()
	n.waitLeader()
	require.Eventually(t, func() bool { return saved(4) }, 20*time.Second, 5*time.Millisecond)
}

// TestNothingIsTakenBeforeTheSeed: not a record, and not a commit.
func TestNothingIsTakenBeforeTheSeed(t *testing.T) {
	groups := &savedGroups{}
	n := newNode(t, 1, func(c *Config) { c.Groups = groups })
	n.mustAppend(1, 5)
	n.waitUploaded()
	n.recoverCluster("01R")
	groups.fails.Store(1 << 30)
	n.wipe()
	require.Eventually(t, func() bool { return groups.loads.Load() > 0 }, 20*time.Second, 5*time.Millisecond)
	_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "v")}}, false)
	require.ErrorIs(t, err, ErrNotReady)
	require.ErrorIs(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: 1, Offset: 1}}), ErrNotReady)
	_, err = n.shard.LeaderHighWatermark(1)
	require.ErrorIs(t, err, ErrNotReady)
	groups.fails.Store(0)
	require.Equal(t, int64(5), n.mustAppend(1, 1))
}

// TestSeededGroupsAreSavedFirst: before a record is taken after a recovery, the object store has the offsets that groups go on
// from, so that those of the life before, which may be beyond records of this one, are never gone on from again.
func TestSeededGroupsAreSavedFirst(t *testing.T) {
	groups := &savedGroups{}
	n := newNode(t, 1, func(c *Config) { c.Groups = groups })
	n.mustAppend(1, 5)
	n.waitUploaded()
	require.NoError(t, n.shard.CommitOffsets(t.Context(), "g", Committer{}, []GroupOffset{{PartitionID: 1, Offset: 9}})) // 5 to 8 get lost
	require.Eventually(t, func() bool { return groups.data.Load() != nil }, 20*time.Second, 5*time.Millisecond)
	n.recoverCluster("01T")
	groups.away.Store(true)
	n.wipe()
	before := groups.tries.Load()
	require.Eventually(t, func() bool { return groups.tries.Load() > before+1 }, 20*time.Second, 5*time.Millisecond, "it tries again")
	require.EqualValues(t, 1, groups.loads.Load(), "nothing is logged twice")
	_, err := n.shard.Append(t.Context(), []AppendBatch{{PartitionID: 1, Topic: "t", Data: plain(t, 1, "v")}}, false)
	require.ErrorIs(t, err, ErrNotReady)
	groups.away.Store(false)
	require.Equal(t, int64(5), n.mustAppend(1, 3))
	groups.mu.Lock()
	defer groups.mu.Unlock()
	read, err := readSnapshot(bytes.NewReader(groups.lives["01T"]), n.shard.cfg.Shard)
	require.NoError(t, err)
	require.Equal(t, int64(5), read.state.groups["g"].offsets[1].offset)
}

func TestSeedIsAppliedOnce(t *testing.T) {
	s := newState()
	seed := &metav1.ShardSeed{RecoveryId: "01R", Partitions: []*metav1.ShardPartition{{PartitionId: 1, NextOffset: 5, UploadedEndOffset: 5}}}
	require.Equal(t, []uint64{1}, s.seed(seed))
	require.Empty(t, s.seed(seed), "a second leader begins from the beginning")
	s.partitions[1].next = 9
	seed.Done = true
	s.seed(seed)
	require.Equal(t, int64(9), s.partitions[1].next)
	require.Equal(t, "01R", s.recoveryID)
	seed.Partitions[0].PartitionId = 2
	require.Empty(t, s.seed(seed), "it is over")
	s.dropped[3] = 1
	require.Empty(t, s.seed(&metav1.ShardSeed{RecoveryId: "02R", Partitions: []*metav1.ShardPartition{{PartitionId: 3}}}))
	for _, bad := range []*metav1.ShardPartition{{NextOffset: -1, UploadedEndOffset: -1}, {NextOffset: 2, UploadedEndOffset: 1}} {
		data, err := encodeSeed(1, &metav1.ShardSeed{Partitions: []*metav1.ShardPartition{bad}})
		require.NoError(t, err)
		_, err = decodeSeed(data[entryHeaderBytes:])
		require.ErrorIs(t, err, errEntryCorrupt)
	}
}

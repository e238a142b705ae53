package node

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/streamhouse/streamhouse/cluster/gossip"
	"github.com/streamhouse/streamhouse/cluster/recovery"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

func TestClusterFileIsCreatedOnce(t *testing.T) {
	b := object.NewMemory()
	_, err := readClusterFile(t.Context(), b)
	require.ErrorIs(t, err, object.ErrNotFound)
	mine := &clusterFile{Version: 1, ClusterID: "c1", ClusterName: "n", Founder: "n1", FounderIncarnation: "i", Shards: 6}
	require.NoError(t, createClusterFile(t.Context(), b, mine))
	require.NoError(t, createClusterFile(t.Context(), b, mine), "an answer that got lost")
	other := *mine
	other.ClusterID = "c2"
	require.ErrorIs(t, createClusterFile(t.Context(), b, &other), object.ErrExists)
	got, err := readClusterFile(t.Context(), b)
	require.NoError(t, err)
	require.Equal(t, mine, got)

	require.NoError(t, checkStore(t.Context(), b, "url", "c1"))
	require.ErrorIs(t, checkStore(t.Context(), b, "url", "c2"), errWrongStore)
	require.ErrorIs(t, checkStore(t.Context(), object.NewMemory(), "url", "c1"), errWrongStore)
}

func TestClusterFileIsDamaged(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":       "x",
		"no cluster":    `{"version":1}`,
		"later version": `{"version":7,"cluster_id":"c1"}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := object.NewMemory()
			require.NoError(t, b.Put(t.Context(), clusterFileName, strings.NewReader(text), int64(len(text))))
			require.ErrorIs(t, checkStore(t.Context(), b, "url", "c1"), errWrongStore)
		})
	}
}

// fakeMembership never changes.
type fakeMembership []gossip.Member

func (f fakeMembership) Members() []gossip.Member { return f }
func (f fakeMembership) Changed() <-chan struct{} { return nil }

// fakeFiles remembers what was created.
type fakeFiles struct{ created []string }

func (f *fakeFiles) Create(id string) error { f.created = append(f.created, id); return nil }
func (f *fakeFiles) CreateFrom(id, _ string, _ *fsm.View) error {
	f.created = append(f.created, id+" recovered")
	return nil
}
func (f *fakeFiles) Discard(string) error { return nil }

func newTestFormer(t *testing.T, b object.Bucket, expect int, others ...gossip.Member) (*former, *fakeFiles) {
	t.Helper()
	id, err := openIdentity(t.TempDir(), "n1", "name")
	require.NoError(t, err)
	self := gossip.Member{NodeID: "n1", Incarnation: id.get().Incarnation, Fresh: true, BootstrapExpect: expect}
	files := &fakeFiles{}
	return &former{
		cfg: &Config{NodeID: "n1", BootstrapExpect: expect, Shards: 6, ObjectStore: "url"}, identity: id,
		gossip: fakeMembership(append(others, self)), bucket: b, files: files, waits: func(string) {},
		self: func() gossip.Member { return self },
		join: func(context.Context, string, string) error { return nil }, log: slog.New(slog.DiscardHandler),
	}, files
}

func TestFounder(t *testing.T) {
	b := object.NewMemory()
	f, files := newTestFormer(t, b, 1)
	require.NoError(t, f.form(t.Context()))
	id := f.identity.get()
	require.NotEmpty(t, id.ClusterID)
	require.True(t, id.Founding)
	require.Equal(t, []string{id.MetadataReplicaID}, files.created)
	require.NoError(t, checkStore(t.Context(), b, "url", id.ClusterID))
	require.NoError(t, f.form(t.Context()), "a member has nothing to form")
	require.Len(t, files.created, 1)
}

// A founder that died between cluster.json and its files goes on with the same cluster, also where a node with a lower id
// has come meanwhile.
func TestFounderGoesOnAfterACrash(t *testing.T) {
	b := object.NewMemory()
	f, _ := newTestFormer(t, b, 1)
	require.NoError(t, f.form(t.Context()))
	f.gossip = append(f.gossip.(fakeMembership), gossip.Member{NodeID: "n0", Fresh: true, BootstrapExpect: 1})
	before := f.identity.get()
	require.NoError(t, f.identity.update(func(id *identity) { id.MetadataReplicaID = "" }))
	require.NoError(t, f.form(t.Context()))
	require.Equal(t, before.ClusterID, f.identity.get().ClusterID)
}

func TestStoreOfAnotherClusterIsRefused(t *testing.T) {
	b := object.NewMemory()
	require.NoError(t, createClusterFile(t.Context(), b, &clusterFile{Version: 1, ClusterID: "other", FounderIncarnation: "x"}))
	f, files := newTestFormer(t, b, 1)
	err := f.form(t.Context())
	require.ErrorContains(t, err, "--object-store")
	require.ErrorContains(t, err, "--join")
	require.Empty(t, files.created)
	require.Empty(t, f.identity.get().ClusterID)
}

func TestJoinWantsTheClustersStore(t *testing.T) {
	other := gossip.Member{NodeID: "n2", ClusterID: "c1"}
	f, _ := newTestFormer(t, object.NewMemory(), 0, other)
	require.ErrorIs(t, f.form(t.Context()), errWrongStore)

	b := object.NewMemory()
	require.NoError(t, createClusterFile(t.Context(), b, &clusterFile{Version: 1, ClusterID: "c1"}))
	f, files := newTestFormer(t, b, 0, other)
	require.NoError(t, f.form(t.Context()))
	id := f.identity.get()
	require.Equal(t, "c1", id.ClusterID)
	require.False(t, id.Founding)
	require.Equal(t, []string{id.MetadataReplicaID}, files.created)
}

// recoverable is an object store whose cluster is gone, with a recovery prepared in it.
func recoverable(t *testing.T, id string) object.Bucket {
	t.Helper()
	b := object.NewMemory()
	require.NoError(t, createClusterFile(t.Context(), b, &clusterFile{
		Version: 1, ClusterID: id, ClusterName: "name", FounderIncarnation: "gone", Shards: 6,
	}))
	cluster, err := RecoverableCluster(t.Context(), b, "url")
	require.NoError(t, err)
	plan, err := recovery.NewPlan(t.Context(), b, cluster)
	require.NoError(t, err)
	require.NoError(t, plan.Execute(t.Context(), b))
	return b
}

// A recovered cluster is begun by one fresh node; those of its life before are refused.
func TestRecoveredClusterIsBegunOnce(t *testing.T) {
	b := recoverable(t, "c1")
	f, files := newTestFormer(t, b, 1)
	require.NoError(t, f.form(t.Context()))
	id := f.identity.get()
	require.Equal(t, "c1", id.ClusterID)
	require.NotEmpty(t, id.RecoveryID)
	require.False(t, id.Founding)
	require.Equal(t, []string{id.MetadataReplicaID + " recovered"}, files.created)

	require.NoError(t, f.identity.update(func(id *identity) { id.MetadataReplicaID = "" }))
	require.NoError(t, f.form(t.Context()), "after a crash it goes on")
	require.Len(t, files.created, 2)

	late, _ := newTestFormer(t, b, 1)
	require.ErrorContains(t, late.form(t.Context()), "has it already", "whoever has begun it is not here")
	joins, _ := newTestFormer(t, b, 0, gossip.Member{NodeID: "n2", ClusterID: "c1"})
	require.NoError(t, joins.form(t.Context()))
	require.Equal(t, id.RecoveryID, joins.identity.get().RecoveryID)

	check := &storeChecker{bucket: b, url: "url", clusterID: "c1", log: slog.New(slog.DiscardHandler)}
	_, err := check.first(t.Context())
	require.ErrorIs(t, err, recovery.ErrSuperseded)
	require.ErrorIs(t, check.run(t.Context()), recovery.ErrSuperseded)
	check.recoveryID = id.RecoveryID
	sure, err := check.first(t.Context())
	require.NoError(t, err)
	require.True(t, sure)
}

func TestRecoveredClusterKeepsItsName(t *testing.T) {
	b := recoverable(t, "c1")
	f, files := newTestFormer(t, b, 1)
	require.NoError(t, f.identity.update(func(id *identity) { id.ClusterName = "other" }))
	require.ErrorContains(t, f.form(t.Context()), "cluster c1 (name) has it already")
	require.Empty(t, files.created)
}

func TestRecoverableCluster(t *testing.T) {
	b := object.NewMemory()
	_, err := RecoverableCluster(t.Context(), b, "url")
	require.ErrorContains(t, err, "no cluster to recover")
	require.NoError(t, createClusterFile(t.Context(), b, &clusterFile{Version: 1, ClusterID: "c1"}))
	_, err = RecoverableCluster(t.Context(), b, "url")
	require.ErrorContains(t, err, "0 shards")
}

package broker

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/oklog/ulid/v2"
	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
)

// TestLeftovers: files of a replica that is not the node's any more are removed, once the metadata group and the leader of its
// shard say so.
func TestLeftovers(t *testing.T) {
	f := newFixture(t, true)
	dir := t.TempDir()
	s := NewShards(ShardsConfig{NodeID: "n1", Metadata: f.meta, Peers: f.peers, Dir: dir})
	wished, lost, former, cut := ulid.Make().String(), ulid.Make().String(), ulid.Make().String(), ulid.Make().String()+".discarded"
	sh, _ := f.meta.View().Shard(1)
	replicas := append([]*metav1.Replica{{ReplicaId: "n1/" + wished, NodeId: "n1", State: metav1.ReplicaState_REPLICA_STATE_NEW}}, sh.Replicas[1:]...)
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_SetShardReplicas{SetShardReplicas: &metav1.SetShardReplicas{
		Shard: 1, Version: sh.Version, Replicas: replicas,
	}}})
	names := []string{wished, lost, former, cut, former + ".copy"}
	for _, name := range names {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "1", name), 0o750))
		require.NoError(t, os.WriteFile(filepath.Join(dir, "1", name, "f"), nil, 0o600))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "other"), 0o750))
	left := func() (names []string) {
		entries, err := os.ReadDir(filepath.Join(dir, "1"))
		require.NoError(t, err)
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return names
	}

	f.meta.down = errUnreachable
	require.ErrorIs(t, s.discardLeftovers(t.Context()), errUnreachable)
	require.ElementsMatch(t, []string{wished, lost, former, former + ".copy"}, left(), "without the metadata group nothing is known")
	f.meta.down = nil

	f.peers["n2"].down, f.peers["n3"].down = true, true
	require.NoError(t, s.discardLeftovers(t.Context()))
	require.Contains(t, left(), former, "without a leader neither")
	f.peers["n2"].down, f.peers["n3"].down = false, false

	f.peers["n2"].replays = true
	require.NoError(t, s.discardLeftovers(t.Context()))
	require.Contains(t, left(), former, "the leader knows an old configuration")
	f.peers["n2"].replays = false

	f.peers["n2"].also = []*nodev1.Server{{ReplicaId: "n1/" + former}, {ReplicaId: "n1/" + lost, Voter: true}}
	require.NoError(t, s.discardLeftovers(t.Context()))
	require.Contains(t, left(), former, "the group has it still")

	f.peers["n2"].also = f.peers["n2"].also[1:]
	require.NoError(t, s.discardLeftovers(t.Context()))
	require.ElementsMatch(t, []string{wished, lost, former + ".copy"}, left())

	sh, _ = f.meta.View().Shard(1)
	replicas[0].ReplicaId = "n1/" + lost
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_SetShardReplicas{SetShardReplicas: &metav1.SetShardReplicas{
		Shard: 1, Version: sh.Version, Replicas: replicas,
	}}})
	f.meta.must(t, &metav1.Command{Command: &metav1.Command_NoteReplica{NoteReplica: &metav1.NoteReplica{
		Shard: 1, ReplicaId: "n1/" + lost, State: metav1.ReplicaState_REPLICA_STATE_LOST,
	}}})
	require.NoError(t, s.discardLeftovers(t.Context()))
	require.ElementsMatch(t, []string{former + ".copy"}, left(), "nothing of a lost one counts")
}

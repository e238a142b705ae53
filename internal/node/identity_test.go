package node

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestLockIsForOne(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	l, err := lockDir(dir)
	require.NoError(t, err)
	_, err = lockDir(dir)
	require.ErrorContains(t, err, "another process uses it")
	require.ErrorContains(t, err, "--data-dir")
	require.NoError(t, l.Close())
	again, err := lockDir(dir)
	require.NoError(t, err)
	require.NoError(t, again.Close())
}

func TestLockNamesWhatCannotBeWritten(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := lockDir(filepath.Join(file, "dir"))
	require.ErrorContains(t, err, "--data-dir")
}

func TestIdentityStays(t *testing.T) {
	dir := t.TempDir()
	f, err := openIdentity(dir, "n1", "c")
	require.NoError(t, err)
	minted := f.get()
	require.Len(t, minted.Incarnation, 26)
	require.Empty(t, minted.ClusterID)
	require.NoError(t, f.update(func(id *identity) {
		id.ClusterID, id.MetadataReplicaID = "cluster", "n1/x"
		id.Peers = []peerAddr{{NodeID: "n2", RaftAddr: "r", GossipAddr: "g"}}
	}))
	again, err := openIdentity(dir, "n1", "c")
	require.NoError(t, err)
	require.Equal(t, f.get(), again.get())
	require.Equal(t, minted.Incarnation, again.get().Incarnation)
	require.NoFileExists(t, filepath.Join(dir, "node.json.tmp"))
}

func TestIdentityIsRefused(t *testing.T) {
	for name, tc := range map[string]struct {
		file, nodeID, cluster, want string
	}{
		"another node":    {`{"version":1,"node_id":"n1","incarnation":"i","cluster_name":"c"}`, "n2", "c", "--node-id n2"},
		"another cluster": {`{"version":1,"node_id":"n1","incarnation":"i","cluster_name":"c"}`, "n1", "d", "--cluster-name d"},
		"cut short":       {`{"version":1,"node`, "n1", "c", "node.json is damaged"},
		"empty":           {`{}`, "n1", "c", "node.json is damaged"},
		"later version":   {`{"version":9,"node_id":"n1","incarnation":"i","cluster_name":"c"}`, "n1", "c", "upgrade"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, os.WriteFile(filepath.Join(dir, "node.json"), []byte(tc.file), 0o600))
			_, err := openIdentity(dir, tc.nodeID, tc.cluster)
			require.ErrorContains(t, err, tc.want)
		})
	}
}

// Logs without node.json are not a fresh node: to mint a new identity over them
// would let them be forgotten.
func TestLogsWithoutIdentityAreRefused(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "shards", "0"), 0o700))
	_, err := openIdentity(dir, "n1", "c")
	require.ErrorContains(t, err, "has shards but no node.json")
}

func TestHasOtherVoters(t *testing.T) {
	id := identity{NodeID: "n1", MetadataReplicaID: "n1/b"}
	require.False(t, id.hasOtherVoters())
	id.MetadataVoters = []string{"n1/a"}
	require.False(t, id.hasOtherVoters(), "an earlier replica of this node is no other voter")
	id.MetadataVoters = []string{"n1/a", "n2/a"}
	require.True(t, id.hasOtherVoters())
}

// TestBitFlipInIdentity: no flipped bit of node.json makes the node somebody else.
func TestBitFlipInIdentity(t *testing.T) {
	dir := t.TempDir()
	f, err := openIdentity(dir, "n1", "c")
	require.NoError(t, err)
	require.NoError(t, f.update(func(id *identity) { id.ClusterID, id.MetadataReplicaID = "cluster", "n1/x" }))
	path := filepath.Join(dir, identityName)
	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	want := f.get()
	for bit := range 8 * len(whole) {
		damaged := bytes.Clone(whole)
		damaged[bit/8] ^= 1 << (bit % 8)
		got, err := decodeIdentity(damaged)
		if err == nil { // such as in the name of the sum itself
			require.Equal(t, want, got, "bit %d", bit)
		}
	}
	for n := range whole[:len(whole)-2] {
		require.NoError(t, os.WriteFile(path, whole[:n], 0o600))
		_, err := openIdentity(dir, "n1", "c")
		require.ErrorContains(t, err, path, "cut to %d bytes", n)
	}
}

func FuzzDecodeIdentity(f *testing.F) {
	whole, err := encodeIdentity(&identity{Version: 1, NodeID: "n1", Incarnation: "i", ClusterName: "c"})
	require.NoError(f, err)
	f.Add(whole)
	f.Add([]byte(`{"version":1,"node_id":"n1","incarnation":"i","cluster_name":"c"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := decodeIdentity(data)
		if err != nil {
			return
		}
		again, err := encodeIdentity(&id)
		require.NoError(t, err)
		_, err = decodeIdentity(again)
		require.NoError(t, err)
	})
}

package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/oklog/ulid/v2"

	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/disk"
)

const (
	identityName    = "node.json"
	identityVersion = 1
)

// identity is what node.json says. It is small, and written anew as a whole.
type identity struct {
	Version int    `json:"version"`
	NodeID  string `json:"node_id"`
	// Incarnation is minted with the directory: a wiped node is another one.
	Incarnation string `json:"incarnation"`
	ClusterName string `json:"cluster_name"`
	// ClusterID is empty until the node has begun or joined a cluster.
	ClusterID string `json:"cluster_id,omitempty"`
	// MetadataReplicaID names the replica whose files are in meta/. Files that
	// are missing although it is set are lost.
	MetadataReplicaID string `json:"metadata_replica_id,omitempty"`
	// Founding is set while this node begins the cluster: until then nobody else
	// is in it.
	Founding bool `json:"founding,omitempty"`
	// Registered is set once the cluster has this node: where it has it no more, the node was removed.
	Registered bool `json:"registered,omitempty"`
	// RecoveryID is the recovery of the cluster from its object store that this node began or joined after; empty for the
	// cluster's first life.
	RecoveryID string `json:"recovery_id,omitempty"`
	// MetadataVoters and Peers are the others as last seen: a hint for finding
	// them again, and for whether a damaged replica can be rebuilt from them.
	MetadataVoters []string   `json:"metadata_voters,omitempty"`
	Peers          []peerAddr `json:"peers,omitempty"`
	// Sum is the CRC32C of the file; see encodeIdentity.
	Sum string `json:"crc32c,omitempty"`
}

// peerAddr is another node as last seen.
type peerAddr struct {
	NodeID     string `json:"node_id"`
	RaftAddr   string `json:"raft_addr"`
	GossipAddr string `json:"gossip_addr"`
}

// hasOtherVoters reports whether the metadata lives on other nodes too.
func (id *identity) hasOtherVoters() bool {
	return slices.ContainsFunc(id.MetadataVoters, func(r string) bool {
		return fsm.NodeOf(r) != id.NodeID
	})
}

// identityFile guards node.json.
type identityFile struct {
	dir string

	mu sync.Mutex
	id identity // guarded by mu
}

// openIdentity reads node.json or creates it. The error names the mend when the
// directory belongs to another node or cluster name.
func openIdentity(dir, nodeID, clusterName string) (*identityFile, error) {
	path := filepath.Join(dir, identityName)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return createIdentity(dir, nodeID, clusterName)
	}
	if err != nil {
		return nil, fmt.Errorf("--data-dir %s: %w", dir, err)
	}
	id, err := decodeIdentity(data)
	if err != nil {
		return nil, fmt.Errorf("%s is damaged: %w: restore it, or empty the directory to let the node join anew", path, err)
	}
	switch {
	case id.Version > identityVersion:
		return nil, fmt.Errorf("%s has version %d, this binary knows %d: upgrade it", path, id.Version, identityVersion)
	case id.Version < 1 || id.NodeID == "" || id.Incarnation == "":
		return nil, fmt.Errorf("%s is damaged: restore it, or empty the directory to let the node join anew", path)
	case id.NodeID != nodeID:
		return nil, fmt.Errorf("--node-id %s: --data-dir %s belongs to node %s: give that id, or another directory", nodeID, dir, id.NodeID)
	case id.ClusterName != clusterName:
		return nil, fmt.Errorf("--cluster-name %s: --data-dir %s belongs to cluster %s: give that name, or another directory", clusterName, dir, id.ClusterName)
	}
	return &identityFile{dir: dir, id: id}, nil
}

// createIdentity mints an incarnation. A directory with logs but without
// node.json is no fresh one.
func createIdentity(dir, nodeID, clusterName string) (*identityFile, error) {
	for _, sub := range []string{"meta", "shards"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("--data-dir %s: %w", dir, err)
		}
		if len(entries) > 0 {
			return nil, fmt.Errorf("--data-dir %s: has %s but no %s: restore it, or empty the directory to let the node join anew", dir, sub, identityName)
		}
	}
	f := &identityFile{dir: dir, id: identity{
		Version:     identityVersion,
		NodeID:      nodeID,
		Incarnation: ulid.Make().String(),
		ClusterName: clusterName,
	}}
	if err := writeIdentity(dir, &f.id); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *identityFile) get() identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.id
	id.Peers = slices.Clone(id.Peers)
	id.MetadataVoters = slices.Clone(id.MetadataVoters)
	return id
}

// update changes node.json; nothing is changed when it can't be written.
func (f *identityFile) update(change func(*identity)) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := f.id
	change(&id)
	if err := writeIdentity(f.dir, &id); err != nil {
		return err
	}
	f.id = id
	return nil
}

// writeIdentity replaces node.json in one step that survives a power cut.
func writeIdentity(dir string, id *identity) error {
	data, err := encodeIdentity(id)
	if err != nil {
		return err
	}
	path := filepath.Join(dir, identityName)
	if err := disk.WriteFile(path, data, 0o644); err != nil {
		return fmt.Errorf("--data-dir %s: %w", dir, err)
	}
	return nil
}

// newReplicaID mints the id of a replica of this node.
func newReplicaID(nodeID string) string { return nodeID + "/" + ulid.Make().String() }

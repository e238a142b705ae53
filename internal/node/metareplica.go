package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"

	nodev1 "github.com/streamhouse/streamhouse/api/streamhouse/node/v1"
	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// metaFiles keeps the files of metadata replicas: <data-dir>/meta/<ULID>.
type metaFiles struct{ dataDir string }

func (f metaFiles) dir(replicaID string) string {
	_, id, _ := strings.Cut(replicaID, "/")
	return filepath.Join(f.dataDir, "meta", id)
}

// Create makes empty files for a new replica.
func (f metaFiles) Create(replicaID string) error {
	if err := replica.Create(f.dir(replicaID)); err != nil {
		return fmt.Errorf("create metadata replica %s: %w", replicaID, err)
	}
	return nil
}

// CreateFrom makes the files of a replica that begins the metadata group with a state, alone.
func (f metaFiles) CreateFrom(replicaID, raftAddr string, view *fsm.View) error {
	err := replica.CreateFrom(f.dir(replicaID), replicaID, raftAddr, func(w io.Writer) error { return fsm.WriteSnapshot(view, w) })
	if err != nil {
		return fmt.Errorf("create metadata replica %s from the recovered metadata: %w", replicaID, err)
	}
	return nil
}

// Discard removes the files of a replica.
func (f metaFiles) Discard(replicaID string) error {
	if err := replica.Discard(f.dir(replicaID)); err != nil {
		return fmt.Errorf("discard metadata replica %s: %w", replicaID, err)
	}
	return nil
}

// How long a node with a damaged metadata replica waits for the others to carry the metadata, and how often it asks.
const (
	carryTimeout = time.Minute
	carryTick    = 500 * time.Millisecond
	carryAsk     = 2 * time.Second
)

// groupOpener opens the metadata group of this node.
type groupOpener struct {
	identity *identityFile
	files    metaFiles
	config   func(replicaID, dir string) metadata.Config
	// ask returns what the metadata replicas of other nodes say, nil for each that does not answer.
	ask   func(ctx context.Context, peers []peerAddr) []*nodev1.GetReplicaResponse
	waits func(what string) // is told what the start waits for
	log   *slog.Logger
}

// open opens the replica that node.json names. One that is missing or corrupt never votes again: once the other nodes
// have everything without it, a new replica takes its place, which gets everything from the leader; else the start is
// refused, the file is named, and nothing is deleted.
func (o *groupOpener) open(ctx context.Context) (*metadata.Group, error) {
	id := o.identity.get()
	g, err := metadata.Open(o.config(id.MetadataReplicaID, o.files.dir(id.MetadataReplicaID)))
	if err == nil {
		return g, o.bootstrap(g)
	}
	if !errors.Is(err, logstore.ErrCorrupt) && !errors.Is(err, replica.ErrMissing) && !errors.Is(err, fsm.ErrSnapshotCorrupt) {
		return nil, err
	}
	if !id.hasOtherVoters() {
		return nil, fmt.Errorf("%w: the metadata is on no other node: restore the file from a copy", err)
	}
	if carried := o.carried(ctx, id, err); carried != nil {
		return nil, fmt.Errorf("%w: %w: start the other nodes first, or restore the file from a copy", err, carried)
	}
	o.log.Error("metadata replica is lost; a new one takes its place and gets everything from the leader", "replica", id.MetadataReplicaID, "error", err)
	fresh := newReplicaID(id.NodeID)
	if err := o.files.Create(fresh); err != nil {
		return nil, err
	}
	err = o.identity.update(func(id *identity) {
		id.MetadataReplicaID = fresh
	})
	if err != nil {
		return nil, err
	}
	if err := o.files.Discard(id.MetadataReplicaID); err != nil {
		return nil, err
	}
	return metadata.Open(o.config(fresh, o.files.dir(fresh)))
}

// carried waits until the other nodes carry the metadata without this node's replica, so that no majority is damaged at
// once and each deletes what it has. Where no file of the replica is left there is nothing to delete.
func (o *groupOpener) carried(ctx context.Context, id identity, cause error) error {
	if _, err := os.Stat(o.files.dir(id.MetadataReplicaID)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, carryTimeout)
	defer cancel()
	for told := false; ; told = true {
		err := replica.CarriesWithout(o.ask(ctx, id.Peers), id.MetadataReplicaID)
		if err == nil {
			return nil
		}
		if !told {
			o.waits("the other nodes to carry the metadata, since the replica here is damaged")
			o.log.Warn("metadata replica is damaged, and kept until the other nodes carry the metadata without it",
				"replica", id.MetadataReplicaID, "error", cause, "waits_for", err)
		}
		if pause.For(ctx, carryTick) != nil {
			return err
		}
	}
}

// askMetadata returns what the metadata replicas of other nodes say of themselves.
func (n *Node) askMetadata(ctx context.Context, peers []peerAddr) []*nodev1.GetReplicaResponse {
	ctx, cancel := context.WithTimeout(ctx, carryAsk)
	defer cancel()
	var nodes []nodev1.NodeServiceClient
	for _, p := range peers {
		client, err := n.peers.Client(p.NodeID) // where gossip knows it now
		if err != nil {
			client, err = n.peers.ClientAt(p.RaftAddr)
		}
		if err == nil {
			nodes = append(nodes, client)
		}
	}
	return replica.Ask(ctx, &nodev1.Group{Metadata: true}, nodes)
}

// bootstrap makes the founder the first and only voter. After a crash it may be so already.
func (o *groupOpener) bootstrap(g *metadata.Group) error {
	if !o.identity.get().Founding {
		return nil
	}
	err := g.Replica().Bootstrap()
	if err != nil && !errors.Is(err, raft.ErrCantBootstrap) {
		return errors.Join(fmt.Errorf("bootstrap the metadata group: %w", err), g.Close())
	}
	return nil
}

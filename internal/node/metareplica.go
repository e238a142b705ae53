package node

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/metadata"
	"github.com/streamhouse/streamhouse/cluster/replica"
	"github.com/streamhouse/streamhouse/fsm"
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

// groupOpener opens the metadata group of this node.
type groupOpener struct {
	identity *identityFile
	files    metaFiles
	config   func(replicaID, dir string) metadata.Config
	log      *slog.Logger
}

// open opens the replica that node.json names. One that is missing or corrupt
// never votes again: when the metadata lives elsewhere too, a new replica takes
// its place, which gets everything from the leader; else the start is refused
// and the file is named.
func (o *groupOpener) open() (*metadata.Group, error) {
	id := o.identity.get()
	g, err := metadata.Open(o.config(id.MetadataReplicaID, o.files.dir(id.MetadataReplicaID)))
	if err == nil {
		return g, o.bootstrap(g)
	}
	var corrupt *logstore.CorruptError
	if !errors.As(err, &corrupt) && !errors.Is(err, replica.ErrMissing) {
		return nil, err
	}
	if !id.hasOtherVoters() {
		return nil, fmt.Errorf("%w: the metadata is on no other node: restore the file from a copy", err)
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

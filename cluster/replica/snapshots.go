package replica

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/cluster/logstore"
)

// snapshotsDir is where raft.FileSnapshotStore puts its snapshots.
const snapshotsDir = "snapshots"

// snapshotStore is raft.FileSnapshotStore; a failed write of a snapshot ends the node.
type snapshotStore struct {
	raft.SnapshotStore
	dir   string
	fatal func(error)
}

func openSnapshots(dir string, log hclog.Logger, fatal func(error)) (*snapshotStore, error) {
	s, err := raft.NewFileSnapshotStoreWithLogger(dir, keptSnapshots, log)
	if err != nil {
		return nil, fmt.Errorf("open snapshots of %s: %w", dir, err)
	}
	return &snapshotStore{SnapshotStore: s, dir: filepath.Join(dir, snapshotsDir), fatal: fatal}, nil
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, confIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, c, confIndex, t)
	if err != nil {
		return nil, s.failed(err)
	}
	return &snapshotSink{SnapshotSink: sink, store: s}, nil
}

func (s *snapshotStore) failed(err error) error {
	err = fmt.Errorf("write a snapshot in %s: %w", s.dir, err)
	s.fatal(err)
	return err
}

type snapshotSink struct {
	raft.SnapshotSink
	store *snapshotStore
}

// Write implements io.Writer.
func (s *snapshotSink) Write(p []byte) (int, error) {
	n, err := s.SnapshotSink.Write(p)
	if err != nil {
		err = s.store.failed(err)
	}
	return n, err
}

// Close implements io.Closer.
func (s *snapshotSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil {
		return s.store.failed(err)
	}
	return nil
}

// verify reads the newest snapshot whole and returns its index, 0 without one. The library passes over a snapshot that
// it can't read; here that is damage.
func (s *snapshotStore) verify() (index uint64, err error) {
	metas, err := s.List()
	if err != nil {
		return 0, &logstore.CorruptError{File: s.dir, Reason: err.Error()}
	}
	listed := make(map[string]bool, len(metas))
	for _, m := range metas {
		listed[m.ID] = true
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return 0, &logstore.CorruptError{File: s.dir, Reason: err.Error()}
	}
	kept := 0
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		kept++
		if !listed[e.Name()] && kept <= keptSnapshots {
			return 0, &logstore.CorruptError{File: filepath.Join(s.dir, e.Name()), Reason: "the snapshot can't be read"}
		}
	}
	if len(metas) == 0 {
		return 0, nil
	}
	meta, r, err := s.Open(metas[0].ID)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return 0, &logstore.CorruptError{File: filepath.Join(s.dir, metas[0].ID), Reason: err.Error()}
	}
	return meta.Index, nil
}

package replica

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/internal/disk"
)

// snapshotsDir is where raft.FileSnapshotStore puts its snapshots.
const snapshotsDir = "snapshots"

const (
	stateName = "state.bin"
	metaName  = "meta.json"
	// sumName holds the CRC32C of meta.json, eight hex digits: the library sums only the state beside it.
	sumName = "meta.crc32c"
)

// snapshotStore is raft.FileSnapshotStore; a failed write of a snapshot ends the node.
type snapshotStore struct {
	raft.SnapshotStore
	dir   string
	fatal func(error)
	// configured is told the index of the configuration that a new snapshot has.
	configured func(index uint64, c raft.Configuration)
	// closing is held while a snapshot is made whole, and those before the newest keptSnapshots are removed: a replica takes
	// one of its own while the leader sends another.
	closing sync.Mutex
}

func openSnapshots(dir string, log hclog.Logger, fatal func(error), configured func(uint64, raft.Configuration)) (*snapshotStore, error) {
	s, err := raft.NewFileSnapshotStoreWithLogger(dir, keptSnapshots, log)
	if err != nil {
		return nil, fmt.Errorf("open snapshots of %s: %w", dir, err)
	}
	return &snapshotStore{SnapshotStore: s, dir: filepath.Join(dir, snapshotsDir), fatal: fatal, configured: configured}, nil
}

// List implements raft.SnapshotStore with the newest one alone. The library would begin with an older one where the FSM
// can't restore it, and the log between the two may be gone.
func (s *snapshotStore) List() ([]*raft.SnapshotMeta, error) {
	metas, err := s.SnapshotStore.List()
	return metas[:min(len(metas), 1)], err
}

// newest returns the file with the state of the newest snapshot, "" without one.
func (s *snapshotStore) newest() string {
	metas, err := s.List()
	if err != nil || len(metas) == 0 {
		return ""
	}
	return filepath.Join(s.dir, metas[0].ID, stateName)
}

// Create implements raft.SnapshotStore.
func (s *snapshotStore) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, confIndex uint64, t raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(v, index, term, c, confIndex, t)
	if err != nil {
		return nil, s.failed(err)
	}
	return &snapshotSink{SnapshotSink: sink, store: s, confIndex: confIndex, conf: c}, nil
}

func (s *snapshotStore) failed(err error) error {
	err = fmt.Errorf("write a snapshot in %s: %w", s.dir, err)
	s.fatal(err)
	return err
}

// errSuperseded says that the leader sent a newer snapshot while this one was written, which may have been removed at once as
// the oldest. Raft must not take it for its last one: the log behind it may be gone.
var errSuperseded = errors.New("a newer snapshot came meanwhile")

type snapshotSink struct {
	raft.SnapshotSink
	store     *snapshotStore
	confIndex uint64
	conf      raft.Configuration
	closed    bool
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
	if s.closed {
		return nil
	}
	s.closed = true
	s.store.closing.Lock()
	defer s.store.closing.Unlock()
	if err := s.SnapshotSink.Close(); err != nil {
		return s.store.failed(err)
	}
	if metas, err := s.store.List(); err != nil || len(metas) == 0 {
		return s.store.failed(errors.Join(errors.New("it is not listed"), err))
	} else if metas[0].ID != s.ID() {
		return fmt.Errorf("%s: %w", s.ID(), errSuperseded)
	}
	if err := s.store.writeSum(s.ID()); err != nil {
		return s.store.failed(err)
	}
	s.store.configured(s.confIndex, s.conf)
	return nil
}

// writeSum puts the sum beside meta.json. After a crash before it, a snapshot has none, and is checked without.
func (s *snapshotStore) writeSum(id string) error {
	dir := filepath.Join(s.dir, id)
	sum, err := metaSum(dir)
	if err != nil {
		return err
	}
	return disk.WriteFile(filepath.Join(dir, sumName), []byte(sum), 0o640)
}

func metaSum(dir string) (string, error) {
	b, err := os.ReadFile(filepath.Join(dir, metaName))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%08x", crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))), nil
}

// verifyMeta checks a snapshot's meta.json against its sum and the name of its directory.
func (s *snapshotStore) verifyMeta(m *raft.SnapshotMeta) error {
	dir := filepath.Join(s.dir, m.ID)
	want, err := os.ReadFile(filepath.Join(dir, sumName))
	if errors.Is(err, os.ErrNotExist) {
		want, err = nil, nil
	}
	if err != nil {
		return err
	}
	got, err := metaSum(dir)
	if err != nil {
		return err
	}
	if want != nil && string(want) != got {
		return &logstore.CorruptError{File: filepath.Join(dir, metaName), Reason: fmt.Sprintf("CRC is %s, computed %s", want, got)}
	}
	if !strings.HasPrefix(m.ID, fmt.Sprintf("%d-%d-", m.Term, m.Index)) {
		return &logstore.CorruptError{File: filepath.Join(dir, metaName), Reason: "term and index are not those of the directory"}
	}
	return nil
}

// verify reads the newest snapshot whole and returns its index and term, 0 without one. The library passes over a snapshot that
// it can't read; here that is damage.
func (s *snapshotStore) verify() (index, term uint64, err error) {
	metas, err := s.SnapshotStore.List()
	if err != nil {
		return 0, 0, &logstore.CorruptError{File: s.dir, Reason: err.Error()}
	}
	if err := s.verifyListed(metas); err != nil {
		return 0, 0, err
	}
	if len(metas) == 0 {
		return 0, 0, nil
	}
	if err := s.verifyMeta(metas[0]); err != nil {
		return 0, 0, err
	}
	meta, r, err := s.Open(metas[0].ID)
	if err == nil {
		_, err = io.Copy(io.Discard, r)
		err = errors.Join(err, r.Close())
	}
	if err != nil {
		return 0, 0, &logstore.CorruptError{File: filepath.Join(s.dir, metas[0].ID), Reason: err.Error()}
	}
	s.configured(meta.ConfigurationIndex, meta.Configuration)
	return meta.Index, meta.Term, nil
}

// verifyListed checks that the library sees every snapshot that is there.
func (s *snapshotStore) verifyListed(metas []*raft.SnapshotMeta) error {
	listed := make(map[string]bool, len(metas))
	for _, m := range metas {
		listed[m.ID] = true
	}
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return &logstore.CorruptError{File: s.dir, Reason: err.Error()}
	}
	for _, e := range entries {
		if e.IsDir() && !strings.HasSuffix(e.Name(), ".tmp") && !listed[e.Name()] && len(listed) < keptSnapshots {
			return &logstore.CorruptError{File: filepath.Join(s.dir, e.Name()), Reason: "the snapshot can't be read"}
		}
	}
	return nil
}

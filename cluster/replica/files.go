package replica

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/hashicorp/raft"
	"github.com/oklog/ulid/v2"

	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/cluster/transport"
	"github.com/streamhouse/streamhouse/internal/disk"
)

const discardedSuffix = ".discarded"

// Create makes the files of a new replica and puts them on disk. It fails where there are some.
func Create(dir string) error {
	parent := filepath.Dir(dir)
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := logstore.Create(dir); err != nil {
		return err
	}
	for _, d := range []string{dir, parent, filepath.Dir(parent)} {
		if err := disk.Sync(d); err != nil {
			return err
		}
	}
	return nil
}

// CreateFrom makes the files of a new replica whose group begins with a state that write writes, in a snapshot of index 1
// and term 0, before any election, and with this replica as its only voter. It fails where there are some.
func CreateFrom(dir, id, addr string, write func(io.Writer) error) error {
	if ok, err := Exists(dir); err != nil || ok {
		return errors.Join(fmt.Errorf("%s: %w", dir, os.ErrExist), err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	var failed error
	s, err := openSnapshots(dir, newHCLog(slog.New(slog.DiscardHandler)), func(err error) { failed = err }, func(uint64, raft.Configuration) {})
	if err != nil {
		return err
	}
	_, encoder := raft.NewInmemTransport("") // it only encodes addresses
	sink, err := s.Create(raft.SnapshotVersionMax, 1, 0, raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: raft.ServerID(id), Address: transport.ServerAddress(id, addr),
	}}}, 1, encoder)
	if err != nil {
		return fmt.Errorf("create a snapshot for %s: %w", id, err)
	}
	if err := write(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	if err := errors.Join(sink.Close(), failed); err != nil {
		return err
	}
	return Create(dir)
}

// Exists says whether dir holds a replica that was created.
func Exists(dir string) (bool, error) { return logstore.Exists(dir) }

// List returns the names of the replicas' directories in dir, which are ULIDs, and removes what a crash has kept Discard from
// removing. Without dir there is none.
func List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list replicas: %w", err)
	}
	var names []string
	for _, e := range entries {
		name, discarded := strings.CutSuffix(e.Name(), discardedSuffix)
		if _, err := ulid.ParseStrict(name); err != nil || !e.IsDir() {
			continue // what somebody else has put there is theirs
		}
		if !discarded {
			names = append(names, name)
		} else if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
			return nil, fmt.Errorf("remove replica: %w", err)
		}
	}
	return names, nil
}

// Discard removes a replica's files. A crash in the middle leaves nothing that Exists finds.
func Discard(dir string) error {
	gone := dir + discardedSuffix
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove replica: %w", err)
	}
	switch err := os.Rename(dir, gone); {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("remove replica: %w", err)
	}
	if err := disk.Sync(filepath.Dir(dir)); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

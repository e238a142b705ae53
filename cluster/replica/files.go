package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/streamhouse/streamhouse/cluster/logstore"
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
		if err := syncDir(d); err != nil {
			return err
		}
	}
	return nil
}

// Exists says whether dir holds a replica that was created.
func Exists(dir string) (bool, error) { return logstore.Exists(dir) }

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
	if err := syncDir(filepath.Dir(dir)); err != nil {
		return err
	}
	return os.RemoveAll(gone)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

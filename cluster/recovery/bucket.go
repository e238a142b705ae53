package recovery

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/object"
)

// Bucket is the part of an object.Bucket that is needed here, with its contract. Safe for concurrent use.
type Bucket interface {
	object.Lister
	// Put creates an object and never replaces one.
	Put(ctx context.Context, name string, body io.ReadSeeker, sizeBytes int64) error
	// Get reads length bytes from offset, or to the end with length -1. The caller closes the reader.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
	// Delete removes an object; one that is not there is no error.
	Delete(ctx context.Context, name string) error
}

const (
	// callTimeout bounds one call to the object store that moves little, moveTimeout one that moves a checkpoint.
	callTimeout = 30 * time.Second
	moveTimeout = 5 * time.Minute
	// maxMetaBytes is far above the metadata of a million partitions.
	maxMetaBytes = 4 << 30
)

// stored is a checkpoint in the object store.
type stored struct {
	position
	object.Attributes
}

// listStored returns what is below a prefix, the newest last.
func listStored(ctx context.Context, b object.Lister, prefix string) ([]stored, error) {
	var all []stored
	err := object.All(ctx, b, prefix, func(a object.Attributes) error {
		if p, ok := parsePosition(prefix, a.Name); ok {
			all = append(all, stored{p, a})
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", prefix, err)
	}
	slices.SortFunc(all, func(a, b stored) int { return a.compare(b.position) })
	return all, nil
}

func put(ctx context.Context, b Bucket, name string, data []byte) error {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	if err := b.Put(ctx, name, bytes.NewReader(data), int64(len(data))); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	return nil
}

// get reads an object whole, of at most maxBytes.
func get(ctx context.Context, b Bucket, name string, maxBytes int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, moveTimeout)
	defer cancel()
	rc, err := b.Get(ctx, name, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	data, err := io.ReadAll(io.LimitReader(rc, maxBytes+1))
	if err = errors.Join(err, rc.Close()); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > maxBytes {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", name, maxBytes)
	}
	return data, nil
}

// readView reads and checks a checkpoint. The error is one of fsm.State.Restore where it is damaged.
func readView(ctx context.Context, b Bucket, name string) (*fsm.View, error) {
	data, err := get(ctx, b, name, maxMetaBytes)
	if err != nil {
		return nil, err
	}
	st := fsm.New()
	if err := st.Restore(bytes.NewReader(data)); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return st.View(), nil
}

// isDamaged tells a checkpoint that is wrong from a store that does not answer.
func isDamaged(err error) bool {
	return errors.Is(err, fsm.ErrSnapshotCorrupt) || errors.Is(err, fsm.ErrSnapshotVersion) || errors.Is(err, object.ErrNotFound)
}

// keptStored is how many checkpoints are kept at least.
const keptStored = 3

// removeOld deletes checkpoints that newer ones have replaced, long enough ago that nobody reads them.
func removeOld(ctx context.Context, b Bucket, prefix string, grace time.Duration, now time.Time) error {
	all, err := listStored(ctx, b, prefix)
	if err != nil {
		return err
	}
	for i := range all {
		if i+keptStored >= len(all) || now.Sub(all[i].ModTime) <= grace {
			return nil
		}
		if err := b.Delete(ctx, all[i].Name); err != nil {
			return fmt.Errorf("delete %s: %w", all[i].Name, err)
		}
	}
	return nil
}

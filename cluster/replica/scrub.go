package replica

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
)

const (
	// paceBytes is how much is read before wait is called.
	paceBytes = 256 << 10
	// snapshotTries is how often a snapshot is looked at before it counts as damaged: it may be replaced meanwhile.
	snapshotTries = 3
)

// Scrub reads the log and the newest snapshot from the disk and checks them, while Raft runs. It calls wait for the bytes
// that it has read. The error is a *logstore.CorruptError that names the file, or wait's. Damage does not end the node.
func (r *Replica) Scrub(ctx context.Context, wait func(ctx context.Context, bytes int64) error) error {
	last, err := r.store.LastIndex()
	if err != nil {
		return err
	}
	var read int64
	for index := max(r.FirstIndex(), 1); index <= last; index++ {
		n, err := r.store.Check(index)
		if errors.Is(err, raft.ErrLogNotFound) {
			index = max(index, r.FirstIndex()-1) // cut meanwhile
			continue
		}
		if err != nil {
			return err
		}
		if read += int64(n); read >= paceBytes {
			if err := wait(ctx, read); err != nil {
				return err
			}
			read = 0
		}
	}
	return r.scrubSnapshot(ctx, read, wait)
}

func (r *Replica) scrubSnapshot(ctx context.Context, read int64, wait func(context.Context, int64) error) error {
	var err error
	for range snapshotTries {
		if _, _, err = r.snapshots.verify(); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	metas, err := r.snapshots.List()
	if err == nil && len(metas) > 0 {
		if st, err := os.Stat(filepath.Join(r.snapshots.dir, metas[0].ID, "state.bin")); err == nil {
			read += st.Size()
		}
	}
	return wait(ctx, read)
}

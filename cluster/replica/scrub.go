package replica

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/hashicorp/raft"
)

const (
	// paceBytes is how much is read before wait is called.
	paceBytes = 256 << 10
	// snapshotTries is how often a snapshot is looked at before it counts as damaged: it may be replaced meanwhile.
	snapshotTries = 3
)

// Scrub reads the log and the newest snapshot from the disk and checks them, while Raft runs. It calls wait for the bytes
// that it has read. The error is a *logstore.CorruptError that names the file, or wait's. Damage does not end the node. A
// replica that was condemned is damaged.
func (r *Replica) Scrub(ctx context.Context, wait func(ctx context.Context, bytes int64) error) error {
	if err := condemned(r.cfg.Dir); err != nil {
		return err
	}
	last, err := r.store.LastIndex()
	if err != nil {
		return err
	}
	var read int64
	for index := max(r.FirstIndex(), 1); index <= last; index++ {
		var l raft.Log
		err := r.store.Check(index, &l)
		if errors.Is(err, raft.ErrLogNotFound) {
			index = max(index, r.FirstIndex()-1) // cut meanwhile
			continue
		}
		if err != nil {
			return err
		}
		if read += entryBytes(&l); read >= paceBytes {
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
	if st, err := os.Stat(r.snapshots.newest()); err == nil {
		read += st.Size()
	}
	return wait(ctx, read)
}

func entryBytes(l *raft.Log) int64 { return int64(len(l.Data) + len(l.Extensions)) }

// Digest is what a run of log entries has, as it is on the disk.
type Digest struct {
	// First and Last are the indexes of the run.
	First, Last uint64
	// Bytes were read.
	Bytes int64
	// Sum is equal for equal entries.
	Sum [sha256.Size]byte
}

// Digest reads the entries from first through last from the disk, or fewer: it ends with the one that makes maxBytes full.
// It has one entry in memory at a time. The error is a *logstore.CorruptError that names the file, ctx's, or one that wraps
// raft.ErrLogNotFound where the log does not have them all. An entry up to AppliedIndex is the same on every replica.
//
// The sum is the SHA-256 of index and term (uint64 each), type (1 byte), length of the data (uint64), and the data of every
// entry, integers in big endian. Other nodes compute it too: it never changes.
func (r *Replica) Digest(ctx context.Context, first, last uint64, maxBytes int64) (Digest, error) {
	d := Digest{First: first}
	sum := sha256.New()
	for index := first; index <= last; index++ {
		if err := ctx.Err(); err != nil {
			return Digest{}, err
		}
		var l raft.Log
		if err := r.store.Check(index, &l); err != nil {
			return Digest{}, fmt.Errorf("digest of log index %d: %w", index, err)
		}
		var head [25]byte
		binary.BigEndian.PutUint64(head[:], l.Index)
		binary.BigEndian.PutUint64(head[8:], l.Term)
		head[16] = byte(l.Type)
		binary.BigEndian.PutUint64(head[17:], uint64(len(l.Data)))
		sum.Write(head[:])
		sum.Write(l.Data)
		d.Last = index
		if d.Bytes += entryBytes(&l); d.Bytes >= maxBytes {
			break
		}
	}
	sum.Sum(d.Sum[:0])
	return d, nil
}

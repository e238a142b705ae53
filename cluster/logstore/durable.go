package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"

	"github.com/hashicorp/raft-wal/types"

	"github.com/streamhouse/streamhouse/internal/disk"
)

// The durable index (docs/format/durable-index.md) is a file of two slots, at 0 and 512, written in turn; the valid
// one with the larger sequence counts. A slot, big endian:
//
//	+--------+-----------------+--------------+---------------+---------------+
//	| "SHDI" | sequence uint64 | index uint64 | stable uint64 | CRC32C uint32 |
//	+--------+-----------------+--------------+---------------+---------------+
//
// The index is never larger than what is on disk in the log: it is written after the log's fsync, and lowered, with
// an fsync, before a truncation. It may be smaller after a power cut, because it is synced once a second only. Stable
// is the number of the last write of a term or vote, by the same rule.
const (
	durableName  = "durable"
	durableMagic = "SHDI"
	slotBytes    = 32
	slotAt       = 512
	durableSync  = time.Second
)

// Sequences of the slots that Create writes. A file whose store was opened once has larger ones.
const createdSeq = 1

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type slot struct{ seq, index, stable uint64 }

func (s slot) encode() []byte {
	b := append(make([]byte, 0, slotBytes), durableMagic...)
	b = binary.BigEndian.AppendUint64(b, s.seq)
	b = binary.BigEndian.AppendUint64(b, s.index)
	b = binary.BigEndian.AppendUint64(b, s.stable)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeSlot(b []byte) (slot, bool) {
	if len(b) != slotBytes || string(b[:4]) != durableMagic ||
		crc32.Checksum(b[:slotBytes-4], castagnoli) != binary.BigEndian.Uint32(b[slotBytes-4:]) {
		return slot{}, false
	}
	return slot{
		seq: binary.BigEndian.Uint64(b[4:]), index: binary.BigEndian.Uint64(b[12:]), stable: binary.BigEndian.Uint64(b[20:]),
	}, true
}

// encodeDurable returns a whole file: s is in one slot, and nothing in the other.
func encodeDurable(s slot) []byte {
	b := make([]byte, slotAt+slotBytes)
	copy(b[s.seq%2*slotAt:], s.encode())
	copy(b[(s.seq+1)%2*slotAt:], slot{seq: s.seq - 1}.encode())
	return b
}

// decodeDurable returns the slot that counts.
func decodeDurable(b []byte) (best slot, ok bool) {
	for at := 0; at+slotBytes <= len(b) && at <= slotAt; at += slotAt {
		if s, valid := decodeSlot(b[at : at+slotBytes]); valid && (!ok || s.seq > best.seq) {
			best, ok = s, true
		}
	}
	return best, ok
}

// durableFile is safe for concurrent use.
type durableFile struct {
	path string

	mu     ioMutex // guards what follows
	f      types.WritableFile
	slot   slot
	synced time.Time
}

func createDurable(path string) error {
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		return errors.Join(fmt.Errorf("create %s: %w", path, os.ErrExist), err)
	}
	return disk.WriteFile(path, encodeDurable(slot{seq: createdSeq}), 0o640)
}

func openDurable(d Disk, path string) (*durableFile, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, corrupt(path, 0, err)
	}
	s, ok := decodeDurable(b)
	if !ok {
		return nil, &CorruptError{File: path, Reason: "no slot is valid"}
	}
	f, err := d.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, corrupt(path, 0, err)
	}
	return &durableFile{path: path, mu: newIOMutex(), f: f, slot: s, synced: time.Now()}, nil
}

func (d *durableFile) get() slot {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.slot
}

// opened says whether the store's own files must be there.
func (d *durableFile) opened() bool { return d.get().seq > createdSeq }

// markOpened notes, on disk, that the store's own files are there.
func (d *durableFile) markOpened() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.slot.seq > createdSeq {
		return nil
	}
	return errors.Join(d.writeLocked(d.slot.index, d.slot.stable), d.f.Sync())
}

func (d *durableFile) writeLocked(index, stable uint64) error {
	d.slot = slot{seq: d.slot.seq + 1, index: index, stable: stable}
	_, err := d.f.WriteAt(d.slot.encode(), int64(d.slot.seq%2)*slotAt)
	return err
}

// advance notes that the log is durable up to index.
func (d *durableFile) advance(index uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.writeLocked(index, d.slot.stable); err != nil {
		return err
	}
	if now := time.Now(); now.Sub(d.synced) >= durableSync {
		d.synced = now
		return d.f.Sync()
	}
	return nil
}

// nextStable returns the number for the next write of a term or vote.
func (d *durableFile) nextStable() uint64 { return d.get().stable + 1 }

// advanceStable notes that the write with this number is durable.
func (d *durableFile) advanceStable(number uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.writeLocked(d.slot.index, max(d.slot.stable, number))
}

// lower notes, before a truncation, that the log will end at index. Both slots change, so that a damaged one can't
// bring the old index back.
func (d *durableFile) lower(index uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.writeLocked(index, d.slot.stable), d.writeLocked(index, d.slot.stable), d.f.Sync())
}

// settle makes the file exact after a check of the store: it may be behind.
func (d *durableFile) settle(index, stable uint64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if index == d.slot.index && stable == d.slot.stable {
		return nil
	}
	return errors.Join(d.writeLocked(index, stable), d.f.Sync())
}

func (d *durableFile) close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return errors.Join(d.f.Sync(), d.f.Close())
}

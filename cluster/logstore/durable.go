package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"time"
)

// The durable index (docs/format/durable-index.md) is a file of two slots, at 0 and 512, written in turn; the valid
// one with the larger sequence counts. A slot, big endian:
//
//	+-----------+-----------------+--------------+------------------+
//	| "SHDI"    | sequence uint64 | index uint64 | CRC32C uint32    |
//	+-----------+-----------------+--------------+------------------+
//
// The index is never larger than what is on disk in the log: it is written after the log's fsync, and lowered, with
// an fsync, before a truncation. It may be smaller after a power cut, because it is synced once a second only.
const (
	durableName  = "durable"
	durableMagic = "SHDI"
	slotBytes    = 24
	slotAt       = 512
	durableSync  = time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type durableFile struct {
	f      *os.File
	seq    uint64
	index  uint64
	synced time.Time
}

func createDurable(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	buf := make([]byte, slotAt+slotBytes)
	copy(buf, encodeSlot(1, 0))
	copy(buf[slotAt:], encodeSlot(0, 0))
	_, err = f.Write(buf)
	return errors.Join(err, f.Sync(), f.Close())
}

func encodeSlot(seq, index uint64) []byte {
	b := append(make([]byte, 0, slotBytes), durableMagic...)
	b = binary.BigEndian.AppendUint64(b, seq)
	b = binary.BigEndian.AppendUint64(b, index)
	return binary.BigEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeSlot(b []byte) (seq, index uint64, ok bool) {
	if len(b) != slotBytes || string(b[:4]) != durableMagic ||
		crc32.Checksum(b[:slotBytes-4], castagnoli) != binary.BigEndian.Uint32(b[slotBytes-4:]) {
		return 0, 0, false
	}
	return binary.BigEndian.Uint64(b[4:]), binary.BigEndian.Uint64(b[12:]), true
}

func openDurable(path string) (*durableFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, &CorruptError{File: path, Reason: "the file is missing"}
	}
	if err != nil {
		return nil, err
	}
	d := &durableFile{f: f, synced: time.Now()}
	found := false
	for _, at := range []int64{0, slotAt} {
		buf := make([]byte, slotBytes)
		if _, err := f.ReadAt(buf, at); err != nil {
			continue // shorter than it was made: the other slot decides
		}
		if seq, index, ok := decodeSlot(buf); ok && (!found || seq > d.seq) {
			d.seq, d.index, found = seq, index, true
		}
	}
	if !found {
		return nil, errors.Join(&CorruptError{File: path, Reason: "no slot is valid"}, f.Close())
	}
	return d, nil
}

func (d *durableFile) write(index uint64) error {
	d.seq++
	d.index = index
	_, err := d.f.WriteAt(encodeSlot(d.seq, index), int64(d.seq%2)*slotAt)
	return err
}

// advance notes that the log is durable up to index.
func (d *durableFile) advance(index uint64) error {
	if err := d.write(index); err != nil {
		return err
	}
	if now := time.Now(); now.Sub(d.synced) >= durableSync {
		d.synced = now
		return d.f.Sync()
	}
	return nil
}

// lower notes, before a truncation, that the log will end at index. Both slots change, so that a torn one can't bring
// the old index back.
func (d *durableFile) lower(index uint64) error {
	if err := d.write(index); err != nil {
		return err
	}
	if err := d.write(index); err != nil {
		return err
	}
	if err := d.f.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", d.f.Name(), err)
	}
	return nil
}

func (d *durableFile) close() error { return errors.Join(d.f.Sync(), d.f.Close()) }

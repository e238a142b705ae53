package logstore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// A stored term or vote is its value, the number of the write (uint64) and a CRC32C over key, value and number, big
// endian (docs/format/log-entry-crc.md).
const stableTail = 8 + crcBytes

// The keys under which hashicorp/raft keeps term and vote.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
)

// Set implements raft.StableStore. A failure ends the node. Of a term that can't be saved Raft is not told: the library
// panics at the error, and takes the process with it before the node has ended in order. It can do nothing with the term,
// since behind a failed write neither a vote nor an entry is saved, and what is not saved is not answered with yes.
func (s *Store) Set(key, val []byte) error {
	err := s.set(key, val)
	if err != nil && s.failure.Load() != nil && bytes.Equal(key, keyCurrentTerm) {
		return nil
	}
	return err
}

func (s *Store) set(key, val []byte) error {
	s.stableMu.Lock()
	defer s.stableMu.Unlock()
	if err := s.usable(); err != nil {
		return err
	}
	number := s.durable.nextStable()
	sealed := binary.BigEndian.AppendUint64(append([]byte(nil), val...), number)
	sealed = binary.BigEndian.AppendUint32(sealed, stableCRC(key, sealed))
	if err := s.inner.Set(key, sealed); err != nil {
		return s.failedWrite(fmt.Sprintf("write %s to %s", key, s.stableFile), err)
	}
	if err := s.durable.advanceStable(number); err != nil {
		return s.failedWrite("write "+s.durable.path, err)
	}
	return nil
}

// Get implements raft.StableStore; a key that was never set has the value nil. A value that fails its CRC ends the node.
func (s *Store) Get(key []byte) ([]byte, error) {
	val, _, err := s.value(key)
	if err != nil {
		return nil, s.failedRead(err)
	}
	return val, nil
}

// value returns a stored value and the number of its write.
func (s *Store) value(key []byte) (val []byte, number uint64, err error) {
	sealed, err := s.inner.Get(key)
	if errors.Is(err, errKeyNotFound) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, corrupt(s.stableFile, 0, err)
	}
	if sealed == nil {
		return nil, 0, nil
	}
	n := len(sealed) - stableTail
	if n < 0 || stableCRC(key, sealed[:n+8]) != binary.BigEndian.Uint32(sealed[n+8:]) {
		return nil, 0, &CorruptError{File: s.stableFile, Reason: fmt.Sprintf("%s fails its CRC", key)}
	}
	return sealed[:n:n], binary.BigEndian.Uint64(sealed[n:]), nil
}

// SetUint64 implements raft.StableStore.
func (s *Store) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	val, _, err := s.number(key)
	if err != nil {
		return 0, s.failedRead(err)
	}
	return val, nil
}

// number returns a stored number, 0 where there is none.
func (s *Store) number(key []byte) (val, write uint64, err error) {
	b, write, err := s.value(key)
	switch {
	case err != nil:
		return 0, 0, err
	case len(b) == 0:
		return 0, write, nil
	case len(b) != 8:
		return 0, 0, &CorruptError{File: s.stableFile, Reason: fmt.Sprintf("%s is no number", key)}
	}
	return binary.BigEndian.Uint64(b), write, nil
}

func stableCRC(key, val []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, val)
}

// verifyStable checks that term and vote are whole, that no write of them is lost, and that the term is not older than
// what the log or a snapshot has. It returns the number of the last write.
func (s *Store) verifyStable(leastTerm uint64) (last uint64, err error) {
	term, last, err := s.number(keyCurrentTerm)
	if err != nil {
		return 0, err
	}
	voteTerm, write, err := s.number(keyLastVoteTerm)
	if err != nil {
		return 0, err
	}
	last = max(last, write)
	candidate, write, err := s.value(keyLastVoteCand)
	if err != nil {
		return 0, err
	}
	last = max(last, write)
	if candidate != nil && voteTerm == 0 {
		return 0, &CorruptError{File: s.stableFile, Reason: "the term of the last vote is missing"}
	}
	if known := s.durable.get().stable; last < known {
		return 0, &CorruptError{File: s.stableFile, Reason: fmt.Sprintf("the last write of term and vote is number %d, but number %d was on disk", last, known)}
	}
	if least := max(leastTerm, voteTerm); term < least {
		return 0, &CorruptError{File: s.stableFile, Reason: fmt.Sprintf("the term is %d, but the log, a snapshot or the vote has term %d", term, least)}
	}
	return last, nil
}

package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Set implements raft.StableStore. A failure ends the node.
func (s *Store) Set(key, val []byte) error {
	sealed := binary.BigEndian.AppendUint32(append([]byte(nil), val...), stableCRC(key, val))
	if err := s.inner.Set(key, sealed); err != nil {
		return s.failedWrite(fmt.Sprintf("write %s", key), err)
	}
	return nil
}

// Get implements raft.StableStore. A value that fails its CRC ends the node.
func (s *Store) Get(key []byte) ([]byte, error) {
	val, err := s.value(key)
	if errors.Is(err, ErrCorrupt) {
		return nil, s.fatal(err)
	}
	return val, err
}

// value returns a stored value, or a *CorruptError.
func (s *Store) value(key []byte) ([]byte, error) {
	sealed, err := s.inner.Get(key)
	if err != nil || len(sealed) == 0 {
		return sealed, err
	}
	n := len(sealed) - crcBytes
	if n < 0 || stableCRC(key, sealed[:n]) != binary.BigEndian.Uint32(sealed[n:]) {
		return nil, &CorruptError{File: s.cfg.Dir, Reason: fmt.Sprintf("%s fails its CRC", key)}
	}
	return sealed[:n], nil
}

// SetUint64 implements raft.StableStore.
func (s *Store) SetUint64(key []byte, val uint64) error {
	return s.Set(key, binary.BigEndian.AppendUint64(nil, val))
}

// GetUint64 implements raft.StableStore.
func (s *Store) GetUint64(key []byte) (uint64, error) {
	val, err := s.Get(key)
	if err != nil || len(val) == 0 {
		return 0, err
	}
	if len(val) != 8 {
		return 0, s.fatal(&CorruptError{File: s.cfg.Dir, Reason: fmt.Sprintf("%s is no number", key)})
	}
	return binary.BigEndian.Uint64(val), nil
}

func stableCRC(key, val []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, val)
}

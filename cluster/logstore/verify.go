package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/hashicorp/raft"
)

// The keys under which hashicorp/raft keeps term and vote.
var (
	keyCurrentTerm  = []byte("CurrentTerm")
	keyLastVoteTerm = []byte("LastVoteTerm")
	keyLastVoteCand = []byte("LastVoteCand")
)

// Verify reads the whole log before Raft does: every CRC, no hole, no end missing behind the durable index, no gap to
// the newest snapshot, and a term that fits. It must be called once, after opening. snapshotIndex is 0 without one.
func (s *Store) Verify(snapshotIndex uint64) error {
	first, err := s.inner.FirstIndex()
	if err != nil {
		return &CorruptError{File: s.cfg.Dir, Reason: err.Error()}
	}
	last, err := s.inner.LastIndex()
	if err != nil {
		return &CorruptError{File: s.cfg.Dir, Reason: err.Error()}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if last < s.durable.index && s.durable.index > snapshotIndex {
		return &CorruptError{File: s.cfg.Dir, Index: last, Reason: fmt.Sprintf("the log ends here, but was on disk up to index %d", s.durable.index)}
	}
	if last == 0 {
		return nil
	}
	if first > snapshotIndex+1 {
		return &CorruptError{File: s.cfg.Dir, Index: first, Reason: fmt.Sprintf("the log begins here, but the newest snapshot ends at index %d", snapshotIndex)}
	}
	var l raft.Log
	for index := first; index <= last; index++ {
		if err := s.read(index, &l); err != nil {
			return &CorruptError{File: s.cfg.Dir, Index: index, Reason: err.Error()}
		}
		s.sizes.add(index, logBytes(&l))
	}
	s.first, s.last = first, last
	return s.verifyTerm(l.Term)
}

// verifyTerm checks that term and vote are readable and not older than the log.
func (s *Store) verifyTerm(least uint64) error {
	for _, key := range [][]byte{keyLastVoteTerm, keyLastVoteCand} {
		if _, err := s.value(key); errors.Is(err, ErrCorrupt) {
			return err
		}
	}
	val, err := s.value(keyCurrentTerm)
	if errors.Is(err, ErrCorrupt) {
		return err
	}
	var term uint64
	if len(val) == 8 {
		term = binary.BigEndian.Uint64(val)
	}
	if term < least {
		return &CorruptError{File: s.cfg.Dir, Reason: fmt.Sprintf("the term is %d, an entry has term %d", term, least)}
	}
	return nil
}

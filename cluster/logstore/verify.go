package logstore

import "fmt"

// Verify checks everything before Raft starts: the CRC of every entry, no hole, terms that do not go down, no end
// missing behind the durable index, no gap to the newest snapshot, and term and vote that fit. It must be called once,
// after opening. snapshotIndex and snapshotTerm are 0 without a snapshot.
//
// A log that the snapshot replaces, because it ends before it or disagrees with it, is deleted: a crash between the
// installation of a snapshot and the deletion of the log leaves it.
func (s *Store) Verify(snapshotIndex, snapshotTerm uint64) error {
	return guard(s.stableFile, func() error { return s.verify(snapshotIndex, snapshotTerm) })
}

func (s *Store) verify(snapshotIndex, snapshotTerm uint64) error {
	first, err := s.inner.FirstIndex()
	if err != nil {
		return corrupt(s.stableFile, 0, err)
	}
	last, err := s.inner.LastIndex()
	if err != nil {
		return corrupt(s.stableFile, 0, err)
	}
	if known := s.durable.get().index; last < known && known > snapshotIndex {
		return &CorruptError{File: s.inner.file(last), Index: last + 1, Reason: fmt.Sprintf("the log ends before it, but was on disk up to index %d", known)}
	}
	if last > 0 && first > snapshotIndex+1 {
		return &CorruptError{File: s.inner.file(first), Index: first, Reason: fmt.Sprintf("the log begins here, but the newest snapshot ends at index %d", snapshotIndex)}
	}
	term, agrees, err := s.load(first, last, snapshotIndex, snapshotTerm)
	if err != nil {
		return err
	}
	stable, err := s.verifyStable(max(term, snapshotTerm))
	if err != nil {
		return err
	}
	if err := s.durable.settle(last, stable); err != nil {
		return s.failedWrite("write "+s.durable.path, err)
	}
	if last > 0 && (last < snapshotIndex || !agrees) {
		return s.DeleteRange(first, last)
	}
	return nil
}

// load visits the whole log. It returns the last term, and whether the log agrees with the snapshot.
func (s *Store) load(first, last, snapshotIndex, snapshotTerm uint64) (term uint64, agrees bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	agrees = true
	if last == 0 {
		return 0, true, nil
	}
	err = s.inner.visit(first, last, func(index, t uint64, bytes int) error {
		if t < term {
			return &CorruptError{File: s.inner.file(index), Index: index, Reason: fmt.Sprintf("the entry has term %d, the one before it has %d", t, term)}
		}
		if index == snapshotIndex && t != snapshotTerm {
			agrees = false
		}
		term = t
		s.sizes.add(index, bytes)
		return nil
	})
	if err != nil {
		return 0, false, err
	}
	s.first, s.last = first, last
	return term, agrees, nil
}

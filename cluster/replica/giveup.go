package replica

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/streamhouse/streamhouse/cluster/logstore"
	"github.com/streamhouse/streamhouse/internal/disk"
)

// condemnedName is a file that says that a replica's files are damaged although their checksums fit, and why.
const condemnedName = "condemned"

// GiveUp notes that this replica, which is damaged, is about to be given up; others see it in GivingUp and stay. Then
// decide asks the others, so that of two replicas that begin at the same time at most one goes. Its error, which GiveUp
// returns, says that the replica stays for now. Another call waits for the end of the first, and does nothing once it was
// decided.
func (r *Replica) GiveUp(decide func() error) error {
	r.giveUpMu.Lock()
	defer r.giveUpMu.Unlock()
	if r.GivingUp() {
		return nil
	}
	r.givingUp.Store(true)
	err := decide()
	if err != nil {
		r.givingUp.Store(false)
	}
	return err
}

// GivingUp reports whether this replica is about to be given up, so that no other one of its group may be.
func (r *Replica) GivingUp() bool { return r.givingUp.Load() }

// Condemn marks the replica's files as damaged, for good: Open refuses them with a *logstore.CorruptError that has the
// reason, as it does where a checksum fails. The running replica is not touched.
func (r *Replica) Condemn(reason string) error {
	path := filepath.Join(r.cfg.Dir, condemnedName)
	if err := disk.WriteFile(path, []byte(reason), 0o600); err != nil {
		return fmt.Errorf("condemn replica %s: %w", r.cfg.ID, err)
	}
	return nil
}

// condemned returns a *logstore.CorruptError where the replica in dir was condemned.
func condemned(dir string) error {
	path := filepath.Join(dir, condemnedName)
	reason, err := os.ReadFile(path)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	}
	return &logstore.CorruptError{File: path, Reason: string(reason)}
}

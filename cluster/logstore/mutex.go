package logstore

// ioMutex is a mutex that is held over I/O. Waiting for a channel counts as blocked on the virtual clock of a simulation
// (testing/synctest), which could not go on otherwise while a disk takes its time; waiting for a sync.Mutex does not.
type ioMutex chan struct{}

func newIOMutex() ioMutex { return make(ioMutex, 1) }

// Lock waits for its turn.
func (m ioMutex) Lock() { m <- struct{}{} }

// Unlock lets the next one in.
func (m ioMutex) Unlock() { <-m }

package metadata

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/fsm"
)

var (
	_ raft.FSM         = (*adapter)(nil)
	_ raft.FSMSnapshot = (*snapshot)(nil)
)

// adapter puts the pure state machine behind raft.FSM. Raft calls Apply,
// Snapshot and Restore from one goroutine; View and Watch are for everybody.
type adapter struct {
	state  *fsm.State // only Raft's FSM goroutine
	failed error      // only Raft's FSM goroutine; set for good after a command that this binary does not know
	fatal  func(error)

	view atomic.Pointer[fsm.View]

	mu      sync.Mutex
	changed chan struct{} // guarded by mu; closed at the next change
}

func newAdapter(fatal func(error)) *adapter {
	a := &adapter{state: fsm.New(), fatal: fatal, changed: make(chan struct{})}
	a.view.Store(a.state.View())
	return a
}

// Apply applies one committed command. It returns a *metav1.Result or an error.
// A command that this binary does not know stops the node: to skip it would
// make this replica differ from the others.
func (a *adapter) Apply(l *raft.Log) any {
	if a.failed != nil {
		return a.failed
	}
	var cmd metav1.Command
	err := proto.Unmarshal(l.Data, &cmd)
	if err != nil {
		return a.fail(fmt.Errorf("metadata log entry %d does not decode: %w", l.Index, err))
	}
	res, err := a.state.Apply(l.Index, &cmd)
	if err != nil {
		return a.fail(fmt.Errorf("metadata log entry %d: %w (a newer version of streamhouse wrote it: upgrade this node)", l.Index, err))
	}
	a.publish()
	return res
}

func (a *adapter) fail(err error) error {
	a.failed = err
	a.fatal(err)
	return err
}

func (a *adapter) publish() {
	a.view.Store(a.state.View())
	a.mu.Lock()
	defer a.mu.Unlock()
	close(a.changed)
	a.changed = make(chan struct{})
}

// watch returns a channel that is closed at the next change of the view.
func (a *adapter) watch() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.changed
}

// Snapshot returns a handle of the state as it is now; nothing is copied.
func (a *adapter) Snapshot() (raft.FSMSnapshot, error) {
	if a.failed != nil {
		return nil, a.failed
	}
	return &snapshot{view: a.state.View()}, nil
}

// Restore replaces the state by a snapshot.
func (a *adapter) Restore(rc io.ReadCloser) error {
	defer func() { _ = rc.Close() }() // Nothing was written.
	if err := a.state.Restore(rc); err != nil {
		return fmt.Errorf("restore metadata snapshot: %w", err)
	}
	a.publish()
	return nil
}

// snapshot streams an immutable view.
type snapshot struct{ view *fsm.View }

// Persist writes the view to sink and closes it, or cancels it.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := fsm.WriteSnapshot(s.view, sink); err != nil {
		if cerr := sink.Cancel(); cerr != nil {
			return fmt.Errorf("write metadata snapshot: %w (and cancel: %w)", err, cerr)
		}
		return fmt.Errorf("write metadata snapshot: %w", err)
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("close metadata snapshot: %w", err)
	}
	return nil
}

// Release has nothing to release: the view is garbage collected.
func (s *snapshot) Release() {}

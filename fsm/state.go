package fsm

import (
	"fmt"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// State is the state machine. Its methods are for one goroutine; the Views it
// gives out are for everybody.
type State struct {
	view *View
}

// New returns the state before the first command.
func New() *State { return &State{view: emptyView()} }

// View returns the state as it is now. It costs nothing.
func (s *State) View() *View { return s.view }

// Apply applies the command at index. A refused command is a Result with a
// Rejection and has changed nothing. The error is ErrUnknownCommand, upon which
// the node must stop; nothing has changed then either.
func (s *State) Apply(index uint64, cmd *metav1.Command) (*metav1.Result, error) {
	next := *s.view
	next.index = index
	tx := &txn{View: &next, result: &metav1.Result{}}
	rejection, err := tx.apply(cmd)
	if err != nil {
		return nil, err
	}
	if rejection != nil {
		// What was done before the refusal is in next alone.
		unchanged := *s.view
		unchanged.index = index
		s.view = &unchanged
		return &metav1.Result{Rejection: rejection.proto()}, nil
	}
	s.view = &next
	return tx.result, nil
}

// txn builds the next View out of the last.
//
// Only the newest View's slices of segments are ever appended to, and only
// behind their ends, where no older View looks.
type txn struct {
	*View
	result *metav1.Result
}

func (tx *txn) apply(cmd *metav1.Command) (*Rejection, error) {
	if c, ok := cmd.GetCommand().(*metav1.Command_InitCluster); ok {
		return tx.initCluster(c.InitCluster), nil
	}
	var f func() *Rejection
	switch c := cmd.GetCommand().(type) {
	case *metav1.Command_RegisterNode:
		f = func() *Rejection { return tx.registerNode(c.RegisterNode) }
	case *metav1.Command_SetNodeState:
		f = func() *Rejection { return tx.setNodeState(c.SetNodeState) }
	case *metav1.Command_RemoveNode:
		f = func() *Rejection { return tx.removeNode(c.RemoveNode) }
	case *metav1.Command_CreateShard:
		f = func() *Rejection { return tx.createShard(c.CreateShard) }
	case *metav1.Command_SetShardReplicas:
		f = func() *Rejection { return tx.setShardReplicas(c.SetShardReplicas) }
	case *metav1.Command_NoteReplica:
		f = func() *Rejection { return tx.noteReplica(c.NoteReplica) }
	case *metav1.Command_CreateTopic:
		f = func() *Rejection { return tx.createTopic(c.CreateTopic) }
	case *metav1.Command_AlterTopic:
		f = func() *Rejection { return tx.alterTopic(c.AlterTopic) }
	case *metav1.Command_DeleteTopic:
		f = func() *Rejection { return tx.deleteTopic(c.DeleteTopic) }
	case *metav1.Command_PurgeTopic:
		f = func() *Rejection { return tx.purgeTopic(c.PurgeTopic) }
	case *metav1.Command_CommitSegments:
		f = func() *Rejection { return tx.commitSegments(c.CommitSegments) }
	case *metav1.Command_ReplaceSegments:
		f = func() *Rejection { return tx.replaceSegments(c.ReplaceSegments) }
	case *metav1.Command_TrimPartition:
		f = func() *Rejection { return tx.trimPartition(c.TrimPartition) }
	case *metav1.Command_DropObjects:
		f = func() *Rejection { return tx.dropObjects(c.DropObjects) }
	case *metav1.Command_ForgetObjects:
		f = func() *Rejection { return tx.forgetObjects(c.ForgetObjects) }
	case *metav1.Command_AllocateProducerIds:
		f = func() *Rejection { return tx.allocateProducerIDs(c.AllocateProducerIds) }
	case *metav1.Command_SetFeatureLevel:
		f = func() *Rejection { return tx.setFeatureLevel(c.SetFeatureLevel) }
	default:
		return nil, fmt.Errorf("%w: %T", ErrUnknownCommand, c)
	}
	if tx.clusterID == "" { // whoever begins it leads already, and its first command is on its way
		return reject(streamhousev1.ErrorReason_ERROR_REASON_NO_LEADER, "the cluster is not begun yet"), nil
	}
	return f(), nil
}

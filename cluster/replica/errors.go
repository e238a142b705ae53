package replica

import (
	"errors"

	"github.com/hashicorp/raft"
)

var (
	// ErrClosed says that the replica is closed. Nothing was done.
	ErrClosed = errors.New("replica is closed")
	// ErrMissing says that the replica's files are not there.
	ErrMissing = errors.New("files of the replica are missing")
	// ErrNotLeader says that the call works on the group's leader only. Nothing was done.
	ErrNotLeader = errors.New("not the leader of the group")
	// ErrStale says that the group's configuration is not the one that the change was decided on. Nothing was done.
	ErrStale = errors.New("the group's configuration has changed")
	// ErrNoServer says that the group does not have such a replica.
	ErrNoServer = errors.New("the group does not have this replica")
	// ErrNoSuccessor says that there is no other voter to hand leadership to.
	ErrNoSuccessor = errors.New("no other voter can lead")
)

// NotAppended tells errors of raft.Raft.Apply and of changes of the configuration that say that surely nothing was
// appended. After any other the outcome is unknown.
func NotAppended(err error) bool {
	return errors.Is(err, raft.ErrNotLeader) || errors.Is(err, raft.ErrLeadershipTransferInProgress) || errors.Is(err, raft.ErrEnqueueTimeout)
}

package group

import "errors"

var (
	// ErrUnknownMember says that the group has no such member: it never joined, has left, or its session has ended. It
	// may join again with epoch 0, and owns nothing.
	ErrUnknownMember = errors.New("the group has no such member")
	// ErrFencedEpoch says that the member's epoch is not the one that the group has for it. It must drop what it owns and
	// join again with epoch 0.
	ErrFencedEpoch = errors.New("the member's epoch is stale")
	// ErrInstanceInUse says that another live member has this instance id.
	ErrInstanceInUse = errors.New("another live member has this instance id")
	// ErrNotOwned says that a member commits for a partition that it does not own.
	ErrNotOwned = errors.New("the member does not own the partition")
	// ErrStaleCommit says that a newer commit of the member was stored before. Nothing has changed.
	ErrStaleCommit = errors.New("a newer commit of the member was stored before")
	// ErrFull says that the group has maxMembers.
	ErrFull = errors.New("the group has as many members as it may")
	// ErrNotEmpty says that the group has members, and the operation wants that it has none.
	ErrNotEmpty = errors.New("the group has members")
)

// Package replica is one replica of one Raft group: its files, what must be true of them before it may vote, the Raft
// instance, and the calls that change the group's membership. The metadata group and the shards are built on it.
package replica

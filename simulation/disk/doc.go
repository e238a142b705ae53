// Package disk is a logstore.Disk that knows what was synced, so that a crash can take from the files what was not, and
// that fails, fills up and crawls when it is told to. The files are real ones; the delays are on the clock of the
// caller's bubble (testing/synctest).
//
// A sync that fails costs what it was for, as it does in a kernel: to try it again makes nothing safe.
//
// Covered are raft-wal's segments and the stores' durable index, write by write. A transaction of bbolt is taken as
// atomic: the disk delays or fails it as a whole, before. Snapshots and node.json are written around the disk: a crash
// finds them as they are at that instant, which is between two virtual instants, never within a call.
package disk

// Package logstore keeps a Raft replica's log, term and vote, over raft-wal or raft-boltdb, and adds what those lack:
// a CRC32C for every entry, checked on every read; a side file with the last durable index, so that a log that lost
// its end is known; memory bounded in bytes for the newest entries; and the node's end after a failed write, since
// what a disk has after a failed fsync nobody knows.
package logstore

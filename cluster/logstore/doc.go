// Package logstore keeps a Raft replica's log, term and vote, over raft-wal or raft-boltdb, and adds what those lack.
//
//   - A CRC32C for every entry (docs/format/log-entry-crc.md), checked on every read from disk and, before Raft starts,
//     over the whole log.
//   - A side file (docs/format/durable-index.md) with the last durable index, so that a log that lost its end is known,
//     and not taken for one whose last write was torn.
//   - Memory for the newest entries, bounded in bytes.
//   - The node's end after a failed write, since nobody knows what a disk has after a failed fsync.
//   - What raft-wal leaves undone: a segment that was full when the node stopped, and one that was cut at its end, can't
//     be used by raft-wal after a restart; here they can (wal.go, segment.go).
package logstore

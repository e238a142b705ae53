// Package shard is the log itself: one hashicorp/raft group that replicates the batches of many partitions.
//
// The state machine (state) is pure: entries in, results out, the same on every replica. Around it stand the Raft
// adapter (fsm), the proposer that coalesces what waits into entries, the reader (tail memory, then the local Raft
// log), the uploader that moves committed batches to the object store, and the checkpoint that lets the local log be cut.
// DESIGN.md tells how they fit together.
package shard

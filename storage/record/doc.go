// Package record reads and builds Kafka record batches v2, the unit of storage and of the wire.
//
// A [Batch] is a view over the bytes of one whole batch; nothing is copied until records are decompressed. [Parse] and
// [Split] check lengths and CRC32C and so make views out of bytes that came from outside. [Batch.Check] walks the
// records too: it is what a node does once with a batch before it is stored. [Batch.All] iterates over the records.
// [Builder] makes batches.
//
// The base offset and the partition leader epoch are not under the batch's CRC32C, as in Kafka: a broker gives a batch
// its offset without touching the rest.
//
// Only batches with dense offsets are known: record i has the offset base+i. The format is described in
// docs/format/record-batch.md.
package record

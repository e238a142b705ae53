// Package record reads and writes Kafka record batches v2 (KIP-98), the one format of records in StreamHouse: on the
// wire, in the Raft log, and in objects.
package record

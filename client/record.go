package client

import (
	"fmt"
	"strconv"
	"time"

	"github.com/streamhouse/streamhouse/storage/record"
)

// Header is a name and a value that travel with a record. Names may repeat; a nil value is null.
type Header = record.Header

// Record is one record. A nil key or value is null, which is not the same as empty.
type Record struct {
	// Topic to write to, or read from: [a-zA-Z0-9._-]{1,249}.
	Topic string
	// Partition that it was written to or read from. A producer looks at it only with the Manual partitioner.
	Partition int32
	// Offset in the partition, once it is known; -1 where a node has stored the record long ago and forgotten where.
	Offset int64
	// Timestamp in milliseconds. The zero time is the time at which a producer takes the record.
	Timestamp time.Time
	// Key chooses the partition, with the default Partitioner; nil for none.
	Key []byte
	// Value is what the record says; nil is null.
	Value []byte
	// Headers travel with the record, in order.
	Headers []Header

	// ownership tells apart the times for which a consumer owned the partition.
	ownership uint64
}

// TopicPartition names a partition.
type TopicPartition struct {
	// Topic is the topic's name.
	Topic string
	// Partition is its number, from 0.
	Partition int32
}

// String returns topic and number, such as "events/3".
func (tp TopicPartition) String() string { return tp.Topic + "/" + strconv.Itoa(int(tp.Partition)) }

// Compression is how a producer compresses batches.
type Compression string

// Compressions.
const (
	// CompressionNone leaves batches as they are; it is the default.
	CompressionNone Compression = "none"
	// CompressionSnappy costs least CPU.
	CompressionSnappy Compression = "snappy"
	// CompressionLZ4 compresses about as well as snappy.
	CompressionLZ4 Compression = "lz4"
	// CompressionZstd compresses best.
	CompressionZstd Compression = "zstd"
)

var compressions = map[Compression]record.Compression{
	"": record.None, CompressionNone: record.None, CompressionSnappy: record.Snappy, CompressionLZ4: record.LZ4, CompressionZstd: record.Zstd,
}

// Acks says when a record is acknowledged.
type Acks string

// Acks.
const (
	// AcksQuorum: on disk on a majority of the shard's replicas, in milliseconds. It is the default.
	AcksQuorum Acks = "quorum"
	// AcksDurable: in the object store, too, within about half a second.
	AcksDurable Acks = "durable"
)

// payloadBytes counts what a record carries.
func (r *Record) payloadBytes() int {
	n := len(r.Key) + len(r.Value)
	for i := range r.Headers {
		n += len(r.Headers[i].Key) + len(r.Headers[i].Value)
	}
	return n
}

// Partitioner chooses the partition of a record, from 0 to partitions-1. Unassigned leaves it to the producer, which
// fills one batch after the other, each in another partition, one with few batches to write. It is called by concurrent
// calls of Produce.
type Partitioner func(r *Record, partitions int32) int32

// Unassigned is the answer of a Partitioner that leaves the choice to the producer.
const Unassigned = int32(-1)

// ByKey puts records of one key into one partition, chosen by murmur2 as in Kafka's clients, and leaves records without
// a key to the producer. It is the default.
func ByKey(r *Record, partitions int32) int32 {
	if r.Key == nil {
		return Unassigned
	}
	return record.PartitionForKey(r.Key, partitions)
}

// Manual takes Record.Partition.
func Manual(r *Record, _ int32) int32 { return r.Partition }

func badPartition(tp TopicPartition, partitions int) error {
	return &PartitionError{tp, fmt.Errorf("%w: the topic has partitions 0 to %d", ErrPartitionNotFound, partitions-1)}
}

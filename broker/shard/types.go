package shard

import (
	"context"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/fsm"
	"github.com/streamhouse/streamhouse/storage/record"
)

// AppendBatch is one record batch for one partition of the shard.
type AppendBatch struct {
	PartitionID uint64
	// Topic is counted in the metrics.
	Topic string
	// Data is a whole batch whose CRC was checked. The shard only reads it, and only until Append returns.
	Data record.Batch
	// PayloadBytes are the bytes of keys, values and headers.
	PayloadBytes int64
}

// AppendResult says what became of one batch.
type AppendResult struct {
	// Reason is unspecified when the batch is stored.
	Reason streamhousev1.ErrorReason
	// BaseOffset is the offset of the batch's first record.
	BaseOffset int64
	// Duplicate is set when an earlier try had stored the batch.
	Duplicate bool
	// ExpectedSequence is what OUT_OF_ORDER_SEQUENCE wants instead.
	ExpectedSequence int32
}

// GroupOffset is the next offset that a consumer group wants of a partition.
type GroupOffset struct {
	PartitionID uint64
	Offset      int64
	// Metadata is free text of the committer.
	Metadata string
}

// Metadata is what a shard needs of the metadata group. *metadata.Group is one. Safe for concurrent use.
type Metadata interface {
	// View returns the state that this node has applied. It never blocks.
	View() *fsm.View
	// Barrier returns once View has all that was committed before the call, or with the context's error.
	Barrier(ctx context.Context) error
	// Propose applies a command, wherever the leader is. An error other than *fsm.Rejection leaves the outcome unknown.
	Propose(ctx context.Context, cmd *metav1.Command) (*metav1.Result, error)
}

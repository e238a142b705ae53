package shard

import (
	"context"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// After a recovery from the object store no shard remembers what producers have written, and the records may be there: a
// producer that sends its first batch again would have it stored twice. So ids that were given out before the recovery are
// refused as unknown for good, and InitProducer gives their owners new ones.

// former reports whether a batch is of a producer whose id was given out before the recovery.
func former(b AppendBatch, firstProducerID int64) bool {
	id := b.Data.ProducerID()
	return id >= 0 && id < firstProducerID
}

// appendWithoutFormer does what appendChecked does with batches of which some are of producers from before the recovery; each
// of those gets UNKNOWN_PRODUCER.
func (s *Shard) appendWithoutFormer(ctx context.Context, began time.Duration, batches []AppendBatch, durable bool, firstProducerID int64) (wait func(context.Context) ([]AppendResult, error), err error) {
	results := make([]AppendResult, len(batches))
	var taken []AppendBatch
	var at []int // of taken in results
	for i, b := range batches {
		if former(b, firstProducerID) {
			results[i].Reason = streamhousev1.ErrorReason_ERROR_REASON_UNKNOWN_PRODUCER
			continue
		}
		taken, at = append(taken, b), append(at, i)
	}
	if len(taken) == 0 {
		return func(context.Context) ([]AppendResult, error) { return results, nil }, nil
	}
	waitTaken, err := s.appendChecked(ctx, began, taken, durable)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) ([]AppendResult, error) {
		of, err := waitTaken(ctx)
		if err != nil {
			return nil, err
		}
		for i, r := range of {
			results[at[i]] = r
		}
		return results, nil
	}, nil
}

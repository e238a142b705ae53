package client

import "context"

// Position returns the offset that Poll returns next of a partition; -1 while it is not known yet. It fails with
// ErrNotOwned for a partition that the consumer does not read.
func (r *Consumer) Position(tp TopicPartition) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.ownedLocked(tp)
	if err != nil {
		return unknown, err
	}
	return p.position, nil
}

// Lag returns how many records of a partition Poll has not returned yet, as of the last read; -1 while that is not known.
// It fails with ErrNotOwned for a partition that the consumer does not read.
func (r *Consumer) Lag(tp TopicPartition) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.ownedLocked(tp)
	if err != nil {
		return unknown, err
	}
	if p.position == unknown || p.highWatermark == unknown {
		return unknown, nil
	}
	return max(p.highWatermark-p.position, 0), nil
}

func (r *Consumer) ownedLocked(tp TopicPartition) (*partition, error) {
	p := r.partitions[tp]
	if p == nil {
		return nil, r.notOwnedLocked(tp)
	}
	return p, nil
}

// Pause makes Poll leave these partitions out, and stops reading ahead of them. What was read ahead is dropped, and read
// again after Resume, so that it takes no room from others. A partition that the consumer does not read fails with
// ErrNotOwned; then none is paused.
func (r *Consumer) Pause(tps ...TopicPartition) error { return r.setPaused(true, tps) }

// Resume undoes Pause.
func (r *Consumer) Resume(tps ...TopicPartition) error { return r.setPaused(false, tps) }

func (r *Consumer) setPaused(paused bool, tps []TopicPartition) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, tp := range tps {
		if _, err := r.ownedLocked(tp); err != nil {
			return err
		}
	}
	for _, tp := range tps {
		p := r.partitions[tp]
		if paused && !p.paused {
			r.clearLocked(p)
		}
		p.paused = paused
		p.notify()
	}
	r.notify()
	return nil
}

// Seek makes Poll go on at an offset, 0 or more. One outside of the log is taken as Reset says, once it is read. Seek
// fails with ErrNotOwned for a partition that the consumer does not read.
func (r *Consumer) Seek(tp TopicPartition, offset int64) error {
	if offset < 0 {
		return invalid("offset", "%d is below 0", offset)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	p, err := r.ownedLocked(tp)
	if err != nil {
		return err
	}
	r.seekLocked(p, offset)
	return nil
}

// SeekTo makes Poll go on at a position of these partitions: LogStart, LogEnd or AtTime.
func (r *Consumer) SeekTo(ctx context.Context, at Position, tps ...TopicPartition) error {
	for _, tp := range tps {
		offsets, err := r.c.listOffsets(ctx, tp.Topic, at, tp.Partition)
		if err != nil {
			return err
		}
		if err := r.Seek(tp, offsets[tp.Partition]); err != nil {
			return err
		}
	}
	return nil
}

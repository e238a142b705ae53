package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// produceResult is what -o json prints: the names do not change.
type produceResult struct {
	Topic          string                   `json:"topic"`
	Records        int64                    `json:"records"`
	Bytes          int64                    `json:"bytes"`
	Seconds        float64                  `json:"seconds"`
	Unacknowledged int                      `json:"unacknowledged"`
	Partitions     []producePartitionResult `json:"partitions"`
}

type producePartitionResult struct {
	Partition   int32 `json:"partition"`
	Records     int64 `json:"records"`
	FirstOffset int64 `json:"first_offset"`
	LastOffset  int64 `json:"last_offset"`
}

// tally counts what became of records. Its methods are safe for concurrent use.
type tally struct {
	progress *output.Progress
	// stop is called when a record has failed: nothing more is to be written.
	stop context.CancelFunc

	handing sync.Mutex // held while a record is handed over; before mu
	closed  bool       // guarded by handing

	mu     sync.Mutex
	result produceResult
	byPart map[int32]*producePartitionResult
	// unclear counts records that may have been written without an acknowledgement.
	unclear int
	ended   bool
	// failed is the error of the first record that failed, first and last the lines that failed of it.
	failed      error
	first, last int64
}

func newTally(topic string) *tally {
	return &tally{byPart: make(map[int32]*producePartitionResult), result: produceResult{Topic: topic}, stop: func() {}}
}

// hand hands a record over, unless the tally is closed, and counts it if it was taken.
func (t *tally) hand(line int64, produce func(client.Promise) error) error {
	t.handing.Lock()
	defer t.handing.Unlock()
	if t.closed {
		return client.ErrClosed
	}
	if err := produce(func(r *client.Record, err error) { t.told(line, r, err) }); err != nil {
		return fmt.Errorf("line %d: %w", line, err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Unacknowledged++
	return nil
}

// close waits for a record that is being handed over, and lets no other follow.
func (t *tally) close() {
	t.handing.Lock()
	defer t.handing.Unlock()
	t.closed = true
}

func (t *tally) told(line int64, r *client.Record, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err != nil {
		t.failLocked(line, err)
		return
	}
	t.result.Unacknowledged--
	t.result.Records++
	t.result.Bytes += int64(len(r.Key) + len(r.Value))
	p := t.byPart[r.Partition]
	if p == nil {
		p = &producePartitionResult{Partition: r.Partition, FirstOffset: r.Offset, LastOffset: r.Offset}
		t.byPart[r.Partition] = p
	}
	p.Records++
	if r.Offset >= 0 {
		p.LastOffset = r.Offset
		if p.FirstOffset < 0 {
			p.FirstOffset = r.Offset
		}
	}
	if t.progress != nil {
		t.progress.Draw(time.Now(), t.result.Bytes, t.result.Records)
	}
}

func (t *tally) failLocked(line int64, err error) {
	if errors.Is(err, client.ErrOutcomeUnknown) {
		t.unclear++
	}
	switch {
	case t.failed == nil && !t.ended:
		t.failed, t.first, t.last = err, line, line
		t.stop()
	case t.failed != nil && errors.Is(err, t.failed):
		t.last = max(t.last, line)
	}
}

// end says that what is told from now on is not why the command ended.
func (t *tally) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.ended = true
}

// failure names the lines that failed first, nil where none did.
func (t *tally) failure() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.failed == nil:
		return nil
	case t.first == t.last:
		return fmt.Errorf("line %d: %w", t.first, t.failed)
	default:
		return fmt.Errorf("lines %d to %d: %w", t.first, t.last, t.failed)
	}
}

func (t *tally) sum() produceResult {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.result
	r.Partitions = []producePartitionResult{}
	for _, p := range slices.Sorted(maps.Keys(t.byPart)) {
		r.Partitions = append(r.Partitions, *t.byPart[p])
	}
	return r
}

package consumer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

const (
	// pollWait is how long a node waits for a first record.
	pollWait = 5 * time.Second
	// pollTimeout is when a node that does not answer is given up.
	pollTimeout = pollWait + 10*time.Second
	// pollBytes bounds one answer.
	pollBytes = 4 << 20
	// Forever is an end that is never reached.
	Forever = int64(-1)
	// WhereItEnds is an end that is not known: the first answer without records is there.
	WhereItEnds = int64(-2)
)

// Config says what is read. A partition is read by one call of Read.
type Config struct {
	Pool      *remote.Pool
	Topic     string
	Group     string
	Partition int32
	// Offset is the first offset that is wanted.
	Offset int64
	// End is the offset to stop before, or Forever, or WhereItEnds.
	End int64
	// SkipGone goes on at the log start offset where Offset is below it.
	SkipGone bool
	// Timeout is how long to go on while no node answers.
	Timeout time.Duration
	// Limit returns how many more records are wanted at most; 0 means any number.
	Limit func() int32
	// Deliver takes records in order, each once. An error ends Read.
	Deliver func([]*streamhousev1.ConsumedRecord) error
	// Warn takes a line for people.
	Warn func(string)
}

// Read delivers the records from Offset to End. It returns nil at End, else
// the error of Deliver, of the context, or of the last try.
func Read(ctx context.Context, cfg Config) error {
	offset, lastAnswer := cfg.Offset, time.Now()
	var answer error // the last that came from a node, or else from nobody
	for tries := 0; cfg.End < 0 || offset < cfg.End; {
		node := cfg.Pool.Node()
		resp, err := poll(ctx, cfg, node, offset)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			if start, ok := goneUntil(err, offset); ok && cfg.SkipGone {
				cfg.Warn(fmt.Sprintf("partition %d: records %d to %d are gone, reading on at %d", cfg.Partition, offset, start-1, start))
				offset = start
				continue
			}
			if !remote.Retryable(err, remote.Idempotent) {
				return err
			}
			if answer == nil || isAnswer(err) {
				answer = err
			}
			if time.Since(lastAnswer) > cfg.Timeout {
				return answer
			}
			cfg.Pool.Failed(node, err)
			if err := remote.Wait(ctx, remote.Backoff(tries)); err != nil {
				return err
			}
			tries++
			continue
		}
		tries, lastAnswer, answer = 0, time.Now(), nil
		cfg.Pool.Worked()
		if cfg.End == WhereItEnds && len(resp.GetRecords()) == 0 {
			return nil
		}
		records := until(resp.GetRecords(), cfg.End)
		if err := cfg.Deliver(records); err != nil {
			return err
		}
		offset = max(offset, resp.GetNextOffset())
	}
	return nil
}

// isAnswer is true where a node said why.
func isAnswer(err error) bool {
	e, ok := errors.AsType[*remote.Error](err)
	return ok && e.Reason != 0
}

func poll(ctx context.Context, cfg Config, node *remote.Node, offset int64) (*streamhousev1.ConsumeResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	return streamhousev1.NewStreamHouseServiceClient(node.Conn()).Consume(ctx, &streamhousev1.ConsumeRequest{
		Topic:      cfg.Topic,
		Partition:  cfg.Partition,
		Offset:     offset,
		MaxWait:    durationpb.New(pollWait),
		MaxBytes:   pollBytes,
		MaxRecords: cfg.Limit(),
		Group:      cfg.Group,
	})
}

// goneUntil returns the log start offset where err says that offset is below it.
func goneUntil(err error, offset int64) (int64, bool) {
	e, ok := errors.AsType[*remote.Error](err)
	if !ok || e.Reason != streamhousev1.ErrorReason_ERROR_REASON_OFFSET_OUT_OF_RANGE {
		return 0, false
	}
	start, perr := strconv.ParseInt(e.Metadata["log_start_offset"], 10, 64)
	return start, perr == nil && start > offset
}

// until cuts off what is at end or behind it.
func until(records []*streamhousev1.ConsumedRecord, end int64) []*streamhousev1.ConsumedRecord {
	if end < 0 {
		return records
	}
	for len(records) > 0 && records[len(records)-1].GetOffset() >= end {
		records = records[:len(records)-1]
	}
	return records
}

// Committer commits the offsets of one group and topic. It is not safe for
// concurrent use.
type Committer struct {
	Pool  *remote.Pool
	Topic string
	Group string

	dirty map[int32]int64
	last  time.Time
}

// commitEvery is the time between two commits while records come.
const commitEvery = time.Second

// Note says that all of a partition below next has been delivered.
func (c *Committer) Note(partition int32, next int64) {
	if c.dirty == nil {
		c.dirty = make(map[int32]int64)
	}
	c.dirty[partition] = next
}

// CommitSome commits, unless there is nothing new or the last commit was just now.
func (c *Committer) CommitSome(ctx context.Context) error {
	if time.Since(c.last) < commitEvery {
		return nil
	}
	return c.Commit(ctx)
}

// Commit commits what is new.
func (c *Committer) Commit(ctx context.Context) error {
	if c.Group == "" || len(c.dirty) == 0 {
		return nil
	}
	req := &streamhousev1.CommitOffsetRequest{Group: c.Group, Topic: c.Topic}
	for p, next := range c.dirty {
		req.Offsets = append(req.Offsets, &streamhousev1.CommittedOffset{Partition: p, Offset: next})
	}
	_, err := remote.Call(ctx, c.Pool, remote.Idempotent, func(ctx context.Context, cc grpc.ClientConnInterface) (*streamhousev1.CommitOffsetResponse, error) {
		return streamhousev1.NewStreamHouseServiceClient(cc).CommitOffset(ctx, req)
	})
	if err != nil {
		return fmt.Errorf("commit the offsets of group %s: %w", c.Group, err)
	}
	clear(c.dirty)
	c.last = time.Now()
	return nil
}

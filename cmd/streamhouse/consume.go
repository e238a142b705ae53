package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/consumer"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/remote"
)

// maxFollowed bounds the calls that wait at the ends of partitions.
const maxFollowed = 1024

// errEnough ends reading when --max records are written.
var errEnough = errors.New("enough records")

type consumeFlags struct {
	client
	group, from string
	partition   int32
	limit       int64
	follow      bool
}

func (a *app) consumeCommand() *cobra.Command {
	var f consumeFlags
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Read records of a topic",
		Long: `Read records of a topic, from all partitions or one.

Without --follow it ends where the topic ended when it began. With -o value (the
default) each record's value is written as a line, and nothing else.`,
		Example: `  streamhouse consume events
  streamhouse consume events --from 2026-01-31T12:00:00Z -o json
  streamhouse consume events --group billing --follow`,
		Args: exactly("TOPIC"),
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			j, err := f.job(cmd, args[0])
			if err != nil {
				return err
			}
			return a.consume(ctx, j)
		}),
	}
	f.flags(cmd, output.Value, time.Minute, "give up when no node answers for this long")
	fl := cmd.Flags()
	fl.StringVar(&f.group, "group", "", "consumer group: begin where it has committed, and commit what is written")
	fl.Int32Var(&f.partition, "partition", 0, "read this partition alone (default: all)")
	fl.StringVar(&f.from, "from", "", "beginning, end, an `OFFSET`, or a time such as 2026-01-31T12:00:00Z (default: what the group has committed, else beginning)")
	fl.Int64Var(&f.limit, "max", 0, "end after so many records (default: no limit)")
	fl.BoolVar(&f.follow, "follow", false, "wait for more at the end, until interrupted")
	return cmd
}

// position is where reading begins: one of the fields.
type position struct {
	committed, earliest, latest bool
	offset, timestampMs         *int64
}

// parsePosition reads the value of a flag; "" is what the group has committed.
func parsePosition(flag, s string) (position, error) {
	switch s {
	case "":
		return position{committed: true}, nil
	case "beginning":
		return position{earliest: true}, nil
	case "end":
		return position{latest: true}, nil
	}
	if n, err := strconv.ParseInt(s, 10, 64); err == nil && n >= 0 {
		return position{offset: &n}, nil
	}
	if t, err := time.Parse(time.RFC3339, s); err == nil {
		ms := t.UnixMilli()
		return position{timestampMs: &ms}, nil
	}
	return position{}, fmt.Errorf("%s %q: must be beginning, end, an offset, or a time such as 2026-01-31T12:00:00Z", flag, s)
}

// consumeJob is a checked command line.
type consumeJob struct {
	client *client
	topic  string
	group  string
	fixed  *int32
	from   position
	limit  int64
	follow bool
}

func (f *consumeFlags) job(cmd *cobra.Command, topic string) (*consumeJob, error) {
	from, err := parsePosition("--from", f.from)
	if err != nil {
		return nil, err
	}
	j := &consumeJob{client: &f.client, topic: topic, group: f.group, from: from, limit: f.limit, follow: f.follow}
	if f.limit < 0 || (f.limit == 0 && cmd.Flags().Changed("max")) {
		return nil, fmt.Errorf("--max %d: must be 1 or more", f.limit)
	}
	if cmd.Flags().Changed("partition") {
		j.fixed = &f.partition
	}
	return j, nil
}

func (a *app) consume(ctx context.Context, j *consumeJob) error {
	pool, err := j.client.open(a)
	if err != nil {
		return err
	}
	defer func() { _ = pool.Close() }() // all calls have returned

	first, cancel := context.WithTimeout(ctx, j.client.timeout)
	defer cancel()
	spans, err := j.spans(first, pool, a.say)
	if err != nil {
		return err
	}
	s := &sink{
		job: j, warn: a.say, out: bufio.NewWriterSize(a.stdout, 256<<10), encode: encoderFor(j.client.format, j.topic),
		commits: consumer.Committer{Pool: pool, Topic: j.topic, Group: j.group},
	}
	if err := s.begin(); err != nil {
		return err
	}
	err = s.readAll(ctx, pool, spans)
	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), commitTimeout)
	defer cancelLast()
	if cerr := s.commits.Commit(last); cerr != nil {
		err = errors.Join(err, cerr)
	}
	if errors.Is(err, errEnough) || (j.follow && errors.Is(err, context.Canceled) && ctx.Err() != nil) {
		return nil // what was asked for is done
	}
	return err
}

// commitTimeout bounds the last commit, also after an interrupt.
const commitTimeout = 5 * time.Second

// span is what is read of one partition.
type span struct {
	partition   int32
	offset, end int64
}

// spans asks where to begin and end in each partition.
func (j *consumeJob) spans(ctx context.Context, pool *remote.Pool, say func(string, ...any)) ([]span, error) {
	t, err := getTopic(ctx, pool, j.topic)
	if err != nil {
		return nil, err
	}
	var parts []int32
	for _, p := range t.GetPartitions() {
		if j.fixed == nil || *j.fixed == p.GetPartition() {
			parts = append(parts, p.GetPartition())
		}
	}
	switch {
	case len(parts) == 0:
		return nil, fmt.Errorf("topic %s has no partition %d: it has 0 to %d", j.topic, *j.fixed, len(t.GetPartitions())-1)
	case j.from.offset != nil && len(parts) > 1:
		return nil, fmt.Errorf("--from %d: topic %s has %d partitions, so give --partition, too", *j.from.offset, j.topic, len(parts))
	case j.follow && len(parts) > maxFollowed:
		return nil, fmt.Errorf("--follow: topic %s has %d partitions, of which at most %d can be followed at once: give --partition", j.topic, len(parts), maxFollowed)
	}
	begins, err := j.begins(ctx, pool, parts)
	if err != nil {
		return nil, err
	}
	ends, err := j.ends(ctx, pool, parts, say)
	if err != nil {
		return nil, err
	}
	out := make([]span, 0, len(parts))
	for _, p := range parts {
		end := ends[p]
		if j.from.offset != nil && end >= 0 && begins[p] > end {
			return nil, fmt.Errorf("--from %d: partition %d ends at %d", begins[p], p, end)
		}
		out = append(out, span{p, begins[p], end})
	}
	return out, nil
}

// endsTimeout is how long to wait for leaders, which know the ends; what others have can be read without.
const endsTimeout = 10 * time.Second

// ends returns where to stop in each partition.
func (j *consumeJob) ends(ctx context.Context, pool *remote.Pool, parts []int32, say func(string, ...any)) (map[int32]int64, error) {
	same := func(end int64) map[int32]int64 {
		m := make(map[int32]int64)
		for _, p := range parts {
			m[p] = end
		}
		return m
	}
	if j.follow {
		return same(consumer.Forever), nil
	}
	limited, cancel := context.WithTimeout(ctx, min(endsTimeout, j.client.timeout/2))
	defer cancel()
	ends, err := listOffsets(limited, pool, &streamhousev1.ListOffsetsRequest{Topic: j.topic, Partitions: parts, Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true}})
	if err != nil && ctx.Err() == nil && remote.Retryable(err, remote.Idempotent) {
		say("the end is not known, reading what there is: %v", err)
		return same(consumer.WhereItEnds), nil
	}
	return ends, err
}

// begins returns the first offset to read of each partition.
func (j *consumeJob) begins(ctx context.Context, pool *remote.Pool, parts []int32) (map[int32]int64, error) {
	req := &streamhousev1.ListOffsetsRequest{Topic: j.topic, Partitions: parts, Position: &streamhousev1.ListOffsetsRequest_Earliest{Earliest: true}}
	switch {
	case j.from.offset != nil:
		return map[int32]int64{parts[0]: *j.from.offset}, nil
	case j.from.latest:
		req.Position = &streamhousev1.ListOffsetsRequest_Latest{Latest: true}
	case j.from.timestampMs != nil:
		req.Position = &streamhousev1.ListOffsetsRequest_TimestampMs{TimestampMs: *j.from.timestampMs}
	}
	begins, err := listOffsets(ctx, pool, req)
	if err != nil || !j.from.committed || j.group == "" {
		return begins, err
	}
	resp, err := topics(ctx, pool, remote.Idempotent, func(ctx context.Context, s streamhousev1.StreamHouseServiceClient) (*streamhousev1.GetOffsetResponse, error) {
		return s.GetOffset(ctx, &streamhousev1.GetOffsetRequest{Group: j.group, Topic: j.topic, Partitions: parts})
	})
	if err != nil {
		return nil, err
	}
	for _, o := range resp.GetOffsets() {
		begins[o.GetPartition()] = o.GetOffset()
	}
	return begins, nil
}

// sink writes records and notes how far it has come.
type sink struct {
	job    *consumeJob
	warn   func(format string, args ...any)
	encode encoder

	mu      sync.Mutex
	out     *bufio.Writer
	written int64
	commits consumer.Committer
}

func (s *sink) begin() error {
	if s.encode.head == "" {
		return nil
	}
	if _, err := s.out.WriteString(s.encode.head); err != nil {
		return err
	}
	return s.out.Flush()
}

// readAll reads the partitions one after the other, or all at once where it follows them.
func (s *sink) readAll(ctx context.Context, pool *remote.Pool, spans []span) error {
	if !s.job.follow {
		for _, sp := range spans {
			if err := s.read(ctx, pool, sp); err != nil {
				return err
			}
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	for _, sp := range spans {
		g.Go(func() error { return s.read(ctx, pool, sp) })
	}
	return g.Wait()
}

func (s *sink) read(ctx context.Context, pool *remote.Pool, sp span) error {
	return consumer.Read(ctx, consumer.Config{
		Pool: pool, Topic: s.job.topic, Group: s.job.group, Partition: sp.partition,
		Offset: sp.offset, End: sp.end, SkipGone: s.job.from.offset == nil, Timeout: s.job.client.timeout,
		Limit:   s.remaining,
		Deliver: func(rs []*streamhousev1.ConsumedRecord) error { return s.deliver(ctx, sp.partition, rs) },
		Warn:    func(text string) { s.warn("%s", text) },
	})
}

// remaining returns how many records are still wanted, 0 for any number.
func (s *sink) remaining() int32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job.limit == 0 {
		return 0
	}
	return int32(min(s.job.limit-s.written, 1<<30))
}

func (s *sink) deliver(ctx context.Context, partition int32, records []*streamhousev1.ConsumedRecord) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.job.limit > 0 {
		if s.written >= s.job.limit {
			return errEnough // another partition had the last one
		}
		records = records[:min(int64(len(records)), s.job.limit-s.written)]
	}
	for _, r := range records {
		if err := s.encode.record(s.out, partition, r); err != nil {
			return fmt.Errorf("write: %w", err)
		}
	}
	if err := s.out.Flush(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	if len(records) > 0 {
		s.written += int64(len(records))
		s.commits.Note(partition, records[len(records)-1].GetOffset()+1)
	}
	if s.job.limit > 0 && s.written == s.job.limit {
		return errEnough
	}
	return s.commits.CommitSome(ctx)
}

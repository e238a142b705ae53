package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/producer"
	"github.com/streamhouse/streamhouse/storage/record"
)

// produceFlags are the flags of produce.
type produceFlags struct {
	client
	key, separator, acks, file string
	partition                  int32
}

func (a *app) produceCommand() *cobra.Command {
	var f produceFlags
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Write lines to a topic",
		Long: `Write lines to a topic, each line as one record.

Lines come from stdin or a file and end with LF; all other bytes are kept. A last
line without LF is marked by a header, streamhouse.unended-line, so that "consume
-o value" gives the file back byte for byte. Records are written under a producer
id, so that a retry never stores one twice.`,
		Example: `  streamhouse produce events --file app.log
  echo 'user-7:signed in' | streamhouse produce events --key-separator :`,
		Args: exactly("TOPIC"),
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			job, err := f.job(cmd, args[0])
			if err != nil {
				return err
			}
			return a.produce(ctx, job)
		}),
	}
	f.flags(cmd, output.Table, 2*time.Minute, "give up on a batch that is not acknowledged for this long")
	fl := cmd.Flags()
	fl.StringVar(&f.key, "key", "", "key of all records; may be empty, which is not the same as none")
	fl.StringVar(&f.separator, "key-separator", "", "`text` between a line's key and its value; every line must have it")
	fl.Int32Var(&f.partition, "partition", 0, "partition of all records (default: chosen by the key, else spread)")
	fl.StringVar(&f.acks, "acks", "quorum", "when a write is acknowledged: `quorum` (on disk on a majority) or durable (in the object store)")
	fl.StringVar(&f.file, "file", "-", "file to read; - is stdin")
	cmd.MarkFlagsMutuallyExclusive("key", "key-separator")
	return cmd
}

// produceJob is a checked command line.
type produceJob struct {
	client *client
	topic  string
	acks   streamhousev1.Acks
	keying keying
	fixed  *int32
	file   string
}

func (f *produceFlags) job(cmd *cobra.Command, topic string) (*produceJob, error) {
	j := &produceJob{client: &f.client, topic: topic, file: f.file, keying: keying{separator: f.separator}}
	switch f.acks {
	case "quorum":
		j.acks = streamhousev1.Acks_ACKS_QUORUM
	case "durable":
		j.acks = streamhousev1.Acks_ACKS_DURABLE
	default:
		return nil, fmt.Errorf("--acks %q: must be quorum or durable", f.acks)
	}
	if cmd.Flags().Changed("key") {
		j.keying.key = &f.key
	}
	if cmd.Flags().Changed("key-separator") && f.separator == "" {
		return nil, errors.New("--key-separator: must not be empty")
	}
	if cmd.Flags().Changed("partition") {
		j.fixed = &f.partition
	}
	return j, nil
}

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

// tally counts acknowledgements. Safe for concurrent use.
type tally struct {
	progress *output.Progress

	mu     sync.Mutex
	result produceResult
	byPart map[int32]*producePartitionResult
}

func (t *tally) ack(a producer.Ack) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.result.Records += int64(a.Records)
	t.result.Bytes += a.Bytes
	p := t.byPart[a.Partition]
	if p == nil {
		p = &producePartitionResult{Partition: a.Partition, FirstOffset: a.BaseOffset, LastOffset: a.BaseOffset}
		t.byPart[a.Partition] = p
	}
	p.Records += int64(a.Records)
	if a.BaseOffset >= 0 {
		p.LastOffset = a.BaseOffset + int64(a.Records) - 1
		if p.FirstOffset < 0 {
			p.FirstOffset = a.BaseOffset
		}
	}
	t.progress.Draw(time.Now(), t.result.Bytes, t.result.Records)
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

func (a *app) produce(ctx context.Context, job *produceJob) error {
	in, err := a.openInput(job.file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	pool, err := job.client.open(a)
	if err != nil {
		return err
	}
	defer func() { _ = pool.Close() }() // all calls have returned

	first, cancel := context.WithTimeout(ctx, job.client.timeout)
	defer cancel()
	t, err := getTopic(first, pool, job.topic)
	if err != nil {
		return err
	}
	counts := &tally{byPart: make(map[int32]*producePartitionResult), result: produceResult{Topic: job.topic}}
	if output.IsTerminal(a.stderr) && !output.IsTerminal(in.Reader) {
		counts.progress = output.NewProgress(a.stderr, in.size, time.Now())
	}
	began := time.Now()
	p, err := producer.Open(first, producer.Config{Pool: pool, Topic: job.topic, Acks: job.acks, Timeout: job.client.timeout, OnAck: counts.ack})
	if err != nil {
		return err
	}
	lines := newLineReader(in)
	lines.eager = in.size == 0
	err = pump(ctx, p, lines, job.keying, newBatcher(int32(len(t.GetPartitions())), job.fixed, record.PartitionForKey))
	counts.progress.Clear()

	r := counts.sum()
	r.Seconds, r.Unacknowledged = time.Since(began).Seconds(), p.Pending()
	return errors.Join(err, a.reportProduce(job.client.format, r))
}

// input is what produce reads; size is 0 where it is not known.
type input struct {
	io.Reader
	size int64
}

// Close closes a file.
func (in input) Close() error {
	if f, ok := in.Reader.(*os.File); ok && f != os.Stdin {
		return f.Close()
	}
	return nil
}

func (a *app) openInput(path string) (input, error) {
	in := input{Reader: a.stdin}
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return input{}, fmt.Errorf("--file: %w", err)
		}
		in.Reader = f
	}
	f, ok := in.Reader.(*os.File)
	if !ok {
		return in, nil
	}
	st, err := f.Stat()
	if err == nil && st.IsDir() {
		err = fmt.Errorf("%s is a directory", path)
	}
	if err != nil {
		return input{}, errors.Join(fmt.Errorf("--file: %w", err), in.Close())
	}
	if st.Mode().IsRegular() {
		in.size = st.Size()
	}
	return in, nil
}

// pump sends all lines and waits for their acknowledgement. The goroutine that
// reads is left behind when it hangs in a read that nothing can end.
func pump(ctx context.Context, p *producer.Producer, lines *lineReader, k keying, b *batcher) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read := make(chan error, 1)
	go func() {
		err := sendLines(ctx, p, lines, k, b)
		if err == nil || !errors.Is(err, context.Canceled) {
			p.Finish() // what came before a bad line is written
		}
		read <- err
	}()
	if err := p.Run(ctx); err != nil {
		return err
	}
	return <-read
}

func sendLines(ctx context.Context, p *producer.Producer, lines *lineReader, k keying, b *batcher) error {
	for {
		line, err := lines.next()
		var r *streamhousev1.Record
		if err == nil {
			r, err = k.record(line, lines.number, time.Now())
		}
		if err == nil && lines.unended {
			markUnended(r)
		}
		if err != nil {
			for _, rest := range b.rest() {
				if serr := p.Send(ctx, rest); serr != nil {
					return serr
				}
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		full, ok := b.add(r, lines.number)
		if ok {
			if err := p.Send(ctx, full); err != nil {
				return err
			}
		}
		if lines.hasMore() {
			continue
		}
		// Whoever types, or writes slowly into a pipe, does not wait for a full batch.
		for _, rest := range b.rest() {
			if err := p.Send(ctx, rest); err != nil {
				return err
			}
		}
	}
}

func (a *app) reportProduce(f output.Format, r produceResult) error {
	var parts []string
	for _, p := range r.Partitions {
		if p.FirstOffset >= 0 {
			parts = append(parts, fmt.Sprintf("partition %d: offsets %d to %d", p.Partition, p.FirstOffset, p.LastOffset))
		}
	}
	where := ""
	if len(parts) > 0 && len(parts) <= 4 {
		where = "; " + strings.Join(parts, ", ")
	} else if len(parts) > 4 {
		where = fmt.Sprintf("; %d partitions", len(parts))
	}
	secs := max(r.Seconds, 1e-6)
	a.say("produced %d records (%s) to %s in %.2f s: %.0f records/s, %s/s%s", r.Records, output.Bytes(r.Bytes), r.Topic,
		r.Seconds, float64(r.Records)/secs, output.Bytes(int64(float64(r.Bytes)/secs)), where)
	if r.Unacknowledged > 0 {
		a.say("%d records were not acknowledged: they may have been written or not", r.Unacknowledged)
	}
	if f == output.JSON {
		return output.WriteJSON(a.stdout, r)
	}
	return nil
}

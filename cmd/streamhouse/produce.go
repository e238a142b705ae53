package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// produceFlags are the flags of produce.
type produceFlags struct {
	connection

	key, separator, acks, file string
	partition, create          int32
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
  seq 1000 | streamhouse produce events --create 3
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
	f.flags(cmd, output.Table, 2*time.Minute, "give up on a record that is not acknowledged for this long")
	fl := cmd.Flags()
	fl.StringVar(&f.key, "key", "", "key of all records; may be empty, which is not the same as none")
	fl.StringVar(&f.separator, "key-separator", "", "`text` between a line's key and its value; every line must have it")
	fl.Int32Var(&f.partition, "partition", 0, "partition of all records (default: chosen by the key, else spread)")
	fl.Int32Var(&f.create, "create", 0, "create the topic with this many `partitions` where it does not exist (default: fail)")
	fl.StringVar(&f.acks, "acks", "quorum", "when a write is acknowledged: `quorum` (on disk on a majority) or durable (in the object store)")
	fl.StringVar(&f.file, "file", "-", "file to read; - is stdin")
	cmd.MarkFlagsMutuallyExclusive("key", "key-separator")
	return cmd
}

// produceJob is a checked command line.
type produceJob struct {
	conn   *connection
	topic  string
	acks   client.Acks
	keying keying
	fixed  *int32
	create int32
	file   string
}

func (f *produceFlags) job(cmd *cobra.Command, topic string) (*produceJob, error) {
	j := &produceJob{conn: &f.connection, topic: topic, file: f.file, create: f.create, acks: client.Acks(f.acks), keying: keying{separator: f.separator}}
	if j.acks != client.AcksQuorum && j.acks != client.AcksDurable {
		return nil, usagef("--acks %q: must be quorum or durable", f.acks)
	}
	if cmd.Flags().Changed("key") {
		j.keying.key = &f.key
	}
	if cmd.Flags().Changed("key-separator") && f.separator == "" {
		return nil, usagef("--key-separator: must not be empty")
	}
	if cmd.Flags().Changed("create") && f.create < 1 {
		return nil, usagef("--create %d: must be 1 or more", f.create)
	}
	if cmd.Flags().Changed("partition") {
		j.fixed = &f.partition
	}
	return j, nil
}

// producerConfig says how the client is to write.
func (j *produceJob) producerConfig() client.ProducerConfig {
	cfg := client.ProducerConfig{Acks: j.acks, DeliveryTimeout: j.conn.timeout}
	if j.fixed != nil {
		cfg.Partitioner = client.Manual
	}
	return cfg
}

func (a *app) produce(ctx context.Context, job *produceJob) error {
	in, err := a.openInput(job.file)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // it was only read
	cl, err := job.conn.open(a)
	if err != nil {
		return err
	}
	defer func() { _ = cl.Close() }() // all calls have returned
	if err := a.checkProduce(ctx, job, client.NewAdmin(cl)); err != nil {
		return err
	}
	p, err := client.NewProducer(cl, job.producerConfig())
	if err != nil {
		return err
	}
	t := newTally(job.topic)
	if output.IsTerminal(a.stderr) && !output.IsTerminal(in.Reader) {
		t.progress = output.NewProgress(a.stderr, in.size, time.Now())
	}
	began := time.Now()
	err = job.pump(ctx, p, newLineReader(in), t)
	t.progress.Clear()
	r := t.sum()
	r.Seconds = time.Since(began).Seconds()
	return errors.Join(err, a.reportProduce(job.conn.format, r, t.unclear))
}

// checkProduce looks for the topic and the partition.
func (a *app) checkProduce(ctx context.Context, j *produceJob, admin *client.Admin) error {
	ctx, cancel := context.WithTimeout(ctx, j.conn.timeout)
	defer cancel()
	n, err := a.topicOrCreate(ctx, admin, j.topic, j.create)
	if err != nil {
		return err
	}
	if j.fixed != nil && (*j.fixed < 0 || int(*j.fixed) >= n) {
		return noPartition(j.topic, *j.fixed, n)
	}
	return nil
}

func noPartition(topic string, number int32, partitions int) error {
	return fmt.Errorf("topic %s has no partition %d: it has 0 to %d", topic, number, partitions-1)
}

// pump sends all lines and waits until each is acknowledged, or one has failed, or ctx ends. The goroutine that reads is
// left behind when it hangs in a read that nothing can end; the producer takes nothing more from it.
func (j *produceJob) pump(ctx context.Context, p *client.Producer, lines *lineReader, t *tally) error {
	work, stop := context.WithCancel(ctx)
	defer stop()
	t.stop = stop
	read := make(chan error, 1)
	go func() { read <- j.sendLines(work, p, lines, t) }()
	var err error
	select {
	case err = <-read:
		if work.Err() == nil { // what came before a bad line is written
			_ = p.Flush(work) // the tally knows what failed
		}
	case <-work.Done():
	}
	t.end()
	done, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cancel()
	_ = p.Close(done) // the tally knows what is left
	t.close()
	if failure := t.failure(); failure != nil {
		return failure
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// sendLines hands lines over until the input ends.
func (j *produceJob) sendLines(ctx context.Context, p *client.Producer, lines *lineReader, t *tally) error {
	for {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		r, err := j.keying.record(line, lines.number)
		if err != nil {
			return err
		}
		if lines.unended {
			markUnended(r)
		}
		r.Topic = j.topic
		if j.fixed != nil {
			r.Partition = *j.fixed
		}
		err = t.hand(lines.number, func(promise client.Promise) error { return p.Produce(ctx, r, promise) })
		if err != nil {
			return err
		}
	}
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

func (a *app) reportProduce(f output.Format, r produceResult, unclear int) error {
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
	if r.Unacknowledged > 0 && unclear == 0 {
		a.say("%d records were not acknowledged, and are not written", r.Unacknowledged)
	} else if r.Unacknowledged > 0 {
		a.say("%d records were not acknowledged: they may have been written or not", r.Unacknowledged)
	}
	if f == output.JSON {
		return output.WriteJSON(a.stdout, r)
	}
	return nil
}

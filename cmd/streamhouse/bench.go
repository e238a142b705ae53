package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/bench"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// benchJSON is what -o json prints: the names do not change.
type benchJSON struct {
	Topic      string          `json:"topic"`
	Partitions int             `json:"partitions"`
	Tests      []benchTestJSON `json:"tests"`
}

type benchTestJSON struct {
	// Test is produce, consume or e2e.
	Test             string           `json:"test"`
	Records          int64            `json:"records"`
	Bytes            int64            `json:"bytes"`
	Seconds          float64          `json:"seconds"`
	RecordsPerSecond float64          `json:"records_per_second"`
	BytesPerSecond   float64          `json:"bytes_per_second"`
	LatencyMs        benchLatencyJSON `json:"latency_ms"`
}

type benchLatencyJSON struct {
	P50 float64 `json:"p50"`
	P95 float64 `json:"p95"`
	P99 float64 `json:"p99"`
	Max float64 `json:"max"`
}

// benchFlags are the flags of all tests; a test has those that make sense for it.
type benchFlags struct {
	connection

	load              bench.Load
	partitions        int32
	compression, acks string
}

const (
	benchDuration = 10 * time.Second
	e2eRate       = 1000
)

func (a *app) benchCommand() *cobra.Command {
	return group("bench", "Measure throughput and latency with real load",
		`Measure a cluster with real load on a topic, through the Go client: how many records and
bytes a second, and how long they take. Without other flags a test ends after 10 seconds.`,
		`  streamhouse bench produce bench-events
  streamhouse bench consume bench-events
  streamhouse bench e2e bench-events`,
		a.benchProduce(), a.benchConsume(), a.benchEndToEnd())
}

func (a *app) benchProduce() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Measure how fast records are written",
		Long: `Write records to a topic for a while, and tell how many a second were acknowledged and
how long each took.

A latency goes from when a record was handed to the client, or with --rate from when it
was due, to its acknowledgement. Without --rate the client's buffer is always full, and
latencies are mostly the time in it. The topic is created if it is missing; it and its
records are kept.`,
		Example: `  streamhouse bench produce bench-events
  streamhouse bench produce bench-events --records 1000000 --record-size 100 --compression zstd
  streamhouse bench produce bench-events --rate 5000 --acks durable --duration 30s -o json`,
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			return a.bench(ctx, cmd, &f, args[0], 1, func(ctx context.Context, dial bench.Dial, m []*bench.Meter) (time.Duration, error) {
				return bench.Produce(ctx, dial, f.load, m[0])
			}, "produce")
		}),
	}
	f.writeFlags(cmd, 0)
	cmd.Flags().IntVar(&f.load.Clients, "clients", 1, "producers that write at the same time, over connections of their own")
	return cmd
}

func (a *app) benchConsume() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Measure how fast records are read",
		Long: `Read a topic from its beginning for a while, or until all is read that it had, and tell
how many records came a second.

A latency is how long a consumer waited for records. Nothing is committed. Fill the topic
with "streamhouse bench produce" first.`,
		Example: `  streamhouse bench consume bench-events
  streamhouse bench consume bench-events --clients 3 --duration 30s`,
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			return a.bench(ctx, cmd, &f, args[0], 1, func(ctx context.Context, dial bench.Dial, m []*bench.Meter) (time.Duration, error) {
				return bench.Consume(ctx, dial, f.load, m[0])
			}, "consume")
		}),
	}
	f.commonFlags(cmd)
	cmd.Flags().IntVar(&f.load.Clients, "clients", 1, "consumers that share the partitions, over connections of their own")
	cmd.Flags().IntVar(&f.load.FetchBytes, "fetch-bytes", 1<<20, "`bytes` that one read brings at most, from 1024 to 16777216")
	return cmd
}

func (a *app) benchEndToEnd() *cobra.Command {
	var f benchFlags
	cmd := &cobra.Command{
		Use:   "e2e TOPIC",
		Short: "Measure how long records take from a producer to a consumer",
		Long: `Write records at a steady rate, read them at the same time, and tell how long each took
from when it was due until it was acknowledged ("produce"), and until it was read ("e2e").

The topic is created if it is missing; it and its records are kept.`,
		Example: `  streamhouse bench e2e bench-events
  streamhouse bench e2e bench-events --rate 20000 --record-size 200 --duration 30s -o json`,
		RunE: a.do(func(ctx context.Context, cmd *cobra.Command, args []string) error {
			if f.load.RecordBytes < bench.StampBytes {
				return usagef("--record-size %d: must be %d or more", f.load.RecordBytes, bench.StampBytes)
			}
			return a.bench(ctx, cmd, &f, args[0], 2, func(ctx context.Context, dial bench.Dial, m []*bench.Meter) (time.Duration, error) {
				return bench.EndToEnd(ctx, dial, f.load, m[0], m[1])
			}, "produce", "e2e")
		}),
	}
	f.writeFlags(cmd, e2eRate)
	f.load.Clients = 1
	return cmd
}

// commonFlags adds what all tests have.
func (f *benchFlags) commonFlags(cmd *cobra.Command) {
	cmd.Args = exactly("TOPIC")
	f.flags(cmd, output.Table, 30*time.Second, "give up on a call or a record after this long")
	fl := cmd.Flags()
	fl.Int64Var(&f.load.Records, "records", 0, "end after so many records (default: no limit)")
	fl.DurationVar(&f.load.Duration, "duration", benchDuration, "end after this long; with --records alone there is no limit")
}

// writeFlags adds what tests have that write.
func (f *benchFlags) writeFlags(cmd *cobra.Command, rate float64) {
	f.commonFlags(cmd)
	fl := cmd.Flags()
	fl.Int32Var(&f.partitions, "partitions", 6, "partitions of the topic, where it is missing")
	fl.IntVar(&f.load.RecordBytes, "record-size", 1024, "`bytes` of a record's value, which looks like lines of a log")
	fl.Float64Var(&f.load.Rate, "rate", rate, "records a second; 0 is as many as go")
	fl.IntVar(&f.load.Producer.BatchBytes, "batch-bytes", 256<<10, "`bytes` of a batch, from 1 to 8388608")
	fl.DurationVar(&f.load.Producer.Linger, "linger", 5*time.Millisecond, "how long a batch waits for more records")
	fl.StringVar(&f.compression, "compression", string(client.CompressionNone), "none, snappy, lz4 or zstd")
	fl.StringVar(&f.acks, "acks", string(client.AcksQuorum), "when a write is acknowledged: `quorum` (on disk on a majority) or durable (in the object store)")
}

// check completes the load and looks at it.
func (f *benchFlags) check(cmd *cobra.Command, topic string) error {
	l := &f.load
	l.Topic = topic
	if cmd.Flags().Changed("records") && !cmd.Flags().Changed("duration") {
		l.Duration = 0
	}
	l.Producer.Compression, l.Producer.Acks, l.Producer.DeliveryTimeout = client.Compression(f.compression), client.Acks(f.acks), f.timeout
	if l.Producer.Linger == 0 {
		l.Producer.Linger = -1 // 0 is the client's default
	}
	switch {
	case l.Records < 0 || (l.Records == 0 && cmd.Flags().Changed("records")):
		return usagef("--records %d: must be 1 or more", l.Records)
	case l.Duration < 0 || (l.Duration == 0 && cmd.Flags().Changed("duration")):
		return usagef("--duration %s: must be above 0", l.Duration)
	case l.Clients < 1 || l.Clients > 1000:
		return usagef("--clients %d: must be 1 to 1000", l.Clients)
	case l.Rate < 0:
		return usagef("--rate %g: must be 0 or more", l.Rate)
	case l.RecordBytes < 0:
		return usagef("--record-size %d: must be 0 or more", l.RecordBytes)
	case l.FetchBytes != 0 && (l.FetchBytes < 1<<10 || l.FetchBytes > 16<<20):
		return usagef("--fetch-bytes %d: must be 1024 to 16777216", l.FetchBytes)
	}
	return benchFlagError(l.Producer.Validate())
}

// benchFlagError names the flag instead of the client's field.
func benchFlagError(err error) error {
	bad, ok := errors.AsType[*client.ConfigError](err)
	if !ok {
		return err
	}
	names := map[string]string{"Acks": "acks", "Compression": "compression", "BatchBytes": "batch-bytes", "Linger": "linger", "DeliveryTimeout": "timeout"}
	return usagef("--%s: %s", names[bad.Field], bad.Problem)
}

// benchTest runs a test, with a meter for each result.
type benchTest func(ctx context.Context, dial bench.Dial, m []*bench.Meter) (time.Duration, error)

// bench runs a test and shows the results, of an interrupted or failed one too.
func (a *app) bench(ctx context.Context, cmd *cobra.Command, f *benchFlags, topic string, meters int, test benchTest, names ...string) error {
	if err := f.check(cmd, topic); err != nil {
		return err
	}
	j := benchJSON{Topic: topic}
	err := f.with(ctx, a, func(ctx context.Context, admin *client.Admin) error {
		var err error
		j.Partitions, err = a.topicOrCreate(ctx, admin, topic, f.partitions)
		return err
	})
	if err != nil {
		return err
	}
	m := make([]*bench.Meter, meters)
	for i := range m {
		m[i] = bench.NewMeter()
	}
	stop := a.showProgress(m[meters-1])
	elapsed, err := test(ctx, func() (*client.Client, error) { return f.open(a) }, m)
	stop()
	var results []bench.Result
	for i, name := range names {
		results = append(results, m[i].Result(name, elapsed))
		j.Tests = append(j.Tests, newBenchTestJSON(results[i]))
	}
	if err == nil {
		err = ctx.Err()
	}
	return errors.Join(err, a.writeBench(f.format, j, results))
}

// showProgress draws on a terminal what a meter has, until stop is called.
func (a *app) showProgress(m *bench.Meter) (stop func()) {
	if !output.IsTerminal(a.stderr) {
		return func() {}
	}
	p := output.NewProgress(a.stderr, 0, time.Now())
	quit := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(200 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case now := <-tick.C:
				records, bytes := m.Totals()
				p.Draw(now, bytes, records)
			case <-quit:
				return
			}
		}
	})
	return func() {
		close(quit)
		wg.Wait()
		p.Clear()
	}
}

func newBenchTestJSON(r bench.Result) benchTestJSON {
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	j := benchTestJSON{
		Test: r.Name, Records: r.Records, Bytes: r.Bytes, Seconds: r.Elapsed.Seconds(),
		LatencyMs: benchLatencyJSON{P50: ms(r.P50), P95: ms(r.P95), P99: ms(r.P99), Max: ms(r.Max)},
	}
	j.RecordsPerSecond, j.BytesPerSecond = r.PerSecond()
	return j
}

func (a *app) writeBench(f output.Format, j benchJSON, results []bench.Result) error {
	rows := a.rows("TEST", "RECORDS", "SIZE", "SECONDS", "RECORDS/S", "MB/S", "P50", "P95", "P99", "MAX")
	var values []string
	for _, r := range results {
		records, bytes := r.PerSecond()
		rows.Add(r.Name, r.Records, output.Bytes(r.Bytes), fmt.Sprintf("%.2f", r.Elapsed.Seconds()), fmt.Sprintf("%.0f", records), fmt.Sprintf("%.2f", bytes/1e6),
			latencyText(r.P50), latencyText(r.P95), latencyText(r.P99), latencyText(r.Max))
		values = append(values, fmt.Sprintf("%.0f", records))
	}
	return output.Write(a.stdout, f, j, rows, values)
}

// latencyText is a time with three digits.
func latencyText(d time.Duration) string {
	switch {
	case d < time.Millisecond:
		return d.String()
	case d < 10*time.Millisecond:
		return d.Round(10 * time.Microsecond).String()
	case d < 100*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	default:
		return d.Round(10 * time.Millisecond).String()
	}
}

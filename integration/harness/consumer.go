package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/internal/pause"
)

// envConsumer, when set, makes the test binary a consumer: it has a ConsumerSpec as JSON.
const envConsumer = "STREAMHOUSE_TEST_CONSUMER"

// ConsumerSpec is what a consumer process does.
type ConsumerSpec struct {
	Addrs   []string
	Group   string
	Topic   string
	Session time.Duration
	// MaxPollRecords bounds what it takes at once, Work is how long it takes for that.
	MaxPollRecords int
	Work           time.Duration
}

// What a consumer process tells, in the order in which it happens.
const (
	Assigned  = "assigned"
	Revoked   = "revoked"
	Lost      = "lost"
	PollBegin = "poll"
	Processed = "processed"
	CommitOK  = "committed"
	Refused   = "refused"
)

// Event is a line of a consumer process's output.
type Event struct {
	At   time.Time
	Kind string
	// Partitions of Assigned, Revoked and Lost.
	Partitions []int32 `json:",omitempty"`
	// Records that were processed, from each run of one partition.
	Partition int32    `json:",omitempty"`
	Offset    int64    `json:",omitempty"`
	Sums      []uint32 `json:",omitempty"`
	Err       string   `json:",omitempty"`
}

// Consumer is a consumer process: a member of a group that commits what it has processed, and says what it does.
type Consumer struct {
	*Process

	Name string
}

// StartConsumer starts a consumer process.
func (c *Cluster) StartConsumer(name string, spec ConsumerSpec) *Consumer {
	c.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		c.t.Fatal(err)
	}
	text, err := json.Marshal(spec)
	if err != nil {
		c.t.Fatal(err)
	}
	p := Start(c.t, Command{
		Name: name, Path: exe, Env: []string{envConsumer + "=" + string(text)}, LogPath: filepath.Join(c.logDir, name+".jsonl"),
	})
	return &Consumer{p, name}
}

// Addrs are the nodes' addresses for clients.
func (c *Cluster) Addrs() []string {
	var addrs []string
	for _, n := range c.Nodes {
		addrs = append(addrs, n.GRPCAddr)
	}
	return addrs
}

// Client returns a client of the cluster, which is closed with the test.
func (c *Cluster) Client(cfg client.Config) *client.Client {
	c.t.Helper()
	cfg.Addrs = c.Addrs()
	cl, err := client.New(cfg)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = cl.Close() })
	return cl
}

// Events returns what the process has told. Half a line, of one that was killed, is left out.
func (c *Consumer) Events(tb testing.TB) []Event {
	tb.Helper()
	var out []Event
	for line := range strings.Lines(c.Log()) {
		var e Event
		if !strings.HasSuffix(line, "\n") || !strings.HasPrefix(line, "{") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			tb.Fatalf("%s: %v in %q", c.Name, err, line)
		}
		out = append(out, e)
	}
	return out
}

// Sum is what a consumer process tells of a value.
func Sum(value []byte) uint32 { return crc32.ChecksumIEEE(value) }

// consumeIfAsked makes this process a consumer, if the environment says so; it returns false else.
func consumeIfAsked() (asked bool, err error) {
	text := os.Getenv(envConsumer)
	if text == "" {
		return false, nil
	}
	var spec ConsumerSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return true, err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	return true, consume(ctx, spec)
}

// consume processes records until ctx ends.
func consume(ctx context.Context, spec ConsumerSpec) error {
	out := json.NewEncoder(os.Stdout)
	tell := func(e Event) {
		e.At = time.Now()
		_ = out.Encode(e) // the test sees that it is missing
	}
	list := func(kind string) func(context.Context, []client.TopicPartition) {
		return func(_ context.Context, tps []client.TopicPartition) {
			e := Event{Kind: kind}
			for _, tp := range tps {
				e.Partitions = append(e.Partitions, tp.Partition)
			}
			tell(e)
		}
	}
	c, err := client.New(client.Config{Addrs: spec.Addrs, ClientID: "test"})
	if err != nil {
		return err
	}
	r, err := client.NewConsumer(c, client.ConsumerConfig{
		Group: spec.Group, Topics: []string{spec.Topic}, SessionTimeout: spec.Session, ManualCommit: true,
		MaxPollRecords: spec.MaxPollRecords, OnAssigned: list(Assigned), OnRevoked: list(Revoked), OnLost: list(Lost),
	})
	if err != nil {
		return errors.Join(err, c.Close())
	}
	for {
		tell(Event{Kind: PollBegin})
		records, err := r.Poll(ctx)
		if err != nil {
			if ctx.Err() != nil {
				break
			}
			tell(Event{Kind: Refused, Err: err.Error()})
			continue
		}
		process(records, tell)
		_ = pause.For(ctx, spec.Work) // what was processed is committed in any case
		if err := r.CommitRecords(context.WithoutCancel(ctx), records...); err != nil {
			tell(Event{Kind: Refused, Err: err.Error()})
			continue
		}
		tell(Event{Kind: CommitOK})
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	if err := errors.Join(r.Close(last), c.Close()); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// process tells of records, in runs of one partition.
func process(records []client.Record, tell func(Event)) {
	for i := 0; i < len(records); {
		e := Event{Kind: Processed, Partition: records[i].Partition, Offset: records[i].Offset}
		for ; i < len(records) && records[i].Partition == e.Partition && records[i].Offset == e.Offset+int64(len(e.Sums)); i++ {
			e.Sums = append(e.Sums, Sum(records[i].Value))
		}
		tell(e)
	}
}

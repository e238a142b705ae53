package harness

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
)

// readBytes is how much one read asks for.
const readBytes = 4 << 20

// Ledger remembers which records of a topic were acknowledged, and holds that
// against what nodes serve. Its methods are safe for concurrent use.
type Ledger struct {
	Topic string

	mu    sync.Mutex
	acked map[source][]int64 // guarded by mu; offset by sequence, notAcked in between
	total int64              // guarded by mu
	last  time.Time          // guarded by mu; of the newest acknowledgement
	gap   time.Duration      // guarded by mu; longest time between two

	digests  map[string]string // guarded by mu; of what was read, by partition and end
	tolerate map[string]bool   // guarded by mu; values of others
}

// source is one producer in one partition. Its records are numbered from 0.
type source struct {
	partition int32
	producer  string
}

const notAcked = -1

// NewLedger returns an empty ledger of a topic.
func NewLedger(topic string) *Ledger {
	return &Ledger{
		Topic: topic, acked: make(map[source][]int64), last: time.Now(), digests: make(map[string]string),
		tolerate: make(map[string]bool),
	}
}

// value is a record's value: who wrote it, where, its number, its size, and filling up to that.
func (s source) value(number int64, size int) []byte {
	b := make([]byte, 0, max(size, 64))
	b = fmt.Appendf(b, "%s/%d/%d/%d/", s.producer, s.partition, number, size)
	for len(b) < size {
		b = append(b, byte('a'+(int64(len(b))+number)%26))
	}
	return b
}

func parseValue(v []byte) (source, int64, error) {
	begin := v[:min(len(v), 64)]
	fields := strings.SplitN(string(begin), "/", 5)
	if len(fields) != 5 {
		return source{}, 0, fmt.Errorf("a value that nobody wrote: %q", begin)
	}
	partition, err1 := strconv.ParseInt(fields[1], 10, 32)
	number, err2 := strconv.ParseInt(fields[2], 10, 64)
	size, err3 := strconv.Atoi(fields[3])
	s := source{int32(partition), fields[0]}
	if err := errors.Join(err1, err2, err3); err != nil {
		return s, number, err
	}
	if size > len(v) || !bytes.Equal(v, s.value(number, size)) {
		return s, number, fmt.Errorf("TORN: a value of %d bytes, written with %d, that begins with %q", len(v), size, begin)
	}
	return s, number, nil
}

// Ack notes that count records from number first on are stored from offset base on.
func (l *Ledger) Ack(partition int32, producer string, first int64, count int, base int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := source{partition, producer}
	offsets := l.acked[s]
	for int64(len(offsets)) < first+int64(count) {
		offsets = append(offsets, notAcked)
	}
	for i := range int64(count) {
		if offsets[first+i] == notAcked {
			l.total++
		}
		offsets[first+i] = base + i
	}
	l.acked[s] = offsets
	now := time.Now()
	l.gap = max(l.gap, now.Sub(l.last))
	l.last = now
}

// Tolerate lets Verify pass over records of this value, which were sent without an acknowledgement.
func (l *Ledger) Tolerate(value string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tolerate[value] = true
}

func (l *Ledger) tolerated(value string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.tolerate[value]
}

// Acked is the number of acknowledged records.
func (l *Ledger) Acked() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.total
}

// LongestGap is the longest time between two acknowledgements since the last call.
func (l *Ledger) LongestGap() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	gap := max(l.gap, time.Since(l.last))
	l.gap, l.last = 0, time.Now()
	return gap
}

// WaitAcked waits until so many more records are acknowledged.
func (l *Ledger) WaitAcked(tb testing.TB, more int64, within time.Duration) {
	tb.Helper()
	want := l.Acked() + more
	Eventually(tb, within, fmt.Sprintf("%d more records are acknowledged", more), func(context.Context) error {
		if got := l.Acked(); got < want {
			return fmt.Errorf("%d of %d are", got, want)
		}
		return nil
	})
}

// Verify reads all partitions through each node: every acknowledged record is
// there once, at its offset, each producer's records are in order and without a
// gap, offsets are dense, and all nodes serve the same.
func (l *Ledger) Verify(tb testing.TB, nodes ...*Node) {
	tb.Helper()
	for _, n := range nodes {
		ends, err := n.HighWatermarks(tb.Context(), l.Topic)
		if err != nil {
			tb.Fatalf("high watermarks of %s through %s: %s", l.Topic, n.ID, Describe(err))
		}
		l.VerifyUpTo(tb, ends, n)
	}
}

// VerifyUpTo is Verify with the ends of the partitions known, so that no leader is needed.
func (l *Ledger) VerifyUpTo(tb testing.TB, ends map[int32]int64, nodes ...*Node) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 2*time.Minute)
	defer cancel()
	l.mu.Lock()
	for s := range l.acked {
		if _, ok := ends[s.partition]; !ok {
			l.mu.Unlock()
			tb.Fatalf("%s/%d has acknowledged records, and no end", l.Topic, s.partition)
		}
	}
	l.mu.Unlock()
	for _, n := range nodes {
		for partition, end := range ends {
			sum, err := l.verifyPartition(ctx, n, partition, end)
			if err != nil {
				tb.Fatalf("%s/%d through %s: %v", l.Topic, partition, n.ID, err)
			}
			if err := l.compare(n.ID, partition, end, sum); err != nil {
				tb.Fatal(err)
			}
		}
	}
}

// compare holds a digest against what was read of the partition up to the same offset before, through any node.
func (l *Ledger) compare(node string, partition int32, end int64, sum string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := fmt.Sprintf("%d up to %d", partition, end)
	if before, ok := l.digests[at]; ok && before != sum {
		return fmt.Errorf("%s/%s: node %s serves other bytes than were served before", l.Topic, at, node)
	}
	l.digests[at] = sum
	return nil
}

// verifyPartition reads a partition up to end and returns a digest of it.
func (l *Ledger) verifyPartition(ctx context.Context, n *Node, partition int32, end int64) (string, error) {
	v := l.newCheck(partition)
	if err := n.Read(ctx, l.Topic, partition, 0, end, v.record); err != nil {
		return "", err
	}
	return l.checkAcked(v, end)
}

// checkAcked holds what was read of a partition against what was acknowledged, and returns a digest of it.
func (l *Ledger) checkAcked(v *partitionCheck, end int64) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, offsets := range l.acked {
		if s.partition != v.partition {
			continue
		}
		for number, offset := range offsets {
			if offset == notAcked {
				continue
			}
			if number >= len(v.found[s]) {
				return "", fmt.Errorf("LOST: record %d of %s was acknowledged at offset %d; %d of its records are there, the partition ends at %d",
					number, s.producer, offset, len(v.found[s]), end)
			}
			if got := v.found[s][number]; got != offset {
				return "", fmt.Errorf("MOVED: record %d of %s was acknowledged at offset %d and is at %d", number, s.producer, offset, got)
			}
		}
	}
	return hex.EncodeToString(v.sum.Sum(nil)), nil
}

type partitionCheck struct {
	partition int32
	next      int64
	found     map[source][]int64
	sum       hash.Hash
	tolerated func(value string) bool
}

func (l *Ledger) newCheck(partition int32) *partitionCheck {
	return &partitionCheck{partition: partition, found: make(map[source][]int64), sum: sha256.New(), tolerated: l.tolerated}
}

// record takes the next record of the partition.
func (v *partitionCheck) record(r *streamhousev1.ConsumedRecord) error {
	if r.GetOffset() != v.next {
		return fmt.Errorf("NOT DENSE: offset %d where %d was expected", r.GetOffset(), v.next)
	}
	v.next++
	if v.tolerated(string(r.GetValue())) {
		return nil
	}
	s, number, err := parseValue(r.GetValue())
	if err != nil {
		return err
	}
	if s.partition != v.partition {
		return fmt.Errorf("offset %d holds a record of partition %d", r.GetOffset(), s.partition)
	}
	if want := int64(len(v.found[s])); number != want {
		kind := "GAP OR REORDERED"
		if number < want {
			kind = "DUPLICATE OR REORDERED"
		}
		return fmt.Errorf("%s: offset %d holds record %d of %s, %d was expected", kind, r.GetOffset(), number, s.producer, want)
	}
	v.found[s] = append(v.found[s], r.GetOffset())
	_, err = fmt.Fprintf(v.sum, "%d %d %x\n", r.GetOffset(), r.GetTimestampMs(), r.GetValue())
	return err
}

// HighWatermarks returns the end of every partition; it retries while there is no leader.
func (n *Node) HighWatermarks(ctx context.Context, topic string) (map[int32]int64, error) {
	ends := make(map[int32]int64)
	err := Retry(ctx, []*Client{n.Client}, func(ctx context.Context, c *Client) error {
		resp, err := c.ListOffsets(ctx, &streamhousev1.ListOffsetsRequest{
			Topic: topic, Position: &streamhousev1.ListOffsetsRequest_Latest{Latest: true},
		})
		for _, o := range resp.GetOffsets() {
			ends[o.GetPartition()] = o.GetOffset()
		}
		return err
	})
	return ends, err
}

// Read calls f with every record of a partition from one offset up to another.
func (n *Node) Read(ctx context.Context, topic string, partition int32, from, to int64, f func(*streamhousev1.ConsumedRecord) error) error {
	for from < to {
		var resp *streamhousev1.ConsumeResponse
		err := Retry(ctx, []*Client{n.Client}, func(ctx context.Context, c *Client) (err error) {
			resp, err = c.Consume(ctx, &streamhousev1.ConsumeRequest{
				Topic: topic, Partition: partition, Offset: from, MaxBytes: readBytes, MaxWait: durationpb.New(time.Second),
			})
			return err
		})
		if err != nil {
			return fmt.Errorf("read from offset %d: %s", from, Describe(err))
		}
		if len(resp.GetRecords()) == 0 {
			return fmt.Errorf("read from offset %d: nothing, though the partition ends at %d (answer: high watermark %d, log start %d)",
				from, to, resp.GetHighWatermark(), resp.GetLogStartOffset())
		}
		for _, r := range resp.GetRecords() {
			if r.GetOffset() >= to {
				return nil
			}
			if err := f(r); err != nil {
				return err
			}
		}
		if resp.GetNextOffset() <= from {
			return fmt.Errorf("read from offset %d: the next offset is %d", from, resp.GetNextOffset())
		}
		from = resp.GetNextOffset()
	}
	return nil
}

// Value is the value of a producer's record, for tests that write themselves.
func Value(producer string, partition int32, number int64, size int) []byte {
	return source{partition, producer}.value(number, size)
}

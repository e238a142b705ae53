package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	streamhousev1 "github.com/streamhouse/streamhouse/api/streamhouse/v1"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/producer"
)

const (
	// maxLineBytes bounds the memory of one line; servers take no record of this size.
	maxLineBytes = 48 << 20
	// A batch is sent at this size, which fits an entry of a shard's log.
	batchBytes   = 128 << 10
	batchRecords = 4096
)

// errLineTooLong means that a line does not fit into memory.
var errLineTooLong = fmt.Errorf("is longer than %d bytes", maxLineBytes)

// lineReader reads lines that end with LF, the last one also without.
type lineReader struct {
	r      *bufio.Reader
	number int64
	// unended is set when the last line that next returned had no LF.
	unended bool
	// eager is set where lines may come slowly, from a pipe or a terminal.
	eager bool
}

func newLineReader(r io.Reader) *lineReader { return &lineReader{r: bufio.NewReaderSize(r, 256<<10)} }

// next returns the next line without its LF, else byte for byte, in memory of its own; io.EOF at the end.
func (l *lineReader) next() ([]byte, error) {
	var line []byte
	for {
		part, err := l.r.ReadSlice('\n')
		if len(line)+len(part) > maxLineBytes {
			return nil, fmt.Errorf("line %d %w", l.number+1, errLineTooLong)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			l.number++
			return line[:len(line)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(line) > 0:
			l.number++
			l.unended = true
			return line, nil
		default:
			return nil, err
		}
	}
}

// hasMore is true when another line can be read without waiting for who writes it.
func (l *lineReader) hasMore() bool {
	if !l.eager {
		return true
	}
	n := l.r.Buffered()
	if n == 0 {
		return false
	}
	ahead, err := l.r.Peek(n)
	return err == nil && bytes.IndexByte(ahead, '\n') >= 0
}

// unendedHeader marks the record of a last line without LF, so that consume can give the very bytes back.
const unendedHeader = "streamhouse.unended-line"

// markUnended marks a record as made from a line without LF.
func markUnended(r *streamhousev1.Record) {
	r.Headers = append(r.Headers, &streamhousev1.Header{Key: unendedHeader})
}

// isUnended says whether a record was made from a line without LF.
func isUnended(r *streamhousev1.ConsumedRecord) bool {
	return slices.ContainsFunc(r.GetHeaders(), func(h *streamhousev1.Header) bool { return h.GetKey() == unendedHeader })
}

// keying says where a record's key comes from.
type keying struct {
	key       *string // of all records
	separator string  // or what stands between key and value
}

// record makes a record of a line.
func (k keying) record(line []byte, number int64, now time.Time) (*streamhousev1.Record, error) {
	ms := now.UnixMilli()
	r := &streamhousev1.Record{Value: line, TimestampMs: &ms}
	switch {
	case k.key != nil:
		r.Key = []byte(*k.key)
	case k.separator != "":
		key, value, ok := bytes.Cut(line, []byte(k.separator))
		if !ok {
			return nil, fmt.Errorf("line %d has no separator %q", number, k.separator)
		}
		r.Key, r.Value = key, value
	}
	if r.Value == nil {
		r.Value = []byte{} // an empty line is an empty value, not none
	}
	return r, nil
}

// batcher collects records into one batch a partition.
type batcher struct {
	partitions int32
	fixed      *int32
	forKey     func(key []byte, partitions int32) int32
	spread     int32 // partition of the next batch of records without a key
	open       map[int32]*openBatch
}

type openBatch struct {
	producer.Batch
	first, last int64
}

func newBatcher(partitions int32, fixed *int32, forKey func([]byte, int32) int32) *batcher {
	return &batcher{partitions: partitions, fixed: fixed, forKey: forKey, open: make(map[int32]*openBatch)}
}

func (b *batcher) partition(r *streamhousev1.Record) int32 {
	switch {
	case b.fixed != nil:
		return *b.fixed
	case r.Key != nil:
		return b.forKey(r.Key, b.partitions)
	default:
		return b.spread
	}
}

// add takes a record and returns a batch that is full, if there is one.
func (b *batcher) add(r *streamhousev1.Record, line int64) (producer.Batch, bool) {
	p := b.partition(r)
	o := b.open[p]
	if o == nil {
		o = &openBatch{Batch: producer.Batch{Partition: p}, first: line}
		b.open[p] = o
	}
	o.Records = append(o.Records, r)
	o.Bytes += int64(len(r.Key) + len(r.Value))
	o.last = line
	if o.Bytes < batchBytes && len(o.Records) < batchRecords {
		return producer.Batch{}, false
	}
	return b.take(o), true
}

func (b *batcher) take(o *openBatch) producer.Batch {
	delete(b.open, o.Partition)
	if o.Partition == b.spread {
		b.spread = (b.spread + 1) % b.partitions
	}
	o.Name = fmt.Sprintf("lines %d to %d", o.first, o.last)
	if o.first == o.last {
		o.Name = fmt.Sprintf("line %d", o.first)
	}
	return o.Batch
}

// rest returns what is begun, in any order of partitions.
func (b *batcher) rest() []producer.Batch {
	var out []producer.Batch
	for _, o := range b.open {
		out = append(out, b.take(o))
	}
	return out
}

package main

import (
	"bufio"
	"fmt"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// sink writes records, at most so many.
type sink struct {
	to      pipe
	out     *bufio.Writer
	encode  encoder
	limit   int64 // 0 for any number
	written int64
	begun   bool
}

func newSink(w pipe, format output.Format, limit int64) *sink {
	return &sink{to: w, out: bufio.NewWriterSize(w, 256<<10), encode: encoderFor(format), limit: limit}
}

// full reports whether all records are written that are wanted.
func (s *sink) full() bool { return s.limit > 0 && s.written >= s.limit }

// begin writes the head of a table.
func (s *sink) begin() error {
	if s.begun || s.encode.head == "" {
		return nil
	}
	s.begun = true
	return s.write1(func() error { _, err := s.out.WriteString(s.encode.head); return err })
}

// write writes records and returns those that are wholly written.
func (s *sink) write(records []client.Record) ([]client.Record, error) {
	if s.limit > 0 {
		records = records[:min(int64(len(records)), s.limit-s.written)]
	}
	if len(records) == 0 {
		return nil, nil
	}
	err := s.write1(func() error {
		for i := range records {
			if err := s.encode.record(s.out, &records[i]); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	s.written += int64(len(records))
	return records, nil
}

// write1 writes and flushes.
func (s *sink) write1(fn func() error) error {
	err := fn()
	if err == nil {
		err = s.out.Flush()
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

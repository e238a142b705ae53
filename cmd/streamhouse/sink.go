package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/streamhouse/streamhouse/client"
	"github.com/streamhouse/streamhouse/cmd/streamhouse/internal/output"
)

// sink writes records, at most so many.
type sink struct {
	to      output.Pipe
	out     *bufio.Writer
	encode  encoder
	limit   int64 // 0 for any number
	written int64
	begun   bool
}

func newSink(w output.Pipe, format output.Format, limit int64) *sink {
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
	return s.flushing(func() error { _, err := s.out.WriteString(s.encode.head); return err })
}

// write writes records and returns those that are wholly written.
func (s *sink) write(records []client.Record) ([]client.Record, error) {
	if s.limit > 0 {
		records = records[:min(int64(len(records)), s.limit-s.written)]
	}
	if len(records) == 0 {
		return nil, nil
	}
	err := s.flushing(func() error {
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

// flushing runs fn, which writes, and flushes.
func (s *sink) flushing(fn func() error) error {
	err := fn()
	if err == nil {
		err = s.out.Flush()
	}
	if err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// encoder writes records in one format.
type encoder struct {
	head   string
	record func(w *bufio.Writer, r *client.Record) error
}

func encoderFor(f output.Format) encoder {
	switch f {
	case output.JSON:
		return encoder{record: encodeJSON}
	case output.Table:
		return encoder{
			head:   fmt.Sprintf(tableLine, "PARTITION", "OFFSET", "TIME", "KEY", "VALUE"),
			record: encodeTable,
		}
	default:
		return encoder{record: (&valueEncoder{}).record}
	}
}

// valueEncoder writes values, one a line. The LF of a line that had none when it was produced waits for the next value.
type valueEncoder struct{ owesLF bool }

func (e *valueEncoder) record(w *bufio.Writer, r *client.Record) error {
	if e.owesLF {
		_ = w.WriteByte('\n') // a bufio.Writer repeats its error
	}
	_, err := w.Write(r.Value)
	if e.owesLF = isUnended(r); !e.owesLF {
		err = w.WriteByte('\n')
	}
	return err
}

// recordJSON is what -o json prints, one object a line: the names do not change.
type recordJSON struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Offset      int64        `json:"offset"`
	Time        string       `json:"time"`
	TimestampMs int64        `json:"timestamp_ms"`
	Key         *string      `json:"key"`
	KeyBase64   string       `json:"key_base64,omitempty"`
	Value       *string      `json:"value"`
	ValueBase64 string       `json:"value_base64,omitempty"`
	Headers     []headerJSON `json:"headers,omitempty"`
}

type headerJSON struct {
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 string  `json:"value_base64,omitempty"`
}

// textOrBase64 returns bytes as text, or as base64 where they are no UTF-8; nil bytes as neither.
func textOrBase64(b []byte) (text *string, encoded string) {
	if b == nil {
		return nil, ""
	}
	if !utf8.Valid(b) {
		return nil, base64.StdEncoding.EncodeToString(b)
	}
	s := string(b)
	return &s, ""
}

func encodeJSON(w *bufio.Writer, r *client.Record) error {
	j := recordJSON{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: formatTime(r.Timestamp), TimestampMs: r.Timestamp.UnixMilli()}
	j.Key, j.KeyBase64 = textOrBase64(r.Key)
	j.Value, j.ValueBase64 = textOrBase64(r.Value)
	for _, h := range r.Headers {
		hj := headerJSON{Key: h.Key}
		hj.Value, hj.ValueBase64 = textOrBase64(h.Value)
		j.Headers = append(j.Headers, hj)
	}
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	return enc.Encode(j)
}

const tableLine = "%-9s  %-10s  %-24s  %-16s  %s\n"

func encodeTable(w *bufio.Writer, r *client.Record) error {
	_, err := fmt.Fprintf(w, tableLine, strconv.Itoa(int(r.Partition)), strconv.FormatInt(r.Offset, 10), formatTime(r.Timestamp), cell(r.Key), cell(r.Value))
	return err
}

// cell makes bytes harmless for a terminal; nil is a dash.
func cell(b []byte) string {
	if b == nil {
		return "-"
	}
	s := string(b)
	if strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) }) || !utf8.ValidString(s) {
		return strconv.Quote(s)
	}
	return s
}

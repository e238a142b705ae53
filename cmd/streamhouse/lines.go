package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/streamhouse/streamhouse/client"
)

// maxLineBytes bounds the memory of one line; servers take no record of this size.
const maxLineBytes = 24 << 20

// errLineTooLong means that a line does not fit into memory.
var errLineTooLong = fmt.Errorf("is longer than %d bytes", maxLineBytes)

// lineReader reads lines that end with LF, the last one also without.
type lineReader struct {
	r      *bufio.Reader
	long   []byte // holds a line that is longer than r's buffer
	number int64
	// unended is set when the last line that next returned had no LF.
	unended bool
}

func newLineReader(r io.Reader) *lineReader { return &lineReader{r: bufio.NewReaderSize(r, 256<<10)} }

// next returns the next line without its LF, else byte for byte, in memory that is valid until the next call; io.EOF at
// the end.
func (l *lineReader) next() ([]byte, error) {
	line, err := l.r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line, err = l.rest(line)
	}
	switch {
	case err == nil:
		l.number++
		return line[:len(line)-1], nil
	case errors.Is(err, io.EOF) && len(line) > 0:
		l.number++
		l.unended = true
		return line, nil
	default:
		return nil, err
	}
}

// rest reads on in a line that begins with part.
func (l *lineReader) rest(part []byte) ([]byte, error) {
	l.long = append(l.long[:0], part...)
	for {
		part, err := l.r.ReadSlice('\n')
		if len(l.long)+len(part) > maxLineBytes {
			return nil, fmt.Errorf("line %d %w", l.number+1, errLineTooLong)
		}
		l.long = append(l.long, part...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return l.long, err
		}
	}
}

// unendedHeader marks the record of a last line without LF, so that consume can give the very bytes back.
const unendedHeader = "streamhouse.unended-line"

// markUnended marks a record as made from a line without LF.
func markUnended(r *client.Record) {
	r.Headers = append(r.Headers, client.Header{Key: unendedHeader})
}

// isUnended says whether a record was made from a line without LF.
func isUnended(r *client.Record) bool {
	return slices.ContainsFunc(r.Headers, func(h client.Header) bool { return h.Key == unendedHeader })
}

// keying says where a record's key comes from.
type keying struct {
	key       *string // of all records
	separator string  // or what stands between key and value
}

// record makes a record of a line, in the line's memory.
func (k keying) record(line []byte, number int64) (*client.Record, error) {
	r := &client.Record{Value: line}
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

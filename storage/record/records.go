package record

import (
	"encoding/binary"
	"iter"
	"math"
	"unicode/utf8"
)

// Limits bound what Check accepts. 0 means no bound.
type Limits struct {
	// MaxRecordBytes bounds one encoded record.
	MaxRecordBytes int
	// MaxBatchBytes bounds a batch, and its records after decompression.
	MaxBatchBytes int
}

// Stats are what Check counted.
type Stats struct {
	Records int32
	// PayloadBytes are the bytes of keys, values and headers.
	PayloadBytes int64
}

// Header is a name and a value of a record; a nil value is null.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record. A nil key or value is null, which an empty one is not.
type Record struct {
	Offset      int64
	TimestampMs int64
	Key, Value  []byte
	Headers     []Header
}

// defaultMaxDecompressed bounds All, which has no limits of its own.
const defaultMaxDecompressed = 256 << 20

// Check walks all records of a parsed batch: lengths, dense offsets, counts, header names, limits. It does not
// allocate for each record.
func (b Batch) Check(l Limits) (Stats, error) {
	if b.attributes()&(attrTransactional|attrControl) != 0 {
		return Stats{}, corrupt(21, "transactional and control batches are not supported")
	}
	if l.MaxBatchBytes > 0 && len(b) > l.MaxBatchBytes {
		return Stats{}, tooLarge("batch", len(b), l.MaxBatchBytes)
	}
	body, err := b.body(l.MaxBatchBytes)
	if err != nil {
		return Stats{}, err
	}
	st := Stats{Records: b.NumRecords()}
	c := cursor{b: body}
	for i := range st.Records {
		n, err := c.record(i, l.MaxRecordBytes, nil)
		if err != nil {
			return Stats{}, err
		}
		st.PayloadBytes += n
	}
	if len(c.b) != c.at {
		return Stats{}, corrupt(headerBytes+c.at, "%d bytes behind the last record", len(c.b)-c.at)
	}
	return st, nil
}

// All yields the records, with offsets from the batch's base offset. Keys and values alias the batch, or memory of
// their own where it is compressed. An error ends it.
func (b Batch) All() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		body, err := b.body(defaultMaxDecompressed)
		if err != nil {
			yield(Record{}, err)
			return
		}
		c := cursor{b: body}
		for i := range b.NumRecords() {
			var r Record
			if _, err := c.record(i, 0, &r); err != nil {
				yield(Record{}, err)
				return
			}
			r.Offset = b.BaseOffset() + int64(i)
			if b.attributes()&attrLogAppendTime != 0 {
				r.TimestampMs = b.MaxTimestamp()
			} else {
				r.TimestampMs += b.BaseTimestamp()
			}
			if !yield(r, nil) {
				return
			}
		}
	}
}

// body returns the records, decompressed.
func (b Batch) body(maxBytes int) ([]byte, error) {
	if b.Compression() == None {
		return b[headerBytes:], nil
	}
	if maxBytes <= 0 {
		maxBytes = defaultMaxDecompressed
	}
	return decompress(b.Compression(), b[headerBytes:], maxBytes)
}

// cursor walks encoded records.
type cursor struct {
	b  []byte
	at int
}

func (c *cursor) varint() (int64, error) {
	v, n := binary.Varint(c.b[c.at:])
	if n <= 0 {
		return 0, corrupt(headerBytes+c.at, "bad varint")
	}
	c.at += n
	return v, nil
}

// bytes takes a length and that many bytes; a length of -1 is null.
func (c *cursor) bytes() ([]byte, error) {
	n, err := c.varint()
	if err != nil {
		return nil, err
	}
	if n == -1 {
		return nil, nil
	}
	if n < 0 || n > int64(len(c.b)-c.at) {
		return nil, corrupt(headerBytes+c.at, "length %d with %d bytes left", n, len(c.b)-c.at)
	}
	v := c.b[c.at : c.at+int(n) : c.at+int(n)]
	c.at += int(n)
	return v, nil
}

// record takes the record with offset delta i, into r when that is not nil, and returns its payload bytes.
func (c *cursor) record(i int32, maxBytes int, r *Record) (payload int64, err error) {
	n, err := c.varint()
	if err != nil {
		return 0, err
	}
	begin := c.at
	if n < 0 || n > int64(len(c.b)-c.at) {
		return 0, corrupt(headerBytes+begin, "record %d has %d bytes with %d left", i, n, len(c.b)-c.at)
	}
	if maxBytes > 0 && n > int64(maxBytes) {
		return 0, tooLarge("record", int(n), maxBytes)
	}
	end := begin + int(n)
	inner := cursor{b: c.b[:end], at: begin + 1} // behind the attributes
	if n < 1 {
		return 0, corrupt(headerBytes+begin, "record %d is empty", i)
	}
	payload, err = inner.fields(i, r)
	if err != nil {
		return 0, err
	}
	if inner.at != end {
		return 0, corrupt(headerBytes+inner.at, "record %d has %d bytes too many", i, end-inner.at)
	}
	c.at = end
	return payload, nil
}

func (c *cursor) fields(i int32, r *Record) (payload int64, err error) {
	ts, err := c.varint()
	if err != nil {
		return 0, err
	}
	delta, err := c.varint()
	if err != nil {
		return 0, err
	}
	if delta != int64(i) {
		return 0, corrupt(headerBytes+c.at, "offset delta %d of record %d", delta, i)
	}
	key, err := c.bytes()
	if err != nil {
		return 0, err
	}
	value, err := c.bytes()
	if err != nil {
		return 0, err
	}
	if r != nil {
		r.TimestampMs, r.Key, r.Value = ts, key, value
	}
	headers, err := c.headers(r)
	return int64(len(key)) + int64(len(value)) + headers, err
}

func (c *cursor) headers(r *Record) (payload int64, err error) {
	n, err := c.varint()
	if err != nil {
		return 0, err
	}
	if n < 0 || n > int64(len(c.b)-c.at) || n > math.MaxInt32 {
		return 0, corrupt(headerBytes+c.at, "%d headers", n)
	}
	for range n {
		key, err := c.bytes()
		if err != nil {
			return 0, err
		}
		if key == nil || !utf8.Valid(key) {
			return 0, corrupt(headerBytes+c.at, "header name is not UTF-8")
		}
		value, err := c.bytes()
		if err != nil {
			return 0, err
		}
		payload += int64(len(key) + len(value))
		if r != nil {
			r.Headers = append(r.Headers, Header{Key: string(key), Value: value})
		}
	}
	return payload, nil
}

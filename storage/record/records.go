package record

import (
	"iter"
	"math"
	"unicode/utf8"
)

// Header is a name and a value that travel with a record. A nil value is null.
type Header struct {
	Key   string
	Value []byte
}

// Record is one record. A nil key or value is null, which is not the same as empty.
type Record struct {
	Offset, TimestampMs int64
	Key, Value          []byte
	Headers             []Header
}

// view is a record that is read in place.
type view struct {
	timestampDelta int64
	offsetDelta    int32
	key, value     []byte
	numHeaders     int
	headers        cursor
}

// next reads the record at c into v, all but its headers. The error's position counts from the beginning of the records.
func (v *view) next(c *cursor) error {
	start := c.pos
	length := int(c.varint())
	if c.bad == "" && (length < minRecordBytes-1 || length > c.left()) {
		c.fail("a record's length is out of bounds")
	}
	if c.bad != "" {
		return corrupt(start, "%s", c.bad)
	}
	r := cursor{buf: c.buf[:c.pos+length], pos: c.pos + 1} // attributes of a record are unused
	v.timestampDelta = r.varlong()
	v.offsetDelta = r.varint()
	v.key = r.bytes(true)
	v.value = r.bytes(true)
	n := int(r.varint())
	// A header has at least two bytes.
	if r.bad == "" && (n < 0 || n > r.left()/2) {
		r.fail("a count of headers is out of bounds")
	}
	if r.bad != "" {
		return corrupt(r.pos, "%s", r.bad)
	}
	c.pos += length
	v.numHeaders, v.headers = n, r
	return nil
}

// header reads the next header.
func (v *view) header() (key, value []byte, err error) {
	c := &v.headers
	at := c.pos
	key = c.bytes(false)
	value = c.bytes(true)
	if c.bad == "" && !utf8.Valid(key) {
		c.fail("a header's key is not UTF-8")
	}
	if c.bad != "" {
		return nil, nil, corrupt(at, "%s", c.bad)
	}
	return key, value, nil
}

// end checks that the headers were the last of the record.
func (v *view) end() error {
	if v.headers.left() > 0 {
		return corrupt(v.headers.pos, "%d bytes behind a record's headers", v.headers.left())
	}
	return nil
}

// timestamp adds a record's delta to the base.
func timestamp(base, delta int64) (sum int64, ok bool) {
	sum = base + delta
	return sum, (sum < base) == (delta < 0)
}

// All iterates over the records, with absolute offsets. Keys and values alias the batch, or for a compressed batch a
// buffer of their own. An error ends the iteration and comes with a zero record. The records are checked as they come,
// but for a batch from outside that is no substitute for Check.
func (b Batch) All() iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		data, err := b.records(nil, MaxDecompressedBytes)
		if err != nil {
			yield(Record{}, err)
			return
		}
		base, baseTimestamp := b.BaseOffset(), b.BaseTimestamp()
		c := cursor{buf: data}
		for i := range b.NumRecords() {
			r, err := b.record(&c, i, baseTimestamp)
			if err != nil {
				yield(Record{}, shift(err, HeaderBytes))
				return
			}
			r.Offset = base + int64(i)
			if !yield(r, nil) {
				return
			}
		}
		if c.left() > 0 {
			yield(Record{}, corrupt(HeaderBytes+c.pos, "%d bytes behind the last record", c.left()))
		}
	}
}

// record reads record i, all but its offset.
func (b Batch) record(c *cursor, i int32, baseTimestamp int64) (Record, error) {
	var v view
	start := c.pos
	if err := v.next(c); err != nil {
		return Record{}, err
	}
	if v.offsetDelta != i {
		return Record{}, corrupt(start, "record %d has the offset delta %d", i, v.offsetDelta)
	}
	r := Record{Key: v.key, Value: v.value}
	var ok bool
	if r.TimestampMs, ok = timestamp(baseTimestamp, v.timestampDelta); !ok {
		return Record{}, corrupt(start, "record %d: its timestamp overflows", i)
	}
	if b.attributes()&attrLogAppendTime != 0 {
		r.TimestampMs = b.MaxTimestamp()
	}
	if v.numHeaders > 0 {
		r.Headers = make([]Header, v.numHeaders)
	}
	for h := range r.Headers {
		key, value, err := v.header()
		if err != nil {
			return Record{}, err
		}
		r.Headers[h] = Header{Key: string(key), Value: value}
	}
	return r, v.end()
}

// records returns the records as they would be without compression: a part of b, or decompressed into dst or a larger
// buffer, at most limit bytes.
func (b Batch) records(dst []byte, limit int) ([]byte, error) {
	data := b[HeaderBytes:]
	c := b.Compression()
	if c != None {
		out, err := decompress(dst, c, data, limit)
		if err != nil {
			return nil, err
		}
		data = out
	}
	if n := b.NumRecords(); n < 1 || int64(n)*minRecordBytes > int64(len(data)) || len(data) > math.MaxInt32 {
		return nil, corrupt(atNumRecords, "%d records in %d bytes", n, len(data))
	}
	return data, nil
}

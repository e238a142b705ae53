package record

import "sync"

// Limits bound what is accepted. Zero is no limit.
type Limits struct {
	// MaxRecordBytes bounds key, value and headers of one record.
	MaxRecordBytes int
	// MaxBatchBytes bounds a batch, as it is and decompressed.
	MaxBatchBytes int
}

// MaxDecompressedBytes bounds the decompressed records of a batch, whatever the limits are, so that what Check has
// accepted can always be read again.
const MaxDecompressedBytes = 256 << 20

// Stats says what is in a batch.
type Stats struct {
	// Records is the number of records.
	Records int32
	// PayloadBytes counts the bytes of keys, values and headers.
	PayloadBytes int64
}

// pooledBytes is the largest buffer that is kept for later use.
const pooledBytes = 4 << 20

// buffers holds *[]byte for the decompressed records of Check.
var buffers = sync.Pool{New: func() any { return new([]byte) }}

// Check checks a batch that Parse has returned, all of it: the producer's fields, and, decompressing, every record. It
// refuses transactional and control batches, times that the broker would set, attributes that are not known, and a
// max timestamp that is not the newest record's, since times are looked up by it. The errors are *TooLargeError and
// *CorruptError.
func (b Batch) Check(l Limits) (Stats, error) {
	limit := MaxDecompressedBytes
	if l.MaxBatchBytes > 0 {
		if len(b) > l.MaxBatchBytes {
			return Stats{}, &TooLargeError{What: "batch", Bytes: len(b), Limit: l.MaxBatchBytes}
		}
		limit = min(limit, l.MaxBatchBytes)
	}
	if err := b.checkHeader(); err != nil {
		return Stats{}, err
	}
	if b.Compression() == None {
		data, err := b.records(nil, limit)
		if err != nil {
			return Stats{}, err
		}
		return b.checkRecords(data, l)
	}
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	data, err := b.records(*buf, limit)
	if err != nil {
		return Stats{}, err
	}
	if cap(data) <= pooledBytes {
		*buf = data[:0]
	}
	return b.checkRecords(data, l)
}

func (b Batch) checkHeader() error {
	if err := b.checkCounts(); err != nil {
		return err
	}
	attributes := b.attributes()
	switch {
	case attributes&attrTransactional != 0:
		return corrupt(atAttributes, "transactional batches are not supported")
	case attributes&attrControl != 0:
		return corrupt(atAttributes, "control batches are not supported")
	case attributes&attrLogAppendTime != 0:
		return corrupt(atAttributes, "the timestamp type must be the producer's time")
	case attributes&^attrCompression != 0:
		return corrupt(atAttributes, "attributes %#04x are not known", attributes)
	case !b.Compression().known():
		return corrupt(atAttributes, "compression %d is not known", b.Compression())
	}
	id, epoch, sequence := b.ProducerID(), b.ProducerEpoch(), b.BaseSequence()
	switch {
	case id < -1:
		return corrupt(atProducerID, "producer id is %d", id)
	case id == -1 && (epoch != -1 || sequence != -1):
		return corrupt(atProducerEpoch, "epoch %d and sequence %d without a producer id", epoch, sequence)
	case id >= 0 && epoch < 0:
		return corrupt(atProducerEpoch, "producer epoch is %d", epoch)
	case id >= 0 && sequence < 0:
		return corrupt(atBaseSequence, "base sequence is %d", sequence)
	}
	return nil
}

// checkRecords walks the records. It allocates nothing unless it fails.
func (b Batch) checkRecords(data []byte, l Limits) (Stats, error) {
	var stats Stats
	var v view
	n, base := b.NumRecords(), b.BaseTimestamp()
	var newest int64
	c := cursor{buf: data}
	for i := range n {
		start := c.pos
		payload, err := v.check(&c)
		if err != nil {
			return Stats{}, shift(err, HeaderBytes)
		}
		if v.offsetDelta != i {
			return Stats{}, corrupt(HeaderBytes+start, "record %d has the offset delta %d", i, v.offsetDelta)
		}
		if l.MaxRecordBytes > 0 && payload > l.MaxRecordBytes {
			return Stats{}, &TooLargeError{What: "record", Bytes: payload, Limit: l.MaxRecordBytes}
		}
		at, ok := timestamp(base, v.timestampDelta)
		if !ok {
			return Stats{}, corrupt(HeaderBytes+start, "record %d: its timestamp overflows", i)
		}
		if i == 0 || at > newest {
			newest = at
		}
		stats.PayloadBytes += int64(payload)
	}
	if c.left() > 0 {
		return Stats{}, corrupt(HeaderBytes+c.pos, "%d bytes behind the last record", c.left())
	}
	if newest != b.MaxTimestamp() {
		return Stats{}, corrupt(atMaxTimestamp, "max timestamp is %d, the newest record's is %d", b.MaxTimestamp(), newest)
	}
	stats.Records = n
	return stats, nil
}

// check reads the record at c with its headers, and returns the bytes of key, value and headers.
func (v *view) check(c *cursor) (payload int, err error) {
	if err := v.next(c); err != nil {
		return 0, err
	}
	payload = len(v.key) + len(v.value)
	for range v.numHeaders {
		key, value, err := v.header()
		if err != nil {
			return 0, err
		}
		payload += len(key) + len(value)
	}
	return payload, v.end()
}

package logstore

import (
	"bytes"
	"io"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// keptEncodeBytes is the largest buffer that is kept for the next write.
const keptEncodeBytes = 4 << 20

// walCodec is raft-wal's own codec with one buffer for all writes. raft-wal hands over a new one for every entry, which
// grows as it is filled, and so doubles what a write allocates. raft-wal's lock for writers guards it.
type walCodec struct {
	wal.BinaryCodec
	set bool // raft-wal has taken it
	buf []byte
}

var (
	_ wal.Codec = (*walCodec)(nil)
	_ io.Writer = (*walCodec)(nil)
)

// ID implements wal.Codec. raft-wal marks its segments as its own codec's, whichever is set, and still wants a set one
// to have another id.
func (c *walCodec) ID() uint64 {
	if !c.set {
		return wal.FirstExternalCodecID
	}
	return c.BinaryCodec.ID()
}

// Encode implements wal.Codec. What it puts into w is valid until reset.
func (c *walCodec) Encode(l *raft.Log, w io.Writer) error {
	b, ok := w.(*bytes.Buffer)
	if !ok {
		return c.BinaryCodec.Encode(l, w)
	}
	from := len(c.buf)
	if err := c.BinaryCodec.Encode(l, c); err != nil {
		return err
	}
	*b = *bytes.NewBuffer(c.buf[from:len(c.buf):len(c.buf)])
	return nil
}

// Write appends to the buffer; it never fails.
func (c *walCodec) Write(p []byte) (int, error) {
	c.buf = append(c.buf, p...)
	return len(p), nil
}

// reset makes the buffer free for the next write.
func (c *walCodec) reset() {
	if cap(c.buf) > keptEncodeBytes {
		c.buf = nil
	}
	c.buf = c.buf[:0]
}

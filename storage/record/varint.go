package record

import (
	"encoding/binary"
	"math/bits"
)

// cursor reads the parts of a record. Its first failure is kept in bad, and everything read after it is zero.
type cursor struct {
	buf []byte
	pos int
	bad string
}

func (c *cursor) fail(reason string) {
	if c.bad == "" {
		c.bad = reason
		c.buf = c.buf[:c.pos]
	}
}

func (c *cursor) left() int { return len(c.buf) - c.pos }

// varlong reads a zigzag varint of 64 bits.
func (c *cursor) varlong() int64 {
	if c.pos < len(c.buf) && c.buf[c.pos] < 0x80 {
		v := c.buf[c.pos]
		c.pos++
		return int64(v>>1) ^ -int64(v&1)
	}
	v, n := binary.Varint(c.buf[c.pos:])
	if n <= 0 {
		c.fail("a varint is cut or too long")
		return 0
	}
	c.pos += n
	return v
}

// varint reads a zigzag varint of 32 bits.
func (c *cursor) varint() int32 {
	v := c.varlong()
	if int64(int32(v)) != v {
		c.fail("a varint is not of 32 bits")
		return 0
	}
	return int32(v)
}

// bytes reads a length and as many bytes; -1 is nil, if that is allowed.
func (c *cursor) bytes(nullable bool) []byte {
	n := int(c.varint())
	if n == -1 && nullable {
		return nil
	}
	if n < 0 || n > c.left() {
		c.fail("a length is out of bounds")
		return nil
	}
	v := c.buf[c.pos : c.pos+n : c.pos+n]
	c.pos += n
	return v
}

// varlongBytes returns the size of v as a zigzag varint.
func varlongBytes(v int64) int {
	u := uint64(v)<<1 ^ uint64(v>>63)
	return (bits.Len64(u|1) + 6) / 7
}

func appendBytes(dst, v []byte) []byte {
	if v == nil {
		return append(dst, 1) // -1
	}
	dst = binary.AppendVarint(dst, int64(len(v)))
	return append(dst, v...)
}

// nullableBytes returns the size of v with its length.
func nullableBytes(v []byte) int {
	if v == nil {
		return 1
	}
	return varlongBytes(int64(len(v))) + len(v)
}

package logstore

import (
	"io"

	"github.com/hashicorp/raft"
	wal "github.com/hashicorp/raft-wal"
)

// sizedCodec is raft-wal's own codec, with room made ahead: growing the buffer would copy every large entry.
type sizedCodec struct{ wal.BinaryCodec }

var _ wal.Codec = sizedCodec{}

// sizedOverhead is more than the codec adds to data and extensions.
const sizedOverhead = 128

// ID implements wal.Codec.
func (sizedCodec) ID() uint64 { return wal.FirstExternalCodecID + 1 }

// Encode implements wal.Codec.
func (c sizedCodec) Encode(l *raft.Log, w io.Writer) error {
	if g, ok := w.(interface{ Grow(n int) }); ok {
		g.Grow(len(l.Data) + len(l.Extensions) + sizedOverhead)
	}
	return c.BinaryCodec.Encode(l, w)
}

// Decode implements wal.Codec.
func (c sizedCodec) Decode(b []byte, l *raft.Log) error { return c.BinaryCodec.Decode(b, l) }

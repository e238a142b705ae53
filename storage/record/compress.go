package record

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression is the codec of a batch's records, with Kafka's numbers.
type Compression uint8

// The codecs.
const (
	None Compression = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

// String returns the codec's name.
func (c Compression) String() string {
	switch c {
	case None:
		return "none"
	case Gzip:
		return "gzip"
	case Snappy:
		return "snappy"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	default:
		return fmt.Sprintf("compression(%d)", uint8(c))
	}
}

var zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) { return zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1)) })

// compress returns src compressed by c.
func compress(c Compression, src []byte) ([]byte, error) {
	var buf bytes.Buffer
	switch c {
	case None:
		return src, nil
	case Gzip:
		err := writeAll(gzip.NewWriter(&buf), src)
		return buf.Bytes(), err
	case Snappy:
		return s2.EncodeSnappy(nil, src), nil
	case LZ4:
		err := writeAll(lz4.NewWriter(&buf), src)
		return buf.Bytes(), err
	case Zstd:
		enc, err := zstdEncoder()
		if err != nil {
			return nil, err
		}
		return enc.EncodeAll(src, nil), nil
	default:
		return nil, fmt.Errorf("%s is unknown", c)
	}
}

func writeAll(w io.WriteCloser, src []byte) error {
	if _, err := w.Write(src); err != nil {
		return err
	}
	return w.Close()
}

// decompress returns at most maxBytes of what src holds; more is ErrTooLarge.
func decompress(c Compression, src []byte, maxBytes int) ([]byte, error) {
	var out []byte
	var err error
	switch c {
	case Gzip:
		var r *gzip.Reader
		if r, err = gzip.NewReader(bytes.NewReader(src)); err == nil {
			out, err = readAll(r, maxBytes)
		}
	case Snappy:
		out, err = decompressSnappy(src, maxBytes)
	case LZ4:
		out, err = readAll(lz4.NewReader(bytes.NewReader(src)), maxBytes)
	case Zstd:
		var r *zstd.Decoder
		r, err = zstd.NewReader(bytes.NewReader(src), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(max(maxBytes, 1<<20))))
		if err == nil {
			out, err = readAll(r, maxBytes)
			r.Close()
		}
	default:
		return nil, corrupt(21, "%s is unknown", c)
	}
	if err != nil && !errors.Is(err, ErrTooLarge) {
		return nil, corrupt(headerBytes, "%s: %v", c, err)
	}
	return out, err
}

func readAll(r io.Reader, maxBytes int) ([]byte, error) {
	out, err := io.ReadAll(io.LimitReader(r, int64(maxBytes)+1))
	if err == nil && len(out) > maxBytes {
		return nil, tooLarge("decompressed batch", len(out), maxBytes)
	}
	return out, err
}

// xerialMagic begins the framing that Kafka's Java client puts around snappy blocks.
var xerialMagic = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}

// decompressSnappy reads a bare block, or blocks in xerial's framing: magic, two versions, then length and block each.
func decompressSnappy(src []byte, maxBytes int) ([]byte, error) {
	if !bytes.HasPrefix(src, xerialMagic) {
		return snappyBlock(nil, src, maxBytes)
	}
	if len(src) < 16 {
		return nil, io.ErrUnexpectedEOF
	}
	var out []byte
	var err error
	for src = src[16:]; len(src) > 0; {
		if len(src) < 4 {
			return nil, io.ErrUnexpectedEOF
		}
		n := int64(int32(binary.BigEndian.Uint32(src)))
		if n < 0 || n > int64(len(src)-4) {
			return nil, io.ErrUnexpectedEOF
		}
		if out, err = snappyBlock(out, src[4:4+n], maxBytes); err != nil {
			return nil, err
		}
		src = src[4+n:]
	}
	return out, nil
}

func snappyBlock(dst, block []byte, maxBytes int) ([]byte, error) {
	n, err := s2.DecodedLen(block)
	if err != nil {
		return nil, err
	}
	if n > maxBytes-len(dst) {
		return nil, tooLarge("decompressed batch", n+len(dst), maxBytes)
	}
	part, err := s2.Decode(nil, block)
	if err != nil {
		return nil, err
	}
	return append(dst, part...), nil
}

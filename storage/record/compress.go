package record

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// Compression is how the records of a batch are compressed, by Kafka's numbers.
type Compression uint8

// The compressions.
const (
	None Compression = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var compressionNames = [...]string{None: "none", Gzip: "gzip", Snappy: "snappy", LZ4: "lz4", Zstd: "zstd"}

// String returns the name, as Kafka's configuration spells it.
func (c Compression) String() string {
	if c.known() {
		return compressionNames[c]
	}
	return fmt.Sprintf("compression(%d)", uint8(c))
}

func (c Compression) known() bool { return c <= Zstd }

// firstBytes is the least that is made room for when the decompressed size is not known.
const firstBytes = 4 << 10

const (
	// zstdWindowBytes bounds the memory of an encoder.
	zstdWindowBytes = 1 << 20
	// zstdFloorBytes is the window that a decoder has to know at least, by RFC 8878. The library's bound for what it
	// decodes is one for windows too.
	zstdFloorBytes = 8 << 20
	zstdDecoderNum = 6
)

// Encoders and decoders are large, and used again.
var (
	gzipWriters = sync.Pool{New: func() any { return gzip.NewWriter(io.Discard) }}
	gzipReaders = sync.Pool{New: func() any { return new(gzip.Reader) }}
	lz4Writers  = sync.Pool{New: func() any { return lz4.NewWriter(io.Discard) }}
	lz4Readers  = sync.Pool{New: func() any { return lz4.NewReader(nil) }}

	// Both are safe for concurrent use by their EncodeAll and DecodeAll.
	zstdEncoder = sync.OnceValues(func() (*zstd.Encoder, error) {
		return zstd.NewWriter(nil, zstd.WithWindowSize(zstdWindowBytes))
	})
	// zstdDecoders[i] decodes up to zstdFloorBytes<<i.
	zstdDecoders = func() (decoders [zstdDecoderNum]func() (*zstd.Decoder, error)) {
		for i := range decoders {
			decoders[i] = sync.OnceValues(func() (*zstd.Decoder, error) {
				return zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(zstdFloorBytes<<i))
			})
		}
		return decoders
	}()
)

// compress appends src to dst, compressed.
func compress(dst []byte, c Compression, src []byte) ([]byte, error) {
	switch c {
	case None:
		return append(dst, src...), nil
	case Gzip:
		w := gzipWriters.Get().(*gzip.Writer)
		defer gzipWriters.Put(w)
		return compressStream(dst, c, w, src)
	case Snappy:
		dst = slices.Grow(dst, s2.MaxEncodedLen(len(src)))
		return dst[:len(dst)+len(s2.EncodeSnappy(dst[len(dst):cap(dst)], src))], nil
	case LZ4:
		w := lz4Writers.Get().(*lz4.Writer)
		defer lz4Writers.Put(w)
		return compressStream(dst, c, w, src)
	case Zstd:
		enc, err := zstdEncoder()
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", c, err)
		}
		return enc.EncodeAll(src, dst), nil
	default:
		return nil, fmt.Errorf("%w: %s is not known", ErrInvalidRecord, c)
	}
}

// streamWriter is what gzip and lz4 have in common.
type streamWriter interface {
	io.WriteCloser
	Reset(io.Writer)
}

func compressStream(dst []byte, c Compression, w streamWriter, src []byte) ([]byte, error) {
	out := bytes.NewBuffer(dst)
	w.Reset(out)
	_, err := w.Write(src)
	if err = errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("compress by %s: %w", c, err)
	}
	w.Reset(io.Discard)
	return out.Bytes(), nil
}

// errOverLimit is told from what the libraries return for bad bytes.
var errOverLimit = errors.New("over the limit")

// decompress returns the decompressed src, in dst's memory or, where that is too small, in memory of its own. It never
// makes room for more than a small multiple of limit. The errors are *TooLargeError and *CorruptError.
func decompress(dst []byte, c Compression, src []byte, limit int) ([]byte, error) {
	var err error
	dst = dst[:0]
	switch c {
	case Gzip:
		dst, err = gunzip(dst, src, limit)
	case Snappy:
		dst, err = unsnappy(dst, src, limit)
	case LZ4:
		dst, err = unlz4(dst, src, limit)
	case Zstd:
		dst, err = unzstd(dst, src, limit)
	case None:
		return append(dst, src...), nil
	default:
		return nil, corrupt(atAttributes, "%s is not known", c)
	}
	switch {
	case errors.Is(err, errOverLimit):
		return nil, &TooLargeError{What: "decompressed batch", Bytes: limit + 1, Limit: limit}
	case err != nil:
		return nil, corrupt(HeaderBytes, "%s: %s", c, err)
	}
	return dst, nil
}

func gunzip(dst, src []byte, limit int) ([]byte, error) {
	r := gzipReaders.Get().(*gzip.Reader)
	defer gzipReaders.Put(r)
	if err := r.Reset(bytes.NewReader(src)); err != nil {
		return nil, err
	}
	return readAll(dst, r, len(src), limit)
}

func unlz4(dst, src []byte, limit int) ([]byte, error) {
	r := lz4Readers.Get().(*lz4.Reader)
	defer lz4Readers.Put(r)
	r.Reset(bytes.NewReader(src))
	defer r.Reset(nil)
	return readAll(dst, r, len(src), limit)
}

// readAll reads r to its end into dst, at most limit bytes. Room grows with what was read, not with what is claimed.
func readAll(dst []byte, r io.Reader, packed, limit int) ([]byte, error) {
	for grow := max(firstBytes, 2*packed); ; grow = max(firstBytes, cap(dst)) {
		if len(dst) == cap(dst) {
			// One byte more than the limit shows that there is more.
			dst = slices.Grow(dst, min(grow, limit+1-len(dst)))
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if len(dst) > limit {
			return nil, errOverLimit
		}
		if errors.Is(err, io.EOF) {
			return dst, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

// unzstd decodes with room for at most twice the limit, or zstdFloorBytes, whatever a frame claims.
func unzstd(dst, src []byte, limit int) ([]byte, error) {
	var h zstd.Header
	if h.Decode(src) == nil && h.HasFCS && h.FrameContentSize > uint64(limit) {
		return nil, errOverLimit
	}
	i := 0
	for i < zstdDecoderNum-1 && zstdFloorBytes<<i < limit {
		i++
	}
	dec, err := zstdDecoders[i]()
	if err != nil {
		return nil, err
	}
	out, err := dec.DecodeAll(src, dst)
	if len(out) > limit || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		return nil, errOverLimit
	}
	return out, err
}

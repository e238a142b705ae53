package record

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"runtime"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/snappy/xerial"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/stretchr/testify/require"
)

func pack(tb testing.TB, c Compression, src []byte) []byte {
	tb.Helper()
	out, err := compress(nil, c, src)
	require.NoError(tb, err)
	return out
}

func TestCompressAppends(t *testing.T) {
	src := bytes.Repeat([]byte("compress me "), 1000)
	for _, codec := range codecs {
		t.Run(codec.String(), func(t *testing.T) {
			out, err := compress([]byte("before"), codec, src)
			require.NoError(t, err)
			require.Equal(t, "before", string(out[:6]))
			got, err := decompress(nil, codec, out[6:], len(src))
			require.NoError(t, err)
			require.Equal(t, src, got)
		})
	}
	_, err := compress(nil, 7, src)
	require.Error(t, err)
	require.Equal(t, "compression(7)", Compression(7).String())
}

func TestDecompressLimits(t *testing.T) {
	random := make([]byte, 300_000)
	_, err := rand.Read(random)
	require.NoError(t, err)
	for _, codec := range codecs[1:] {
		for name, src := range map[string][]byte{"zeros": make([]byte, 300_000), "random": random, "byte": {1}} {
			t.Run(codec.String()+"/"+name, func(t *testing.T) {
				packed := pack(t, codec, src)
				got, err := decompress(make([]byte, 3, 100), codec, packed, len(src))
				require.NoError(t, err)
				require.Equal(t, src, got)
				_, err = decompress(nil, codec, packed, len(src)-1)
				require.ErrorIs(t, err, ErrTooLarge)
				for _, n := range []int{1, len(packed) / 2, len(packed) - 1} {
					if n < len(packed) {
						_, err = decompress(nil, codec, packed[:n], len(src))
						require.Error(t, err, "cut to %d of %d bytes", n, len(packed))
					}
				}
			})
		}
	}
}

// A bomb of 128 MiB and more must cost no more memory than the limit asks for.
func TestDecompressBombs(t *testing.T) {
	const limit = 1 << 20
	huge := make([]byte, 128<<20)
	claim := binary.AppendUvarint(nil, 1<<31) // a snappy block of 2 GiB in 5 bytes
	zstdClaim := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0}
	tests := []struct {
		name  string
		codec Compression
		src   []byte
	}{
		{"gzip", Gzip, pack(t, Gzip, huge)},
		{"lz4", LZ4, pack(t, LZ4, huge)},
		{"zstd", Zstd, pack(t, Zstd, huge)},
		{"zstd without a size", Zstd, zstdStream(t, huge)},
		{"zstd that claims 4 GiB", Zstd, zstdClaim},
		{"zstd in two frames", Zstd, append(pack(t, Zstd, nil), pack(t, Zstd, huge)...)},
		{"snappy", Snappy, pack(t, Snappy, huge)},
		{"snappy that claims 2 GiB", Snappy, claim},
		{"xerial", Snappy, xerial.Encode(nil, huge)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			bytes := allocated(func() {
				_, err := decompress(nil, tt.codec, tt.src, limit)
				require.Error(t, err)
			})
			require.Less(t, bytes, uint64(64*limit))
		})
	}
}

// allocated returns the bytes that fn allocates, once pools are warm.
func allocated(fn func()) uint64 {
	fn()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func zstdStream(tb testing.TB, src []byte) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w, err := zstd.NewWriter(&buf, zstd.WithEncoderConcurrency(1))
	require.NoError(tb, err)
	for _, half := range [][]byte{src[:len(src)/2], src[len(src)/2:]} {
		_, err = w.Write(half)
		require.NoError(tb, err)
	}
	require.NoError(tb, w.Close())
	return buf.Bytes()
}

// What other clients write: streams without a size, several members, the frame of Kafka's Java client.
func TestDecompressOtherWriters(t *testing.T) {
	src := bytes.Repeat([]byte("0123456789abcdef"), 10_000)
	var gz, l4 bytes.Buffer
	for _, half := range [][]byte{src[:len(src)/2], src[len(src)/2:]} {
		gw := gzip.NewWriter(&gz)
		_, err := gw.Write(half)
		require.NoError(t, err)
		require.NoError(t, gw.Close())
	}
	lw := lz4.NewWriter(&l4)
	require.NoError(t, lw.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.BlockChecksumOption(true), lz4.SizeOption(uint64(len(src)))))
	_, err := lw.Write(src)
	require.NoError(t, err)
	require.NoError(t, lw.Close())
	tests := []struct {
		name  string
		codec Compression
		src   []byte
	}{
		{"gzip of two members", Gzip, gz.Bytes()},
		{"lz4 with checksums and size", LZ4, l4.Bytes()},
		{"zstd stream", Zstd, zstdStream(t, src)},
		{"zstd in two frames", Zstd, append(pack(t, Zstd, src[:10]), pack(t, Zstd, src[10:])...)},
		{"snappy in xerial blocks", Snappy, xerial.Encode(nil, src)},
		{"snappy in one block", Snappy, s2.EncodeSnappyBest(nil, src)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := decompress(nil, tt.codec, tt.src, len(src))
			require.NoError(t, err)
			require.Equal(t, src, got)
			_, err = decompress(nil, tt.codec, tt.src, len(src)-1)
			require.ErrorIs(t, err, ErrTooLarge)
		})
	}
}

func TestSnappyRefuses(t *testing.T) {
	frame := xerial.Encode(nil, []byte("hello hello hello"))
	// s2 knows a copy of offset 0, snappy does not: other clients could not read it.
	repeat := []byte{9, 0, 'a', 0x01, 1, 0x01, 0}
	tests := map[string][]byte{
		"nothing":                    nil,
		"a frame cut in its header":  frame[:12],
		"a frame cut in a length":    frame[:18],
		"a frame cut in a block":     frame[:len(frame)-1],
		"a negative length":          append(bytes.Clone(frame[:16]), 0xff, 0xff, 0xff, 0xff),
		"a block that is not snappy": append(bytes.Clone(frame[:16]), 0, 0, 0, 1, 0xff),
		"what only s2 can read":      repeat,
	}
	for name, src := range tests {
		t.Run(name, func(t *testing.T) {
			_, err := decompress(nil, Snappy, src, 1<<20)
			require.ErrorIs(t, err, ErrCorrupt)
		})
	}
}

package segment

import (
	"encoding/binary"
	"hash/crc32"
	"math"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// An object, all numbers big endian:
//
//	magic 8 | segments' batches | segments' indexes | footer | trailer 32
//
// Its trailer:
//
//	 0               8            12            16        20            24         32
//	+---------------+------------+-------------+---------+-------------+----------+
//	| footer at u64 | bytes u32  | CRC32C u32  | version | CRC32C u32  | magic    |
//	+---------------+------------+-------------+---------+-------------+----------+
const (
	headMagic  = "SHOBJCT\x01"
	trailMagic = "SHOBJEND"

	formatVersion = 1

	headBytes      = int64(len(headMagic))
	trailerBytes   = 32
	trailerCovered = 20 // bytes of the trailer that its CRC32C covers

	// maxFooterBytes bounds a footer: hundreds of thousands of segments.
	maxFooterBytes = 64 << 20
	// minObjectBytes is less than any object has.
	minObjectBytes = headBytes + record.HeaderBytes + minIndexBytes + trailerBytes
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// trailer is where the footer is.
type trailer struct {
	footerAt    int64
	footerBytes int64
	footerCRC   uint32
}

func appendTrailer(dst []byte, t trailer) []byte {
	at := len(dst)
	dst = binary.BigEndian.AppendUint64(dst, uint64(t.footerAt))
	dst = binary.BigEndian.AppendUint32(dst, uint32(t.footerBytes))
	dst = binary.BigEndian.AppendUint32(dst, t.footerCRC)
	dst = binary.BigEndian.AppendUint32(dst, formatVersion)
	dst = binary.BigEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
	return append(dst, trailMagic...)
}

// parseTrailer reads the last trailerBytes of an object of sizeBytes.
func parseTrailer(object string, b []byte, sizeBytes int64) (trailer, error) {
	at := sizeBytes - trailerBytes
	if string(b[trailerBytes-len(trailMagic):]) != trailMagic {
		return trailer{}, corrupt(object, sizeBytes-int64(len(trailMagic)), "it does not end in the magic of an object")
	}
	be := binary.BigEndian
	if want, got := be.Uint32(b[trailerCovered:]), crc32.Checksum(b[:trailerCovered], castagnoli); want != got {
		return trailer{}, corrupt(object, at, "the trailer's CRC32C is %08x, its bytes have %08x", want, got)
	}
	if v := be.Uint32(b[16:]); v != formatVersion {
		return trailer{}, unknownVersion(object, v)
	}
	footerAt, n := be.Uint64(b), be.Uint32(b[8:])
	if n > maxFooterBytes || footerAt < uint64(headBytes) || footerAt > uint64(at) || footerAt+uint64(n) != uint64(at) {
		return trailer{}, corrupt(object, at, "a footer of %d bytes at %d does not fit", n, footerAt)
	}
	return trailer{footerAt: int64(footerAt), footerBytes: int64(n), footerCRC: be.Uint32(b[12:])}, nil
}

// checkEntry checks that what is said of a segment can be true, before anything is read by it. position is that of what
// says it, or 0 for the manifest.
func checkEntry(object string, position int64, e *metav1.SegmentEntry) error {
	base, end := e.GetBaseOffset(), e.GetEndOffset()
	if base < 0 || end <= base {
		return corrupt(object, position, "a segment from offset %d to %d", base, end)
	}
	at, size := e.GetPosition(), e.GetSizeBytes()
	if at < uint64(headBytes) || size < record.HeaderBytes || at > math.MaxInt64-size {
		return corrupt(object, position, "a segment of %d bytes at %d", size, at)
	}
	indexAt, n := e.GetIndexPosition(), e.GetIndexBytes()
	if indexAt < at+size || n > maxIndexBytes || indexAt > math.MaxInt64-n {
		return corrupt(object, position, "an index of %d bytes at %d behind a segment of %d bytes at %d", n, indexAt, size, at)
	}
	if n < minIndexBytes || (n-indexHeaderBytes-crcBytes)%indexEntryBytes != 0 || indexCount(n) > size/record.HeaderBytes {
		return corrupt(object, position, "an index of %d bytes for a segment of %d", n, size)
	}
	return nil
}

package logstore

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"sync"

	"github.com/hashicorp/raft"
	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// A segment file is raft-wal's, little endian (its package segment):
//
//	header: magic uint32, reserved 3, version uint8, base index uint64, segment id uint64, codec uint64
//	frames: type uint8, reserved 3, length or CRC32C uint32, payload, zeros up to a multiple of 8
//
// A commit frame has the CRC of everything since the commit before it, and no payload.
const (
	segmentMagic       = 0x58eb6b0d
	segmentHeaderBytes = 32
	frameHeaderBytes   = 8
)

// segmentScan is what a segment file has, up to the last commit behind which nothing is wrong.
type segmentScan struct {
	info    types.SegmentInfo
	file    string
	entries []scannedEntry
	// end is the position behind the last good commit.
	end int64
	// indexStart is the position of raft-wal's index of a full segment, 0 where it has none.
	indexStart uint64
	// reason says why the scan ended there, "" where zeros or the file's end follow.
	reason string
	// torn says that there is something behind end.
	torn bool
	// followed says that a whole write is among that.
	followed bool
}

type scannedEntry struct {
	position, bytes uint32 // of the frame; of the entry's data and extensions
	term            uint64
}

// last returns the last index, 0 where there are no entries.
func (s *segmentScan) last() uint64 {
	if len(s.entries) == 0 {
		return 0
	}
	return s.info.BaseIndex + uint64(len(s.entries)) - 1
}

// damaged says that the entry at index is missing.
func (s *segmentScan) damaged(index uint64) error {
	reason := s.reason
	if reason == "" {
		reason = "the segment ends before it"
	}
	return &CorruptError{File: s.file, Index: index, Reason: reason}
}

// scanSegment reads a whole segment. It never fails: what is wrong ends the scan.
func scanSegment(b []byte, file string, info types.SegmentInfo) *segmentScan {
	s := &segmentScan{info: info, file: file}
	if s.reason = checkSegmentHeader(b, info); s.reason == "" {
		s.scanFrames(b)
	}
	s.torn = !isZero(b[s.end:])
	s.followed = s.torn && s.wholeWriteBehind(b)
	return s
}

// wholeWriteBehind says whether behind the scan's end a write is whole that came after the one that is not. Since every
// write is synced before the next one begins, the damage is then none that a power cut has left of the last write.
func (s *segmentScan) wholeWriteBehind(b []byte) bool {
	next := max(s.last()+1, s.info.BaseIndex)
	for at := int(s.end); at+frameHeaderBytes <= len(b); at += 8 {
		if binary.LittleEndian.Uint32(b[at:]) == uint32(segment.FrameCommit) && isWholeWrite(b, at+frameHeaderBytes, next) {
			return true
		}
	}
	return false
}

// isWholeWrite says whether at a position a write of entries behind index begins, and ends with its commit.
func isWholeWrite(b []byte, from int, index uint64) bool {
	entries := 0
	for at := from; at+frameHeaderBytes <= len(b); {
		typ, n := b[at], binary.LittleEndian.Uint32(b[at+4:])
		body := at + frameHeaderBytes
		if typ == segment.FrameCommit {
			return entries > 0 && crc32.Checksum(b[from:at], castagnoli) == n
		}
		next := int64(body) + (int64(n)+7)&^7
		if next > int64(len(b)) {
			return false
		}
		switch typ {
		case segment.FrameEntry:
			found, _ := binary.Uvarint(b[body:])
			if _, reason := scanEntry(b[body:body+int(n)], found); found <= index || reason != "" {
				return false
			}
			index = found
			entries++
		case segment.FrameIndex:
		default:
			return false
		}
		at = int(next)
	}
	return false
}

func (s *segmentScan) scanFrames(b []byte) {
	var (
		at, crcFrom = segmentHeaderBytes, 0
		pending     []scannedEntry
		indexStart  uint64
	)
	s.end = segmentHeaderBytes
	for at+frameHeaderBytes <= len(b) {
		typ, n := b[at], binary.LittleEndian.Uint32(b[at+4:])
		body := at + frameHeaderBytes
		if typ == segment.FrameCommit {
			if crc := crc32.Checksum(b[crcFrom:at], castagnoli); crc != n {
				s.reason = fmt.Sprintf("the CRC of the write up to position %d is %08x, computed %08x", at, n, crc)
				return
			}
			s.entries, pending = append(s.entries, pending...), pending[:0]
			s.end, s.indexStart = int64(body), indexStart
			at, crcFrom = body, body
			continue
		}
		if binary.LittleEndian.Uint64(b[at:]) == 0 {
			return
		}
		next := int64(body) + (int64(n)+7)&^7
		if next > int64(len(b)) {
			s.reason = fmt.Sprintf("the frame at position %d is longer than the file", at)
			return
		}
		switch typ {
		case segment.FrameEntry:
			index := s.info.BaseIndex + uint64(len(s.entries)+len(pending))
			e, reason := scanEntry(b[body:body+int(n)], index)
			if reason != "" {
				s.reason = fmt.Sprintf("entry %d at position %d: %s", index, at, reason)
				return
			}
			e.position = uint32(at)
			pending = append(pending, e)
		case segment.FrameIndex:
			indexStart = uint64(body)
		default:
			s.reason = fmt.Sprintf("the frame at position %d is of type %d", at, typ)
			return
		}
		at = int(next)
	}
}

var zeros [4096]byte

func isZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

func checkSegmentHeader(b []byte, info types.SegmentInfo) string {
	switch {
	case len(b) < segmentHeaderBytes:
		return "the file is shorter than its header"
	case binary.LittleEndian.Uint64(b) != segmentMagic:
		return "it does not begin with the magic of a segment"
	case binary.LittleEndian.Uint64(b[8:]) != info.BaseIndex,
		binary.LittleEndian.Uint64(b[16:]) != info.ID,
		binary.LittleEndian.Uint64(b[24:]) != info.Codec:
		return "its header is that of another segment"
	}
	return ""
}

// scanEntry checks one entry, as raft-wal's BinaryCodec writes it, without copying it.
func scanEntry(p []byte, index uint64) (scannedEntry, string) {
	const malformed = "it can't be decoded"
	var head [3]uint64 // index, term, type
	for i := range head {
		v, n := binary.Uvarint(p)
		if n <= 0 {
			return scannedEntry{}, malformed
		}
		head[i], p = v, p[n:]
	}
	var fields [2][]byte // data, extensions
	for i := range fields {
		v, n := binary.Uvarint(p)
		if n <= 0 || v > uint64(len(p)-n) {
			return scannedEntry{}, malformed
		}
		fields[i], p = p[n:n+int(v)], p[n+int(v):]
	}
	data, ext := fields[0], fields[1]
	if head[2] > 255 {
		return scannedEntry{}, malformed
	}
	if reason := checkCRC(index, head[0], head[1], raft.LogType(head[2]), ext, data); reason != "" {
		return scannedEntry{}, reason
	}
	return scannedEntry{term: head[1], bytes: uint32(len(data) + len(ext) - crcBytes)}, ""
}

// sealedReader reads entries of a full segment by the positions that its scan found, and so also of a segment that
// raft-wal can't read after a restart because it was cut at its end and has no index.
type sealedReader struct {
	f         *os.File
	info      types.SegmentInfo
	positions []uint32 // of the frames, and of the end
}

var _ types.SegmentReader = (*sealedReader)(nil)

func newSealedReader(f *os.File, info types.SegmentInfo, scan *segmentScan) *sealedReader {
	n := info.MaxIndex - info.BaseIndex + 1
	r := &sealedReader{f: f, info: info, positions: make([]uint32, 0, n+1)}
	for _, e := range scan.entries[:n] {
		r.positions = append(r.positions, e.position)
	}
	end := uint32(scan.end)
	if uint64(len(scan.entries)) > n {
		end = scan.entries[n].position
	}
	r.positions = append(r.positions, end)
	return r
}

// pooledBytes is the largest buffer that is kept for the next read.
const pooledBytes = 1 << 20

var readBuffers = sync.Pool{New: func() any { return new([]byte) }}

// GetLog implements types.SegmentReader.
func (r *sealedReader) GetLog(index uint64) (*types.PooledBuffer, error) {
	if index < r.info.MinIndex || index > r.info.MaxIndex {
		return nil, types.ErrNotFound
	}
	i := index - r.info.BaseIndex
	from, to := r.positions[i], r.positions[i+1]
	pooled := readBuffers.Get().(*[]byte)
	if n := int(to - from); cap(*pooled) < n {
		*pooled = make([]byte, n)
	}
	release := func() {
		if cap(*pooled) <= pooledBytes {
			readBuffers.Put(pooled)
		}
	}
	b := (*pooled)[:to-from]
	if _, err := r.f.ReadAt(b, int64(from)); err != nil {
		release()
		return nil, err
	}
	n := binary.LittleEndian.Uint32(b[4:])
	if b[0] != segment.FrameEntry || int64(n) > int64(len(b)-frameHeaderBytes) {
		release()
		return nil, fmt.Errorf("the frame at position %d is not the entry's", from)
	}
	return &types.PooledBuffer{Bs: b[frameHeaderBytes : frameHeaderBytes+n], CloseFn: release}, nil
}

// Close implements io.Closer.
func (r *sealedReader) Close() error { return r.f.Close() }

// readWhole reads a file into buf, which grows as needed.
func readWhole(f *os.File, buf []byte) ([]byte, error) {
	st, err := f.Stat()
	if err != nil {
		return buf, err
	}
	n := int(st.Size())
	if cap(buf) < n {
		buf = make([]byte, n)
	}
	_, err = io.ReadFull(io.NewSectionReader(f, 0, int64(n)), buf[:n])
	return buf[:n], err
}

package shard

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/streamhouse/streamhouse/storage/record"
)

// An entry is the data of one Raft log entry of a shard (docs/format/shard-entry.md):
//
//	 0        1        2                         10
//	+--------+--------+-------------------------+------------------
//	| version| kind   | time, ms, big endian    | body by kind ...
//	+--------+--------+-------------------------+------------------
//
// The CRC of an entry is the log store's.
const (
	entryVersion     = 1
	entryHeaderBytes = 10
	// appendItemBytes precedes every batch of an append: partition id and length.
	appendItemBytes = 12
	// maxEntryItems bounds what a decoder takes from one entry.
	maxEntryItems = 1 << 20
)

type entryKind byte

const (
	kindAppend       entryKind = 1
	kindOffsetCommit entryKind = 2
	kindUploaded     entryKind = 3
	kindDrop         entryKind = 4
	kindGroup        entryKind = 5
	kindMemberCommit entryKind = 6
	kindSeed         entryKind = 7
	// kindNumberedCommit is kindMemberCommit with a sequence.
	kindNumberedCommit entryKind = 8
)

// changesGroups says whether an entry of the kind may change groups or their offsets.
func (k entryKind) changesGroups() bool {
	switch k {
	case kindOffsetCommit, kindMemberCommit, kindNumberedCommit, kindGroup, kindDrop:
		return true
	default:
		return false
	}
}

var (
	// errEntryCorrupt is wrapped by every failure to decode an entry.
	errEntryCorrupt = errors.New("shard entry is corrupt")
	// errEntryVersion says that the entry was written by a newer version.
	errEntryVersion = errors.New("shard entry has an unknown version or kind")
)

// uploadedEnd is how far a partition is in the object store.
type uploadedEnd struct {
	partitionID uint64
	end         int64
}

// offsetCommit is a group's committed offsets, all of them or none.
type offsetCommit struct {
	group    string
	member   string // empty where the group has no members
	epoch    int32
	sequence int64 // of the member's commits; 0 where it gave none
	offsets  []GroupOffset
}

func appendHeader(dst []byte, kind entryKind, timeMs int64) []byte {
	dst = append(dst, entryVersion, byte(kind))
	return binary.BigEndian.AppendUint64(dst, uint64(timeMs))
}

// entrySize returns the bytes that an append entry needs for these batches.
func entrySize(batches []AppendBatch) int {
	n := 0
	for i := range batches {
		n += appendItemBytes + len(batches[i].Data)
	}
	return n
}

func appendAppendItem(dst []byte, b AppendBatch) []byte {
	dst = binary.BigEndian.AppendUint64(dst, b.PartitionID)
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(b.Data)))
	return append(dst, b.Data...)
}

func encodeUploaded(timeMs int64, ends []uploadedEnd) []byte {
	dst := appendHeader(make([]byte, 0, entryHeaderBytes+16*len(ends)), kindUploaded, timeMs)
	for _, e := range ends {
		dst = binary.BigEndian.AppendUint64(dst, e.partitionID)
		dst = binary.BigEndian.AppendUint64(dst, uint64(e.end))
	}
	return dst
}

func encodeDrop(timeMs int64, ids []uint64) []byte {
	dst := appendHeader(make([]byte, 0, entryHeaderBytes+8*len(ids)), kindDrop, timeMs)
	for _, id := range ids {
		dst = binary.BigEndian.AppendUint64(dst, id)
	}
	return dst
}

func encodeOffsetCommit(timeMs int64, c offsetCommit) []byte {
	return appendCommitBody(appendHeader(nil, kindOffsetCommit, timeMs), c)
}

func appendString(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendCommitBody(dst []byte, c offsetCommit) []byte {
	dst = appendString(dst, c.group)
	for _, o := range c.offsets {
		dst = binary.BigEndian.AppendUint64(dst, o.PartitionID)
		dst = binary.BigEndian.AppendUint64(dst, uint64(o.Offset))
		dst = appendString(dst, o.Metadata)
	}
	return dst
}

// entryHeader returns the kind and the time of an entry, and its body.
func entryHeader(data []byte) (kind entryKind, timeMs int64, body []byte, err error) {
	if len(data) < entryHeaderBytes {
		return 0, 0, nil, fmt.Errorf("%w: %d bytes", errEntryCorrupt, len(data))
	}
	if data[0] != entryVersion {
		return 0, 0, nil, fmt.Errorf("%w: version %d", errEntryVersion, data[0])
	}
	kind = entryKind(data[1])
	if kind < kindAppend || kind > kindNumberedCommit {
		return 0, 0, nil, fmt.Errorf("%w: kind %d", errEntryVersion, data[1])
	}
	return kind, int64(binary.BigEndian.Uint64(data[2:])), data[entryHeaderBytes:], nil
}

// eachAppend calls fn for every batch of an append's body, with its place among them. The batches alias body. Their
// CRCs were checked when they were taken in, and the log store checks the entry's own.
func eachAppend(body []byte, fn func(i int, partitionID uint64, b record.Batch) error) error {
	for i := 0; len(body) > 0; i++ {
		if len(body) < appendItemBytes || i >= maxEntryItems {
			return fmt.Errorf("%w: append item %d is cut", errEntryCorrupt, i)
		}
		id := binary.BigEndian.Uint64(body)
		n := binary.BigEndian.Uint32(body[8:])
		body = body[appendItemBytes:]
		if n < recordBatchMinBytes || uint64(n) > uint64(len(body)) {
			return fmt.Errorf("%w: append item %d has %d bytes of %d", errEntryCorrupt, i, n, len(body))
		}
		if err := fn(i, id, record.Batch(body[:n:n])); err != nil {
			return err
		}
		body = body[n:]
	}
	return nil
}

// recordBatchMinBytes is the size of a record batch's header (KIP-98).
const recordBatchMinBytes = 61

func decodeUploaded(body []byte) ([]uploadedEnd, error) {
	if len(body)%16 != 0 {
		return nil, fmt.Errorf("%w: uploaded body of %d bytes", errEntryCorrupt, len(body))
	}
	ends := make([]uploadedEnd, 0, len(body)/16)
	for ; len(body) > 0; body = body[16:] {
		ends = append(ends, uploadedEnd{binary.BigEndian.Uint64(body), int64(binary.BigEndian.Uint64(body[8:]))})
	}
	return ends, nil
}

func decodeDrop(body []byte) ([]uint64, error) {
	if len(body)%8 != 0 {
		return nil, fmt.Errorf("%w: drop body of %d bytes", errEntryCorrupt, len(body))
	}
	ids := make([]uint64, 0, len(body)/8)
	for ; len(body) > 0; body = body[8:] {
		ids = append(ids, binary.BigEndian.Uint64(body))
	}
	return ids, nil
}

func decodeOffsetCommit(body []byte) (offsetCommit, error) {
	group, body, err := takeString(body)
	if err != nil {
		return offsetCommit{}, err
	}
	c := offsetCommit{group: group}
	for len(body) > 0 {
		if len(body) < 16 {
			return offsetCommit{}, fmt.Errorf("%w: offset of group %q is cut", errEntryCorrupt, group)
		}
		o := GroupOffset{PartitionID: binary.BigEndian.Uint64(body), Offset: int64(binary.BigEndian.Uint64(body[8:]))}
		if o.Metadata, body, err = takeString(body[16:]); err != nil {
			return offsetCommit{}, err
		}
		c.offsets = append(c.offsets, o)
	}
	return c, nil
}

func takeString(b []byte) (string, []byte, error) {
	n, size := binary.Uvarint(b)
	if size <= 0 || n > uint64(len(b)-size) {
		return "", nil, fmt.Errorf("%w: string is cut", errEntryCorrupt)
	}
	end := size + int(n)
	return string(b[size:end]), b[end:], nil
}

package logstore

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/hashicorp/raft"
)

// An entry's CRC (docs/format/log-entry-crc.md) stands in front of its extensions, big endian:
//
//	+---------------+--------------------+
//	| CRC32C uint32 | extensions of Raft |
//	+---------------+--------------------+
//
// It covers index and term (uint64 each), type (1 byte), the extensions of Raft, and the data.
const crcBytes = 4

// entryCRC computes the CRC of an entry; ext are the extensions without the CRC.
func entryCRC(index, term uint64, typ raft.LogType, ext, data []byte) uint32 {
	var head [17]byte
	binary.BigEndian.PutUint64(head[:], index)
	binary.BigEndian.PutUint64(head[8:], term)
	head[16] = byte(typ)
	crc := crc32.Update(0, castagnoli, head[:])
	crc = crc32.Update(crc, castagnoli, ext)
	return crc32.Update(crc, castagnoli, data)
}

// checkCRC returns a reason why an entry as it is stored is not the one that was written at index, or "".
func checkCRC(want, index, term uint64, typ raft.LogType, ext, data []byte) string {
	if index != want {
		return fmt.Sprintf("the entry is that of index %d", index)
	}
	if len(ext) < crcBytes {
		return "the entry has no CRC"
	}
	stored, computed := binary.BigEndian.Uint32(ext), entryCRC(index, term, typ, ext[crcBytes:], data)
	if stored != computed {
		return fmt.Sprintf("the CRC is %08x, computed %08x", stored, computed)
	}
	return ""
}

// seal returns the entries with their CRCs. Raft shares its entries with others: they are not changed.
func seal(logs []*raft.Log) []*raft.Log {
	size := 0
	for _, l := range logs {
		size += crcBytes + len(l.Extensions)
	}
	exts := make([]byte, 0, size)
	copies := make([]raft.Log, len(logs))
	sealed := make([]*raft.Log, len(logs))
	for i, l := range logs {
		from := len(exts)
		exts = binary.BigEndian.AppendUint32(exts, entryCRC(l.Index, l.Term, l.Type, l.Extensions, l.Data))
		exts = append(exts, l.Extensions...)
		copies[i] = *l
		copies[i].Extensions = exts[from:len(exts):len(exts)]
		sealed[i] = &copies[i]
	}
	return sealed
}

// unseal checks an entry that was read at index and takes its CRC off. The reason is "" where all is well.
func unseal(l *raft.Log, index uint64) (reason string) {
	if reason = checkCRC(index, l.Index, l.Term, l.Type, l.Extensions, l.Data); reason != "" {
		return reason
	}
	l.Extensions = l.Extensions[crcBytes:]
	if len(l.Extensions) == 0 {
		l.Extensions = nil
	}
	return ""
}

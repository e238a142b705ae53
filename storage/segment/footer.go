package segment

import (
	"context"
	"hash/crc32"
	"math"

	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// tailBytes is what is read of an object's end in the hope that the footer is in it.
const tailBytes = 64 << 10

// ReadFooter reads and checks the footer of an object of sizeBytes. The errors are *CorruptError, ErrVersion and those
// of the RangeReader.
func ReadFooter(ctx context.Context, rr RangeReader, object string, sizeBytes int64) (*metav1.ObjectFooter, error) {
	if sizeBytes < minObjectBytes {
		return nil, corrupt(object, 0, "it has %d bytes, an object has at least %d", sizeBytes, minObjectBytes)
	}
	n := min(sizeBytes, tailBytes)
	tailAt := sizeBytes - n
	tail, err := readRange(ctx, rr, object, tailAt, n)
	if err != nil {
		return nil, err
	}
	t, err := parseTrailer(object, tail[n-trailerBytes:], sizeBytes)
	if err != nil {
		return nil, err
	}
	var b []byte
	if t.footerAt >= tailAt {
		b = tail[t.footerAt-tailAt : n-trailerBytes]
	} else if b, err = readRange(ctx, rr, object, t.footerAt, t.footerBytes); err != nil {
		return nil, err
	}
	return parseFooter(object, t, b)
}

func parseFooter(object string, t trailer, b []byte) (*metav1.ObjectFooter, error) {
	if got := crc32.Checksum(b, castagnoli); got != t.footerCRC {
		return nil, corrupt(object, t.footerAt, "the footer's CRC32C is %08x, its bytes have %08x", t.footerCRC, got)
	}
	footer := &metav1.ObjectFooter{}
	if err := proto.Unmarshal(b, footer); err != nil {
		return nil, corruptBy(object, t.footerAt, err)
	}
	if footer.GetVersion() != formatVersion {
		return nil, unknownVersion(object, footer.GetVersion())
	}
	if err := checkFooter(object, t, footer); err != nil {
		return nil, err
	}
	return footer, nil
}

// checkFooter checks that segments and indexes fill the object without a hole, in the footer's order.
func checkFooter(object string, t trailer, footer *metav1.ObjectFooter) error {
	if len(footer.GetSegments()) == 0 {
		return corrupt(object, t.footerAt, "it has no segments")
	}
	segmentAt := uint64(headBytes)
	for i, s := range footer.GetSegments() {
		e := s.GetEntry()
		if err := checkEntry(object, t.footerAt, e); err != nil {
			return err
		}
		if e.GetPosition() != segmentAt {
			return corrupt(object, t.footerAt, "segment %d is at %d, not at %d", i, e.GetPosition(), segmentAt)
		}
		if s.GetRecords() != e.GetEndOffset()-e.GetBaseOffset() || len(s.GetTopicUuid()) != 16 || s.GetPartition() > math.MaxInt32 {
			return corrupt(object, t.footerAt, "segment %d: %d records, partition %d, a topic UUID of %d bytes",
				i, s.GetRecords(), s.GetPartition(), len(s.GetTopicUuid()))
		}
		segmentAt += e.GetSizeBytes()
	}
	indexAt := segmentAt
	for i, s := range footer.GetSegments() {
		if s.GetEntry().GetIndexPosition() != indexAt {
			return corrupt(object, t.footerAt, "index %d is at %d, not at %d", i, s.GetEntry().GetIndexPosition(), indexAt)
		}
		indexAt += s.GetEntry().GetIndexBytes()
	}
	if indexAt != uint64(t.footerAt) {
		return corrupt(object, t.footerAt, "the footer is at %d, the indexes end at %d", t.footerAt, indexAt)
	}
	return nil
}

// RecoveryID returns the recovery that the cluster had begun with when it wrote an object, empty in its first life. current
// is the one that it began with last. Objects of older programs do not say it: what was minted after current is of its
// life, and the rest of one before it, of which nothing more is known.
func RecoveryID(object string, footer *metav1.ObjectFooter, current string) string {
	if footer.RecoveryId != nil {
		return footer.GetRecoveryId()
	}
	if _, _, id, err := ParseName(object); current != "" && err == nil && id.String() > current {
		return current
	}
	return ""
}

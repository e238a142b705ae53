package segment

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

func requireKnown(t *testing.T, err error) {
	t.Helper()
	require.True(t, errors.Is(err, ErrCorrupt) || errors.Is(err, ErrVersion), err)
}

// FuzzInspect takes any bytes as an object.
func FuzzInspect(f *testing.F) {
	s := small(f)
	f.Add(s.data)
	f.Add(s.data[:len(s.data)-1])
	f.Add([]byte(headMagic + trailMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		m := &memory{objects: map[string][]byte{objectName: data}}
		if _, err := Inspect(t.Context(), m, objectName, int64(len(data))); err != nil {
			requireKnown(t, err)
		}
	})
}

// FuzzFooter takes any bytes as segments and footer, under right checksums.
func FuzzFooter(f *testing.F) {
	s := small(f)
	tr, err := parseTrailer(objectName, s.data[len(s.data)-trailerBytes:], s.object.SizeBytes)
	require.NoError(f, err)
	f.Add(s.data[:tr.footerAt], s.data[tr.footerAt:len(s.data)-trailerBytes])
	f.Fuzz(func(t *testing.T, body, footer []byte) {
		data := append(bytes.Clone(body), footer...)
		data = appendTrailer(data, trailer{
			footerAt: int64(len(body)), footerBytes: int64(len(footer)), footerCRC: crc32.Checksum(footer, castagnoli),
		})
		m := &memory{objects: map[string][]byte{objectName: data}}
		in, err := Inspect(t.Context(), m, objectName, int64(len(data)))
		if in == nil {
			requireKnown(t, err)
			return
		}
		r := NewReader(m, 1<<20)
		for _, seg := range in.Segments {
			ref := &metav1.SegmentRef{Object: objectName, Entry: seg.Entry}
			_, err := r.Read(t.Context(), ref, seg.Entry.GetBaseOffset(), 100)
			if seg.Err == nil {
				require.NoError(t, err)
			} else if err != nil {
				requireKnown(t, err)
			}
		}
	})
}

// FuzzIndex takes any bytes as an index, under a right checksum.
func FuzzIndex(f *testing.F) {
	s := large(f, 20)
	e := s.object.Segments[0]
	x := s.data[e.GetIndexPosition() : e.GetIndexPosition()+e.GetIndexBytes()-crcBytes]
	entry, err := proto.Marshal(e)
	require.NoError(f, err)
	f.Add(entry, x)
	f.Fuzz(func(t *testing.T, entry, x []byte) {
		e := &metav1.SegmentEntry{}
		if proto.Unmarshal(entry, e) != nil {
			return
		}
		x = binary.BigEndian.AppendUint32(bytes.Clone(x), crc32.Checksum(x, castagnoli))
		e.IndexBytes = uint64(len(x))
		if err := checkEntry(objectName, 0, e); err != nil {
			requireKnown(t, err)
			return
		}
		parsed, err := parseIndex(objectName, e, x)
		if err != nil {
			requireKnown(t, err)
			return
		}
		require.Equal(t, x, appendIndex(nil, parsed))
		for _, offset := range []int64{parsed.base, parsed.end - 1, (parsed.base + parsed.end) / 2} {
			if offset >= parsed.base && offset < parsed.end {
				i := parsed.find(offset)
				require.LessOrEqual(t, parsed.spans[i].offset, offset)
				require.Greater(t, parsed.endOffset(i), offset)
				require.GreaterOrEqual(t, parsed.reach(i, 100), i)
			}
		}
	})
}

// FuzzParseName takes any string as a name.
func FuzzParseName(f *testing.F) {
	f.Add("01JCLUSTER/e8/17/01JDXQ4H6ZC3V9E8M2K7N5R1ST.seg")
	f.Fuzz(func(t *testing.T, name string) {
		if cluster, shard, id, err := ParseName(name); err == nil {
			require.Equal(t, name, Name(cluster, shard, id))
		}
	})
}

package segment

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

// Not one bit of an object can flip without being noticed, nor can it be cut or grow.
func TestEveryFlipIsFound(t *testing.T) {
	s := small(t)
	whole, err := NewReader(s, 0).Read(t.Context(), s.ref(0), 100, 1<<20)
	require.NoError(t, err)
	for i := range s.data {
		bad := bytes.Clone(s.data)
		bad[i] ^= 1 << (i % 8)
		f := s.with(bad)
		_, err := Inspect(t.Context(), f, objectName, s.object.SizeBytes)
		require.ErrorIs(t, err, ErrCorrupt, "byte %d", i)
		require.ErrorContains(t, err, objectName)

		// A reader gives the right bytes or an error.
		if got, err := NewReader(f, 0).Read(t.Context(), s.ref(0), 100, 1<<20); err == nil {
			require.Equal(t, whole, got, "byte %d", i)
		} else {
			require.ErrorIs(t, err, ErrCorrupt, "byte %d", i)
		}
	}
}

func TestEveryCutIsFound(t *testing.T) {
	s := small(t)
	for n := range s.data {
		cut := s.with(s.data[:n])
		_, err := Inspect(t.Context(), cut, objectName, int64(n))
		require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes", n)
		_, err = Inspect(t.Context(), cut, objectName, s.object.SizeBytes)
		require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes", n)
		_, err = NewReader(cut, 0).Read(t.Context(), s.ref(1), 0, 100)
		if e := s.object.Segments[1]; n < int(e.GetIndexPosition()+e.GetIndexBytes()) {
			require.ErrorIs(t, err, ErrCorrupt, "cut to %d bytes", n)
		} else {
			require.NoError(t, err)
		}
	}
	longer := s.with(append(bytes.Clone(s.data), 0))
	_, err := Inspect(t.Context(), longer, objectName, s.object.SizeBytes+1)
	require.ErrorIs(t, err, ErrCorrupt)
}

// parts takes an object apart and puts it together again with the checksums right, so that what they protect can be wrong.
type parts struct {
	data    []byte // of the segments
	indexes [][]byte
	footer  *metav1.ObjectFooter
}

func takeApart(t *testing.T, s *stored) *parts {
	t.Helper()
	footer, err := ReadFooter(t.Context(), s, objectName, s.object.SizeBytes)
	require.NoError(t, err)
	p := &parts{footer: footer, data: bytes.Clone(s.data[:footer.GetSegments()[0].GetEntry().GetIndexPosition()])}
	for _, seg := range footer.GetSegments() {
		at := seg.GetEntry().GetIndexPosition()
		p.indexes = append(p.indexes, bytes.Clone(s.data[at:at+seg.GetEntry().GetIndexBytes()]))
	}
	return p
}

func (p *parts) put(t *testing.T) []byte {
	t.Helper()
	data := bytes.Clone(p.data)
	for _, x := range p.indexes {
		body := x[:len(x)-crcBytes]
		data = append(data, body...)
		data = binary.BigEndian.AppendUint32(data, crc32.Checksum(body, castagnoli))
	}
	footer, err := proto.Marshal(p.footer)
	require.NoError(t, err)
	tr := trailer{footerAt: int64(len(data)), footerBytes: int64(len(footer)), footerCRC: crc32.Checksum(footer, castagnoli)}
	return appendTrailer(append(data, footer...), tr)
}

// What is wrong under right checksums.
func TestInspectFindsLies(t *testing.T) {
	put64 := func(b []byte, at int, v uint64) { binary.BigEndian.PutUint64(b[at:], v) }
	tests := []struct {
		name   string
		change func(p *parts)
	}{
		{"no segments", func(p *parts) { p.footer.Segments = nil }},
		{"a segment without an entry", func(p *parts) { p.footer.Segments[0].Entry = nil }},
		{"an end before the base", func(p *parts) { p.footer.Segments[0].Entry.EndOffset = 100 }},
		{"a negative base", func(p *parts) { p.footer.Segments[0].Entry.BaseOffset = -1 }},
		{"a hole between segments", func(p *parts) { p.footer.Segments[1].Entry.Position++ }},
		{"a hole between indexes", func(p *parts) { p.footer.Segments[1].Entry.IndexPosition++ }},
		{"an index that is too many", func(p *parts) { p.indexes = append(p.indexes, make([]byte, minIndexBytes)) }},
		{"segments in another order", func(p *parts) {
			p.footer.Segments[0], p.footer.Segments[1] = p.footer.Segments[1], p.footer.Segments[0]
		}},
		{"another number of records", func(p *parts) { p.footer.Segments[0].Records++ }},
		{"half a UUID", func(p *parts) { p.footer.Segments[0].TopicUuid = []byte{1} }},
		{"a huge partition number", func(p *parts) { p.footer.Segments[0].Partition = 1 << 31 }},
		{"another CRC32C of a segment", func(p *parts) { p.footer.Segments[0].Crc32C++ }},
		{"another newest time", func(p *parts) { p.footer.Segments[0].Entry.MaxTimestampMs++ }},
		{"another partition in the index", func(p *parts) { put64(p.indexes[0], 8, 77) }},
		{"another base in the index", func(p *parts) { put64(p.indexes[0], 16, 99) }},
		{"another end in the index", func(p *parts) { put64(p.indexes[0], 24, 105) }},
		{"another count in the index", func(p *parts) { p.indexes[0][7]++ }},
		{"a first entry at another offset", func(p *parts) { put64(p.indexes[0], indexHeaderBytes, 101) }},
		{"a first entry at another position", func(p *parts) { put64(p.indexes[0], indexHeaderBytes+8, 1) }},
		{"another time in the index", func(p *parts) { put64(p.indexes[0], indexHeaderBytes+16, 3000) }},
		{"another offset in a batch", func(p *parts) {
			b := p.data[headBytes:]
			record.Batch(b).SetBaseOffset(7)
			p.respan(0)
		}},
		{"a record that does not decode", func(p *parts) {
			b := record.Batch(p.data[headBytes:])
			b = b[:b.SizeBytes()]
			b[record.HeaderBytes]++ // the first record's length
			binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], castagnoli))
			p.respan(0)
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := small(t)
			p := takeApart(t, s)
			require.Equal(t, s.data, p.put(t))
			tt.change(p)
			data := p.put(t)
			_, err := Inspect(t.Context(), s.with(data), objectName, int64(len(data)))
			var c *CorruptError
			require.ErrorAs(t, err, &c)
			require.Equal(t, objectName, c.Object)
		})
	}
}

// respan makes the checksums of segment i, which has one span, right again.
func (p *parts) respan(i int) {
	e := p.footer.Segments[i].Entry
	crc := crc32.Checksum(p.data[e.GetPosition():e.GetPosition()+e.GetSizeBytes()], castagnoli)
	p.footer.Segments[i].Crc32C = crc
	binary.BigEndian.PutUint32(p.indexes[i][indexHeaderBytes+24:], crc)
}

// Entries out of order, in an index of several.
func TestIndexOrder(t *testing.T) {
	for _, field := range []int{0, 8} {
		s := large(t, 40)
		p := takeApart(t, s)
		one, two := indexHeaderBytes+indexEntryBytes+field, indexHeaderBytes+2*indexEntryBytes+field
		x := p.indexes[0]
		a, b := binary.BigEndian.Uint64(x[one:]), binary.BigEndian.Uint64(x[two:])
		binary.BigEndian.PutUint64(x[one:], b)
		binary.BigEndian.PutUint64(x[two:], a)
		data := p.put(t)
		_, err := NewReader(s.with(data), 0).Read(t.Context(), s.ref(0), 50, 100)
		require.ErrorIs(t, err, ErrCorrupt)
		require.ErrorContains(t, err, "out of order")
	}
}

// An object of a newer version is told from a corrupt one.
func TestFutureVersions(t *testing.T) {
	s := small(t)

	p := takeApart(t, s)
	p.footer.Version = formatVersion + 1
	data := p.put(t)
	_, err := ReadFooter(t.Context(), s.with(data), objectName, int64(len(data)))
	require.ErrorIs(t, err, ErrVersion)
	require.NotErrorIs(t, err, ErrCorrupt)
	require.ErrorContains(t, err, objectName)

	p = takeApart(t, s)
	p.indexes[0][3]++
	data = p.put(t)
	_, err = NewReader(s.with(data), 0).Read(t.Context(), s.ref(0), 100, 100)
	require.ErrorIs(t, err, ErrVersion)

	data = bytes.Clone(s.data)
	tr := data[len(data)-trailerBytes:]
	tr[19]++
	binary.BigEndian.PutUint32(tr[trailerCovered:], crc32.Checksum(tr[:trailerCovered], castagnoli))
	_, err = ReadFooter(t.Context(), s.with(data), objectName, int64(len(data)))
	require.ErrorIs(t, err, ErrVersion)

	// A newer program of this version may add fields.
	p = takeApart(t, s)
	p.footer.ProtoReflect().SetUnknown([]byte{0xf8, 0x07, 0x01})
	data = p.put(t)
	_, err = Inspect(t.Context(), s.with(data), objectName, int64(len(data)))
	require.NoError(t, err)
}

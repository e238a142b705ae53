package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

// Restore replaces the state by a snapshot. On an error, which is
// ErrSnapshotCorrupt or ErrSnapshotVersion or comes from r, nothing has changed.
// Views given out before stay as they are.
func (s *State) Restore(r io.Reader) error {
	prefix := make([]byte, snapshotPrefixBytes)
	if _, err := io.ReadFull(r, prefix); err != nil {
		return corrupt("prefix: %w", err)
	}
	if string(prefix[:len(snapshotMagic)]) != snapshotMagic {
		return corrupt("it does not begin with %s", snapshotMagic)
	}
	if v := prefix[len(snapshotMagic)]; v != snapshotVersion {
		return fmt.Errorf("%w: %d, this one reads %d", ErrSnapshotVersion, v, snapshotVersion)
	}
	z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(snapshotWindowBytes))
	if err != nil {
		return corrupt("decompress: %w", err)
	}
	defer z.Close()
	sr := &snapshotReader{r: z, crc: crc32.Checksum(prefix, castagnoli)}
	b := newViewBuilder()
	if err := sr.read(b); err != nil {
		return err
	}
	v := b.view()
	if err := v.Check(); err != nil {
		return corrupt("%w", err)
	}
	s.view = v
	return nil
}

func corrupt(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrSnapshotCorrupt, fmt.Errorf(format, args...))
}

type snapshotReader struct {
	r     io.Reader
	crc   uint32
	items uint64
	buf   []byte
}

// next returns the next message's bytes, valid until the next call, or nil at the end.
func (sr *snapshotReader) next() ([]byte, error) {
	var length [4]byte
	if err := sr.full(length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n > maxItemBytes {
		return nil, corrupt("item %d: %d bytes, at most %d", sr.items, n, maxItemBytes)
	}
	if n == 0 {
		return nil, sr.end()
	}
	if uint32(cap(sr.buf)) < n {
		sr.buf = make([]byte, n)
	}
	sr.items++
	return sr.buf[:n], sr.full(sr.buf[:n])
}

func (sr *snapshotReader) full(b []byte) error {
	if _, err := io.ReadFull(sr.r, b); err != nil {
		return corrupt("item %d: %w", sr.items, err)
	}
	sr.crc = crc32.Update(sr.crc, castagnoli, b)
	return nil
}

func (sr *snapshotReader) end() error {
	var tail [12]byte
	if err := sr.full(tail[:8]); err != nil {
		return err
	}
	want := sr.crc
	if err := sr.full(tail[8:]); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint64(tail[:8]); n != sr.items {
		return corrupt("%d items, the end says %d", sr.items, n)
	}
	if got := binary.BigEndian.Uint32(tail[8:]); got != want {
		return corrupt("CRC32C is %08x, the end says %08x", want, got)
	}
	if n, err := sr.r.Read(tail[:1]); n != 0 || !errors.Is(err, io.EOF) {
		return corrupt("more follows the end (%v)", err)
	}
	return nil
}

func (sr *snapshotReader) read(b *viewBuilder) error {
	raw, err := sr.next()
	if err != nil {
		return err
	}
	var h metav1.SnapshotHeader
	if err := proto.Unmarshal(raw, &h); err != nil {
		return corrupt("header: %w", err)
	}
	if err := b.header(&h); err != nil {
		return corrupt("header: %w", err)
	}
	for {
		raw, err := sr.next()
		if err != nil {
			return err
		}
		if raw == nil {
			return nil
		}
		var item metav1.SnapshotItem
		if err := proto.Unmarshal(raw, &item); err != nil {
			return corrupt("item %d: %w", sr.items, err)
		}
		if err := b.item(&item); err != nil {
			return corrupt("item %d: %w", sr.items, err)
		}
	}
}

package logstore

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt (https://github.com/etcd-io/bbolt, version 2 of its format) maps its file and follows the counts and positions in
// it without a look at where they lead: one flipped bit makes it read, and while it writes change, memory that is not the
// file's. No recover helps against that, so a file is walked here before bbolt gets it.
const (
	boltMagic        = 0xED0CDAED
	boltVersion      = 2
	boltNoFreelist   = ^uint64(0)
	boltHeaderBytes  = 16 // of a page: id, flags, count, overflow
	boltElementBytes = 16
	boltBucketBytes  = 16 // root, sequence
	boltMetaBytes    = 64 // the last 8 are an FNV-1a hash of the others
	boltManyFree     = 0xFFFF

	boltBranch   = 0x01
	boltLeaf     = 0x02
	boltFreelist = 0x10

	boltElementIsBucket = 0x01
)

// checkBolt walks the file of a bbolt database, and returns an error if bbolt, reading it, would leave a page. Keys and
// values are not looked at; what is in them has CRCs of its own. An empty file is one that bbolt is about to fill.
func checkBolt(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err == nil && info.Size() > 0 {
		err = walkBolt(f, info.Size())
	}
	return errors.Join(err, f.Close())
}

type boltMeta struct {
	pageBytes                       int64
	root, freelist, highWater, txid uint64
}

// boltWalk is a walk over the pages of one file.
type boltWalk struct {
	file io.ReaderAt
	size int64 // of the file, in bytes
	meta boltMeta
	used map[uint64]bool // pages that something refers to, with those that they run over into
}

func walkBolt(file io.ReaderAt, size int64) error {
	meta, err := readBoltMeta(file)
	if err != nil {
		return err
	}
	w := &boltWalk{file: file, size: size, meta: meta, used: map[uint64]bool{}}
	if err := w.tree(meta.root); err != nil {
		return err
	}
	return w.freelist()
}

// readBoltMeta returns the meta page that bbolt will use: of the two the newer, or the one that is whole.
func readBoltMeta(file io.ReaderAt) (boltMeta, error) {
	pageBytes := int64(os.Getpagesize())
	first, firstErr := decodeBoltMeta(file, 0)
	if firstErr == nil {
		pageBytes = first.pageBytes
	}
	second, secondErr := decodeBoltMeta(file, pageBytes)
	switch {
	case firstErr != nil && secondErr != nil:
		return boltMeta{}, fmt.Errorf("no meta page is whole: %w", firstErr)
	case firstErr != nil || secondErr == nil && second.txid > first.txid:
		first = second
	}
	if first.pageBytes != pageBytes || pageBytes < 1024 || pageBytes&(pageBytes-1) != 0 {
		return boltMeta{}, fmt.Errorf("pages of %d bytes", first.pageBytes)
	}
	return first, nil
}

func decodeBoltMeta(file io.ReaderAt, at int64) (boltMeta, error) {
	b := make([]byte, boltHeaderBytes+boltMetaBytes)
	if _, err := file.ReadAt(b, at); err != nil {
		return boltMeta{}, fmt.Errorf("read the meta page at byte %d: %w", at, err)
	}
	b = b[boltHeaderBytes:]
	le := binary.LittleEndian
	if le.Uint32(b) != boltMagic || le.Uint32(b[4:]) != boltVersion {
		return boltMeta{}, fmt.Errorf("byte %d is not a meta page of version %d", at, boltVersion)
	}
	h := fnv.New64a()
	h.Write(b[:boltMetaBytes-8])
	if le.Uint64(b[boltMetaBytes-8:]) != h.Sum64() {
		return boltMeta{}, fmt.Errorf("the meta page at byte %d fails its hash", at)
	}
	return boltMeta{
		pageBytes: int64(le.Uint32(b[8:])), root: le.Uint64(b[16:]), // b[24:] is the sequence
		freelist: le.Uint64(b[32:]), highWater: le.Uint64(b[40:]), txid: le.Uint64(b[48:]),
	}, nil
}

// boltPage is a page with those that it runs over into. Positions count from its start.
type boltPage struct {
	id           uint64
	flags, count int
	b            []byte
}

// page reads a page to which nothing referred yet.
func (w *boltWalk) page(id uint64) (boltPage, error) {
	const firstID = 2 // behind the two meta pages
	pages := uint64(w.size / w.meta.pageBytes)
	if id < firstID || id >= w.meta.highWater || id >= pages {
		return boltPage{}, fmt.Errorf("page %d is not one of the file's", id)
	}
	head := make([]byte, boltHeaderBytes)
	if _, err := w.file.ReadAt(head, int64(id)*w.meta.pageBytes); err != nil {
		return boltPage{}, fmt.Errorf("read page %d: %w", id, err)
	}
	le := binary.LittleEndian
	if self := le.Uint64(head); self != id {
		return boltPage{}, fmt.Errorf("page %d says that it is page %d", id, self)
	}
	overflow := uint64(le.Uint32(head[12:]))
	if end := id + overflow; end >= w.meta.highWater || end >= pages {
		return boltPage{}, fmt.Errorf("page %d runs over into %d others, which the file does not have", id, overflow)
	}
	for n := id; n <= id+overflow; n++ {
		if w.used[n] {
			return boltPage{}, fmt.Errorf("page %d is used twice", n)
		}
		w.used[n] = true
	}
	p := boltPage{
		id: id, flags: int(le.Uint16(head[8:])), count: int(le.Uint16(head[10:])),
		b: make([]byte, int64(1+overflow)*w.meta.pageBytes),
	}
	if _, err := w.file.ReadAt(p.b, int64(id)*w.meta.pageBytes); err != nil {
		return boltPage{}, fmt.Errorf("read page %d: %w", id, err)
	}
	return p, nil
}

// tree walks a bucket's pages from its root.
func (w *boltWalk) tree(root uint64) error {
	p, err := w.page(root)
	if err != nil {
		return err
	}
	switch p.flags {
	case boltLeaf:
		return w.leaf(p, false)
	case boltBranch:
		return w.branch(p)
	default:
		return fmt.Errorf("page %d is of kind %#x, neither branch nor leaf", p.id, p.flags)
	}
}

func (w *boltWalk) branch(p boltPage) error {
	if p.count == 0 {
		return fmt.Errorf("branch page %d is empty", p.id)
	}
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return err
		}
		le := binary.LittleEndian
		if _, err := p.data(i, int64(le.Uint32(e)), int64(le.Uint32(e[4:]))); err != nil {
			return err
		}
		if err := w.tree(le.Uint64(e[8:])); err != nil {
			return err
		}
	}
	return nil
}

// leaf looks at the elements of a leaf. Inline is one that is the value of an element; it has no buckets.
func (w *boltWalk) leaf(p boltPage, inline bool) error {
	for i := range p.count {
		e, err := p.element(i)
		if err != nil {
			return err
		}
		le := binary.LittleEndian
		flags, at, keyBytes, valueBytes := le.Uint32(e), int64(le.Uint32(e[4:])), int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))
		data, err := p.data(i, at, keyBytes+valueBytes)
		if err != nil {
			return err
		}
		switch {
		case flags == 0:
		case flags == boltElementIsBucket && !inline:
			err = w.bucket(p.id, data[keyBytes:])
		default:
			err = fmt.Errorf("element %d of page %d is of kind %#x", i, p.id, flags)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bucket looks at a value that is a bucket: one with pages, or one so small that it is in the value.
func (w *boltWalk) bucket(page uint64, value []byte) error {
	if len(value) < boltBucketBytes {
		return fmt.Errorf("a bucket in page %d has %d bytes", page, len(value))
	}
	le := binary.LittleEndian
	if root := le.Uint64(value); root != 0 {
		return w.tree(root)
	}
	value = value[boltBucketBytes:]
	if len(value) < boltHeaderBytes {
		return fmt.Errorf("a bucket inside page %d has %d bytes", page, len(value))
	}
	if flags := le.Uint16(value[8:]); flags != boltLeaf {
		return fmt.Errorf("a bucket inside page %d is of kind %#x", page, flags)
	}
	return w.leaf(boltPage{id: page, count: int(le.Uint16(value[10:])), b: value}, true)
}

// element returns the head of an element.
func (p boltPage) element(i int) ([]byte, error) {
	at := boltHeaderBytes + i*boltElementBytes
	if at+boltElementBytes > len(p.b) {
		return nil, fmt.Errorf("page %d has no room for its %d elements", p.id, p.count)
	}
	return p.b[at : at+boltElementBytes], nil
}

// data returns what an element has, n bytes from position at behind the element's start.
func (p boltPage) data(i int, at, n int64) ([]byte, error) {
	start := int64(boltHeaderBytes+i*boltElementBytes) + at
	if start < int64(boltHeaderBytes+p.count*boltElementBytes) || start+n > int64(len(p.b)) {
		return nil, fmt.Errorf("element %d of page %d is at bytes %d to %d of %d", i, p.id, start, start+n, len(p.b))
	}
	return p.b[start : start+n], nil
}

// freelist looks at the list of free pages: bbolt writes over them.
func (w *boltWalk) freelist() error {
	if w.meta.freelist == boltNoFreelist {
		return nil
	}
	p, err := w.page(w.meta.freelist)
	if err != nil {
		return err
	}
	if p.flags != boltFreelist {
		return fmt.Errorf("page %d is of kind %#x, not the list of free pages", p.id, p.flags)
	}
	le := binary.LittleEndian
	ids, count := p.b[boltHeaderBytes:], uint64(p.count)
	if count == boltManyFree {
		count, ids = le.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids)/8) {
		return fmt.Errorf("page %d has no room for %d free pages", p.id, count)
	}
	for i := range count {
		id := le.Uint64(ids[8*i:])
		if id < 2 || id >= w.meta.highWater || w.used[id] {
			return fmt.Errorf("page %d is in the list of free pages, and is none", id)
		}
		w.used[id] = true
	}
	return nil
}

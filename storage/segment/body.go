package segment

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sort"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

const (
	// patchedBytes is the size of a batch's base offset, with which it begins.
	patchedBytes = 8
	// unpatched is the base of a piece that is no batch.
	unpatched = -1
)

// piece is a part of an object: a view of a batch and the offset that replaces the one it begins with, or other bytes.
type piece struct {
	at   int64 // position in the object
	base int64
	data []byte
}

// copyAt copies the piece from its byte off on, and returns how much.
func (p *piece) copyAt(dst []byte, off int64) int {
	n := 0
	if p.base != unpatched && off < patchedBytes {
		var head [patchedBytes]byte
		binary.BigEndian.PutUint64(head[:], uint64(p.base))
		n = copy(dst, head[off:])
		off += int64(n)
		if off < patchedBytes {
			return n
		}
	}
	return n + copy(dst[n:], p.data[off:])
}

// Object is an object ready to be stored. It is not changed any more and safe for concurrent use.
type Object struct {
	// SizeBytes is the size of the body.
	SizeBytes int64
	// Segments are for the manifest, in the order in which they were begun.
	Segments []*metav1.SegmentEntry

	pieces []piece
}

// Body returns a reader of the object. Each call returns another one.
func (o *Object) Body() io.ReadSeeker { return &body{object: o} }

// body reads the pieces one after the other.
type body struct {
	object *Object
	pos    int64
	piece  int // that pos is in
}

// Read implements io.Reader.
func (r *body) Read(dst []byte) (int, error) {
	n := 0
	for n < len(dst) && r.piece < len(r.object.pieces) {
		p := &r.object.pieces[r.piece]
		copied := p.copyAt(dst[n:], r.pos-p.at)
		n += copied
		r.pos += int64(copied)
		if r.pos == p.at+int64(len(p.data)) {
			r.piece++
		}
	}
	if n == 0 && len(dst) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

var errSeek = errors.New("seek before the beginning of the object")

// Seek implements io.Seeker.
func (r *body) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
	case io.SeekCurrent:
		offset += r.pos
	case io.SeekEnd:
		offset += r.object.SizeBytes
	default:
		return 0, fmt.Errorf("seek: whence %d", whence)
	}
	if offset < 0 {
		return 0, errSeek
	}
	pieces := r.object.pieces
	r.pos = offset
	r.piece = sort.Search(len(pieces), func(i int) bool { return pieces[i].at+int64(len(pieces[i].data)) > offset })
	return offset, nil
}

package controller

import (
	"google.golang.org/protobuf/proto"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
)

const (
	// maxFooterBytes bounds about what the memory has of what was read of orphans: some ten thousand of them with a few segments
	// each, fewer with more.
	maxFooterBytes = 16 << 20
	// footerOverhead is about what an entry takes beside its name, the footer's encoded bytes and its segments.
	footerOverhead = 512
	// segmentOverhead is about what a decoded segment takes beside its encoded bytes: two messages of over 100 bytes each.
	segmentOverhead = 256
)

// footers remembers what was read of the orphans that are kept, which are listed again once a grace period: their objects do
// not change. Whether they are needed is not remembered, since that does. It is for one goroutine.
type footers struct {
	read  map[string]readFooter
	bytes int64
}

// readFooter is what was read of an object. One that can't be read has no footer, until it is put back by another one.
type readFooter struct {
	orphan orphan
	footer *metav1.ObjectFooter
}

// bytes returns about what it takes in memory. The encoded bytes stand for the texts in it, of which each segment has its own.
func (r *readFooter) bytes() int64 {
	return int64(len(r.orphan.name)+proto.Size(r.footer)+len(r.footer.GetSegments())*segmentOverhead) + footerOverhead
}

// get returns what was read of an orphan; footer is nil for one that is damaged.
func (f *footers) get(o orphan) (footer *metav1.ObjectFooter, known bool) {
	r, ok := f.read[o.name]
	return r.footer, ok && r.orphan.sizeBytes == o.sizeBytes && r.orphan.modTime.Equal(o.modTime)
}

// add remembers what was read of an orphan, while there is room.
func (f *footers) add(o orphan, footer *metav1.ObjectFooter) {
	f.remove(o.name)
	r := readFooter{o, footer}
	if f.bytes+r.bytes() > maxFooterBytes {
		return
	}
	if f.read == nil {
		f.read = make(map[string]readFooter)
	}
	f.read[o.name] = r
	f.bytes += r.bytes()
}

func (f *footers) remove(name string) {
	if r, ok := f.read[name]; ok {
		f.bytes -= r.bytes()
		delete(f.read, name)
	}
}

// keep forgets all but these names.
func (f *footers) keep(names []string) {
	kept := make(map[string]bool, len(names))
	for _, name := range names {
		kept[name] = true
	}
	for name := range f.read {
		if !kept[name] {
			f.remove(name)
		}
	}
}

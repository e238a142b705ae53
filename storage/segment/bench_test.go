package segment

import (
	"context"
	"fmt"
	"io"
	"testing"

	"github.com/streamhouse/streamhouse/storage/record"
)

func BenchmarkWrite(b *testing.B) {
	for _, records := range []int{1, 100} {
		b.Run(fmt.Sprintf("batch=%dx1KiB", records), func(b *testing.B) {
			data := batch(b, record.None, records, 1024, 1)
			n := (8 << 20) / len(data)
			b.SetBytes(int64(n * len(data)))
			b.ReportAllocs()
			for b.Loop() {
				w := NewWriter(source)
				w.Begin(partition(1))
				for i := range n {
					w.Append(data, int64(i*records))
				}
				o, err := w.Finish()
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, o.Body()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRead(b *testing.B) {
	s := large(b, 800)
	for _, maxBytes := range []int{1, 1 << 20} {
		b.Run(fmt.Sprintf("max=%d", maxBytes), func(b *testing.B) {
			r := NewReader(quiet{s.data}, 1<<20)
			b.ReportAllocs()
			var n int64
			for b.Loop() {
				data, err := r.Read(b.Context(), s.ref(0), 1234, maxBytes)
				if err != nil {
					b.Fatal(err)
				}
				n = int64(len(data))
			}
			b.SetBytes(n)
		})
	}
}

// quiet is a RangeReader that notes nothing.
type quiet struct{ data []byte }

func (q quiet) ReadRange(_ context.Context, _ string, offset, length int64) ([]byte, error) {
	return q.data[offset : offset+length], nil
}

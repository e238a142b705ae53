package segment

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	metav1 "github.com/streamhouse/streamhouse/api/streamhouse/meta/v1"
	"github.com/streamhouse/streamhouse/storage/record"
)

const objectName = "c1/00/3/object.seg"

// memory is a RangeReader over objects in memory, which notes what is read.
type memory struct {
	objects map[string][]byte

	mu    sync.Mutex
	reads []string
}

func (m *memory) ReadRange(ctx context.Context, object string, offset, length int64) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	data, ok := m.objects[object]
	if !ok {
		return nil, fmt.Errorf("no object %s", object)
	}
	if offset < 0 || length < 0 || length > 1<<40 {
		panic(fmt.Sprintf("a read of %d bytes at %d", length, offset))
	}
	m.mu.Lock()
	m.reads = append(m.reads, fmt.Sprintf("%d+%d", offset, length))
	m.mu.Unlock()
	offset = min(offset, int64(len(data)))
	return data[offset:min(offset+length, int64(len(data)))], nil
}

// taken returns the reads since it was called last.
func (m *memory) taken() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	reads := m.reads
	m.reads = nil
	return reads
}

// batch returns a batch of n records of size bytes, whose times begin at ts and rise by 1.
func batch(tb testing.TB, c record.Compression, n, size int, ts int64) record.Batch {
	tb.Helper()
	bl := record.NewBuilder(record.BuilderConfig{Compression: c, ProducerID: -1})
	for i := range n {
		value := fmt.Appendf(nil, "%d/%d", ts, i)
		value = append(value, bytes.Repeat([]byte{'.'}, max(0, size-len(value)))...)
		bl.Append(record.Record{TimestampMs: ts + int64(i), Value: value})
	}
	b, err := bl.Build()
	require.NoError(tb, err)
	return b
}

var source = Source{
	ClusterID: "c1", NodeID: "n1", Shard: 3, CreatedMs: 1_700_000_000_000, RecoveryID: "01JX0000000000000000000000",
}

func partition(id uint64) Partition {
	return Partition{ID: id, Topic: fmt.Sprintf("topic-%d", id), TopicUUID: [16]byte{1, 2, 3, byte(id)}, Number: int32(id) % 7}
}

// stored is an object in memory.
type stored struct {
	*memory
	object *Object
	data   []byte
}

func store(tb testing.TB, w *Writer) *stored {
	tb.Helper()
	o, err := w.Finish()
	require.NoError(tb, err)
	data, err := io.ReadAll(o.Body())
	require.NoError(tb, err)
	require.Len(tb, data, int(o.SizeBytes))
	return &stored{memory: &memory{objects: map[string][]byte{objectName: data}}, object: o, data: data}
}

func (s *stored) ref(i int) *metav1.SegmentRef {
	return &metav1.SegmentRef{Object: objectName, Entry: s.object.Segments[i]}
}

// with returns the object with other bytes.
func (s *stored) with(data []byte) *stored {
	return &stored{memory: &memory{objects: map[string][]byte{objectName: data}}, object: s.object, data: data}
}

// small is an object of two segments with a few batches.
func small(tb testing.TB) *stored {
	tb.Helper()
	w := NewWriter(source)
	w.Begin(partition(5))
	w.Append(batch(tb, record.None, 3, 10, 1000), 100)
	w.Append(batch(tb, record.None, 1, 10, 2000), 103)
	w.Begin(partition(6)) // stays empty, and is left out
	w.Begin(partition(9))
	w.Append(batch(tb, record.None, 2, 10, 1500), 0)
	return store(tb, w)
}

// large is an object of one segment of n batches with ten records of a KiB each; batch i begins at offset 50 + 10*i
// and time 1000*i.
func large(tb testing.TB, n int) *stored {
	tb.Helper()
	w := NewWriter(source)
	w.Begin(partition(1))
	for i := range n {
		w.Append(batch(tb, record.None, 10, 1024, 1000*int64(i)), 50+10*int64(i))
	}
	return store(tb, w)
}

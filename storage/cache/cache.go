package cache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"go.opentelemetry.io/otel/trace"
)

// ErrClosed says that the cache is closed.
var ErrClosed = errors.New("cache is closed")

// fetchTimeout bounds a fetch, which outlives the reader that began it.
const fetchTimeout = 2 * time.Minute

// Source reads ranges of objects. object.Bucket is one. Safe for concurrent use.
type Source interface {
	// Get reads length bytes from offset, fewer where the object ends.
	Get(ctx context.Context, name string, offset, length int64) (io.ReadCloser, error)
}

// blockKey names a block.
type blockKey struct {
	object string
	number int64
}

// block is a block in memory, or on its way there.
type block struct {
	key   blockKey
	done  chan struct{} // closed when data or err is set
	data  []byte        // shorter than a block where the object ends
	err   error
	where *list.Element // in the LRU list; nil while it is fetched
}

// Cache reads objects through blocks in memory. Safe for concurrent use.
type Cache struct {
	source Source
	cfg    Config
	hits   prometheus.Counter
	misses prometheus.Counter

	ctx    context.Context //nolint:containedctx // of the fetches, which outlive their readers; ended by Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	blocks  map[blockKey]*block
	lru     *list.List // of *block, newest first
	bytes   int64      // blocks in memory and room for those on their way
	loading int64      // the room for those on their way
	last    map[string]int64
}

// New returns an empty cache over source.
func New(source Source, cfg Config) *Cache {
	cfg = cfg.withDefaults()
	f := promauto.With(cfg.Registerer)
	c := &Cache{
		source: source, cfg: cfg,
		hits:   f.NewCounter(prometheus.CounterOpts{Name: "streamhouse_cache_hits_total", Help: "Block look-ups of consumers answered from memory."}),
		misses: f.NewCounter(prometheus.CounterOpts{Name: "streamhouse_cache_misses_total", Help: "Block look-ups of consumers that had to wait for the object store."}),
		blocks: make(map[blockKey]*block), lru: list.New(), last: make(map[string]int64),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "streamhouse_cache_size_bytes", Help: "Memory of cached blocks."},
		func() float64 { return float64(c.SizeBytes()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{Name: "streamhouse_cache_capacity_bytes", Help: "Bound of the memory of cached blocks."},
		func() float64 { return float64(cfg.CapacityBytes) })
	return c
}

// SizeBytes returns the memory of the blocks.
func (c *Cache) SizeBytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bytes
}

// ReadRange returns length bytes of an object from offset, fewer where it ends. The caller owns them. Every block that
// it touches counts as a hit or a miss; blocks fetched ahead count when they are read.
func (c *Cache) ReadRange(ctx context.Context, object string, offset, length int64) ([]byte, error) {
	if offset < 0 || length < 0 {
		return nil, fmt.Errorf("object %s: range of %d bytes at %d", object, length, offset)
	}
	if length == 0 {
		return nil, nil
	}
	first, last := offset/c.cfg.BlockBytes, (offset+length-1)/c.cfg.BlockBytes
	var out []byte
	for from := first; from <= last; {
		// A window at a time, so that one large read does not need the whole of the memory.
		to := min(last, from+c.window()-1)
		blocks, err := c.lookUp(ctx, object, from, to, last)
		if err != nil {
			return nil, err
		}
		for _, b := range blocks {
			data, err := c.await(ctx, b)
			if err != nil {
				return nil, err
			}
			begin := max(offset-b.key.number*c.cfg.BlockBytes, 0)
			end := min(offset+length-b.key.number*c.cfg.BlockBytes, int64(len(data)))
			if out == nil {
				out = make([]byte, 0, min(length, (last-first+1)*c.cfg.BlockBytes))
			}
			if begin < end {
				out = append(out, data[begin:end]...)
			}
			if int64(len(data)) < c.cfg.BlockBytes {
				return out, nil // the object ends here
			}
		}
		from = to + 1
	}
	return out, nil
}

// window is how many blocks one read has under way: at most half of the memory.
func (c *Cache) window() int64 { return max(c.cfg.CapacityBytes/c.cfg.BlockBytes/2, 1) }

// lookUp returns blocks from to to, begins the fetches of those that are missing, and reads ahead when the object is
// read in order. It does not wait: of ctx it takes the trace that the fetches belong to.
func (c *Cache) lookUp(ctx context.Context, object string, from, to, last int64) ([]*block, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, ErrClosed
	}
	blocks := make([]*block, 0, to-from+1)
	var missing []*block
	for n := from; n <= to; n++ {
		b, known := c.blocks[blockKey{object, n}]
		if !known {
			b = c.reserveLocked(blockKey{object, n})
			missing = append(missing, b)
		}
		if known && b.where != nil {
			c.lru.MoveToFront(b.where)
			c.hits.Inc()
		} else {
			c.misses.Inc()
		}
		blocks = append(blocks, b)
	}
	before, seen := c.last[object]
	if sequential := seen && from == before+1; sequential && !c.endsLocked(blocks[len(blocks)-1]) {
		missing = append(missing, c.aheadLocked(object, max(to, last)+1)...)
	}
	c.rememberLocked(object, to)
	if len(missing) == 0 {
		return blocks, nil // without a look for a trace: the context of a stream is deep
	}
	c.fetchLocked(trace.SpanContextFromContext(ctx), missing) //nolint:contextcheck // a fetch serves all who wait, and outlives the first
	return blocks, nil
}

// rememberLocked notes where an object was read last; the notes are bounded.
func (c *Cache) rememberLocked(object string, number int64) {
	if len(c.last) >= maxStreams {
		clear(c.last)
	}
	c.last[object] = number
}

// maxStreams bounds the objects whose last read is remembered.
const maxStreams = 4096

// aheadLocked reserves the missing ones of the next blocks, as far as a quarter of the memory is enough for them, and none
// where half of it is on its way: many readers of a slow store would need more memory than there is, and each let go of what
// the others have not read yet.
func (c *Cache) aheadLocked(object string, from int64) []*block {
	ahead := min(int64(c.cfg.ReadAheadBlocks), c.cfg.CapacityBytes/c.cfg.BlockBytes/4)
	if c.loading+ahead*c.cfg.BlockBytes > c.cfg.CapacityBytes/2 {
		return nil
	}
	var out []*block
	for n := from; n < from+ahead; n++ {
		b, known := c.blocks[blockKey{object, n}]
		if known && c.endsLocked(b) {
			break
		}
		if !known {
			out = append(out, c.reserveLocked(blockKey{object, n}))
		}
	}
	if int64(len(out)) < ahead/2 {
		// Few are missing yet: wait until a run is, so that one request brings several.
		for _, b := range out {
			delete(c.blocks, b.key)
			c.bytes -= c.cfg.BlockBytes
			c.loading -= c.cfg.BlockBytes
		}
		return nil
	}
	return out
}

// endsLocked says whether a block is known to be its object's last.
func (c *Cache) endsLocked(b *block) bool {
	return b.where != nil && int64(len(b.data)) < c.cfg.BlockBytes
}

func (c *Cache) reserveLocked(key blockKey) *block {
	b := &block{key: key, done: make(chan struct{})}
	c.blocks[key] = b
	c.bytes += c.cfg.BlockBytes
	c.loading += c.cfg.BlockBytes
	c.evictLocked()
	return b
}

// evictLocked lets go of the blocks that were not read for longest, until the memory is within its bound.
func (c *Cache) evictLocked() {
	for c.bytes > c.cfg.CapacityBytes && c.lru.Len() > 0 {
		b := c.lru.Remove(c.lru.Back()).(*block)
		delete(c.blocks, b.key)
		c.bytes -= int64(len(b.data))
	}
}

// fetchLocked begins one request for every run of adjacent blocks.
func (c *Cache) fetchLocked(sc trace.SpanContext, missing []*block) {
	for len(missing) > 0 {
		n := 1
		for n < len(missing) && missing[n].key.object == missing[0].key.object && missing[n].key.number == missing[0].key.number+int64(n) {
			n++
		}
		run := missing[:n]
		missing = missing[n:]
		c.wg.Go(func() { c.fetch(sc, run) })
	}
}

// fetch reads a run of blocks with one request, and gives each to its waiters as it comes.
func (c *Cache) fetch(sc trace.SpanContext, run []*block) {
	ctx, cancel := context.WithTimeout(trace.ContextWithSpanContext(c.ctx, sc), fetchTimeout)
	defer cancel()
	first := run[0].key
	r, err := c.source.Get(ctx, first.object, first.number*c.cfg.BlockBytes, int64(len(run))*c.cfg.BlockBytes)
	if err != nil {
		c.deliver(run, nil, err)
		return
	}
	for i := range run {
		buf := make([]byte, c.cfg.BlockBytes)
		n, err := io.ReadFull(r, buf)
		if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
			err = nil
		}
		if err != nil {
			c.deliver(run[i:], nil, err)
			break
		}
		if n < len(buf) {
			buf = append([]byte(nil), buf[:n]...)
		}
		c.deliver(run[i:i+1], buf, nil)
	}
	_ = r.Close() // what was read is whole
}

// deliver ends the waiting for blocks. Errors are not kept.
func (c *Cache) deliver(blocks []*block, data []byte, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, b := range blocks {
		b.data, b.err = data, err
		c.bytes -= c.cfg.BlockBytes
		c.loading -= c.cfg.BlockBytes
		if err != nil {
			delete(c.blocks, b.key)
		} else {
			c.bytes += int64(len(data))
			b.where = c.lru.PushFront(b)
		}
		close(b.done)
	}
	c.evictLocked()
}

func (c *Cache) await(ctx context.Context, b *block) ([]byte, error) {
	select {
	case <-b.done:
		return b.data, b.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Close ends the fetches and waits for them. It is idempotent; later reads get ErrClosed.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.wg.Wait()
	return nil
}

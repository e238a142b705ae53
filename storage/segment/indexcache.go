package segment

import (
	"container/list"
	"sync"
	"unsafe"
)

// indexKey names an index.
type indexKey struct {
	object   string
	position uint64
}

// indexCache keeps the indexes used last, within bytes. It is safe for concurrent use.
type indexCache struct {
	capacityBytes int64

	mu        sync.Mutex // guards what follows
	sizeBytes int64
	order     *list.List // of *cachedIndex, the one used last first
	byKey     map[indexKey]*list.Element
}

type cachedIndex struct {
	key   indexKey
	index *index
	bytes int64
}

func newIndexCache(capacityBytes int64) *indexCache {
	return &indexCache{capacityBytes: capacityBytes, order: list.New(), byKey: make(map[indexKey]*list.Element)}
}

func (c *indexCache) get(key indexKey) (*index, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.byKey[key]
	if !ok {
		return nil, false
	}
	c.order.MoveToFront(e)
	return e.Value.(*cachedIndex).index, true
}

func (c *indexCache) put(key indexKey, x *index) {
	// About what the list and the map need besides.
	const overheadBytes = 256
	bytes := int64(unsafe.Sizeof(span{}))*int64(len(x.spans)) + int64(len(key.object)) + overheadBytes
	if bytes > c.capacityBytes {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.byKey[key]; ok {
		return
	}
	c.byKey[key] = c.order.PushFront(&cachedIndex{key: key, index: x, bytes: bytes})
	c.sizeBytes += bytes
	for c.sizeBytes > c.capacityBytes {
		oldest := c.order.Remove(c.order.Back()).(*cachedIndex)
		delete(c.byKey, oldest.key)
		c.sizeBytes -= oldest.bytes
	}
}

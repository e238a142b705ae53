package logstore

import "github.com/hashicorp/raft"

// cache keeps a dense run of the newest entries, bounded in bytes, in a ring.
type cache struct {
	maxBytes int64
	bytes    int64
	first    uint64 // index of the oldest
	ring     []raft.Log
	head, n  int // of the oldest; entries
}

// entryOverhead is about what an entry costs besides its bytes.
const entryOverhead = 128

func cachedBytes(l *raft.Log) int64 { return int64(cap(l.Data)+cap(l.Extensions)) + entryOverhead }

func (c *cache) at(i int) *raft.Log { return &c.ring[(c.head+i)%len(c.ring)] }

func (c *cache) add(l *raft.Log) {
	if c.n > 0 && l.Index != c.first+uint64(c.n) {
		c.clear()
	}
	size := cachedBytes(l)
	for c.n > 0 && c.bytes+size > c.maxBytes {
		c.dropFirst()
	}
	if size > c.maxBytes {
		return
	}
	if c.n == 0 {
		c.first = l.Index
	}
	if c.n == len(c.ring) {
		c.resize(max(64, 2*c.n))
	}
	c.n++
	*c.at(c.n - 1) = *l
	c.bytes += size
}

func (c *cache) get(index uint64) *raft.Log {
	if index < c.first || index >= c.first+uint64(c.n) {
		return nil
	}
	return c.at(int(index - c.first))
}

func (c *cache) resize(size int) {
	ring := make([]raft.Log, size)
	for i := range c.n {
		ring[i] = *c.at(i)
	}
	c.ring, c.head = ring, 0
}

func (c *cache) clear() { *c = cache{maxBytes: c.maxBytes} }

func (c *cache) dropFirst() {
	c.bytes -= cachedBytes(c.at(0))
	*c.at(0) = raft.Log{}
	c.head, c.n, c.first = (c.head+1)%len(c.ring), c.n-1, c.first+1
	if len(c.ring) > 1024 && c.n < len(c.ring)/4 {
		c.resize(len(c.ring) / 2)
	}
}

// dropFrom forgets the entries from index on.
func (c *cache) dropFrom(index uint64) {
	for c.n > 0 && c.first+uint64(c.n)-1 >= index {
		c.bytes -= cachedBytes(c.at(c.n - 1))
		*c.at(c.n - 1) = raft.Log{}
		c.n--
	}
}

// dropThrough forgets the entries up to and including index.
func (c *cache) dropThrough(index uint64) {
	for c.n > 0 && c.first <= index {
		c.dropFirst()
	}
}

// logBytes is what an entry adds to the size of the log.
func logBytes(l *raft.Log) int { return len(l.Data) + len(l.Extensions) }

// sizes knows how many bytes each entry of the log has.
type sizes struct {
	first uint64
	bytes []uint32
	total int64
}

func (s *sizes) add(index uint64, bytes int) {
	if len(s.bytes) == 0 {
		s.first = index
	}
	s.bytes = append(s.bytes, uint32(bytes))
	s.total += int64(bytes)
}

func (s *sizes) dropFrom(index uint64) {
	for len(s.bytes) > 0 && s.first+uint64(len(s.bytes))-1 >= index {
		n := len(s.bytes) - 1
		s.total -= int64(s.bytes[n])
		s.bytes = s.bytes[:n]
	}
}

func (s *sizes) dropThrough(index uint64) {
	n := 0
	for ; n < len(s.bytes) && s.first+uint64(n) <= index; n++ {
		s.total -= int64(s.bytes[n])
	}
	if n > 0 {
		s.bytes = append([]uint32(nil), s.bytes[n:]...)
		s.first += uint64(n)
	}
}

// retaining returns the first index such that the entries from it on have at most this many bytes.
func (s *sizes) retaining(bytes int64) uint64 {
	i, sum := len(s.bytes), int64(0)
	for i > 0 && sum+int64(s.bytes[i-1]) <= bytes {
		i--
		sum += int64(s.bytes[i])
	}
	return s.first + uint64(i)
}

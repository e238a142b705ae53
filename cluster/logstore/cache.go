package logstore

import "github.com/hashicorp/raft"

// cache keeps a dense run of the newest entries, bounded in bytes.
type cache struct {
	maxBytes int64
	bytes    int64
	first    uint64 // index of logs[0]
	logs     []*raft.Log
}

func logBytes(l *raft.Log) int64 { return int64(len(l.Data) + len(l.Extensions)) }

func (c *cache) add(l *raft.Log) {
	if len(c.logs) > 0 && l.Index != c.first+uint64(len(c.logs)) {
		c.clear()
	}
	if len(c.logs) == 0 {
		c.first = l.Index
	}
	c.logs = append(c.logs, l)
	c.bytes += logBytes(l)
	for c.bytes > c.maxBytes && len(c.logs) > 0 {
		c.bytes -= logBytes(c.logs[0])
		c.logs[0] = nil
		c.logs = c.logs[1:]
		c.first++
	}
}

func (c *cache) get(index uint64) *raft.Log {
	if index < c.first || index >= c.first+uint64(len(c.logs)) {
		return nil
	}
	return c.logs[index-c.first]
}

func (c *cache) clear() {
	c.logs, c.bytes, c.first = nil, 0, 0
}

// dropFrom forgets the entries from index on.
func (c *cache) dropFrom(index uint64) {
	for n := len(c.logs); n > 0 && c.first+uint64(n)-1 >= index; n-- {
		c.bytes -= logBytes(c.logs[n-1])
		c.logs[n-1] = nil
		c.logs = c.logs[:n-1]
	}
}

// dropThrough forgets the entries up to and including index.
func (c *cache) dropThrough(index uint64) {
	for len(c.logs) > 0 && c.first <= index {
		c.bytes -= logBytes(c.logs[0])
		c.logs[0] = nil
		c.logs = c.logs[1:]
		c.first++
	}
}

// sizes knows how many bytes the log has up to each entry.
type sizes struct {
	first uint64
	upTo  []int64 // upTo[i]: bytes of everything ever added, through entry first+i
	base  int64   // bytes before first
}

func (s *sizes) add(index uint64, bytes int64) {
	if len(s.upTo) == 0 {
		s.first, s.base = index, 0
	}
	s.upTo = append(s.upTo, s.end()+bytes)
}

func (s *sizes) end() int64 {
	if len(s.upTo) == 0 {
		return s.base
	}
	return s.upTo[len(s.upTo)-1]
}

func (s *sizes) total() int64 { return s.end() - s.base }

func (s *sizes) dropFrom(index uint64) {
	if index <= s.first {
		s.upTo = nil
		return
	}
	s.upTo = s.upTo[:min(uint64(len(s.upTo)), index-s.first)]
}

func (s *sizes) dropThrough(index uint64) {
	if index < s.first {
		return
	}
	n := index - s.first + 1
	if n >= uint64(len(s.upTo)) {
		s.upTo = nil
		return
	}
	s.base = s.upTo[n-1]
	s.upTo = append([]int64(nil), s.upTo[n:]...)
	s.first += n
}

// retaining returns the first index such that the entries from it on have at most this many bytes.
func (s *sizes) retaining(bytes int64) uint64 {
	i := len(s.upTo)
	for i > 0 && s.end()-s.before(i-1) <= bytes {
		i--
	}
	return s.first + uint64(i)
}

func (s *sizes) before(i int) int64 {
	if i == 0 {
		return s.base
	}
	return s.upTo[i-1]
}

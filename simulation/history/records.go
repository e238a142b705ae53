package history

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"time"
)

// origin is where a value comes from: a call and its place in it.
type origin struct {
	op *Produce
	at int
}

// seen is a value at an offset, and who saw it.
type seen struct {
	value string
	who   string
	event int64
}

// partitionLog is what is known of a partition's log.
type partitionLog struct {
	partition Partition
	values    map[int64]seen
	offsets   map[string][]int64 // by value, as seen
	appends   []*Produce
}

func (c *checker) records() {
	origins := c.origins()
	logs := c.logs()
	for _, p := range sortedPartitions(logs) {
		l := logs[p]
		c.phantoms(l, origins)
		c.duplicates(l, origins)
		c.order(l)
		c.wholeBatches(l)
	}
	for i := range c.h.readBacks {
		c.readBack(&c.h.readBacks[i], logs)
	}
}

func sortedPartitions[V any](m map[Partition]V) []Partition {
	return slices.SortedFunc(maps.Keys(m), func(a, b Partition) int {
		return cmp.Or(cmp.Compare(a.Topic, b.Topic), cmp.Compare(a.Number, b.Number))
	})
}

func (c *checker) origins() map[string]origin {
	m := make(map[string]origin)
	for _, op := range c.h.produces {
		for i, v := range op.values {
			if other, ok := m[v]; ok {
				c.report(Misuse, op.partition, "%q was produced twice, by %s and %s", v, other.op.producer, op.producer)
				continue
			}
			m[v] = origin{op, i}
		}
	}
	return m
}

// logs collects what acknowledgements and reads say of every offset, and reports where they differ.
func (c *checker) logs() map[Partition]*partitionLog {
	logs := make(map[Partition]*partitionLog)
	log := func(p Partition) *partitionLog {
		if logs[p] == nil {
			logs[p] = &partitionLog{partition: p, values: make(map[int64]seen), offsets: make(map[string][]int64)}
		}
		return logs[p]
	}
	for _, op := range c.h.produces {
		l := log(op.partition)
		l.appends = append(l.appends, op)
		if op.outcome != succeeded || op.base < 0 {
			continue
		}
		for i, v := range op.values {
			c.see(l, op.base+int64(i), seen{v, op.producer + "'s acknowledgement", op.end})
		}
	}
	for _, r := range c.h.reads {
		c.answer(log(r.partition), r)
	}
	for i := range c.h.readBacks {
		b := &c.h.readBacks[i]
		l := log(b.partition)
		for _, r := range b.records {
			c.see(l, r.Offset, seen{r.Value, "the last read through " + b.node, b.at})
		}
	}
	return logs
}

// answer takes the records of a read, which are dense from where it began.
func (c *checker) answer(l *partitionLog, r *Read) {
	next := r.from
	for _, rec := range r.records {
		if rec.Offset != next {
			c.report(Hole, l.partition, "a read from %d through %s at %s: offset %d where %d was expected",
				r.from, r.node, c.h.at(r.end), rec.Offset, next)
		}
		if r.watermark >= 0 && rec.Offset >= r.watermark {
			c.report(Uncommitted, l.partition, "%s served offset %d at %s, and said that the high watermark is %d",
				r.node, rec.Offset, c.h.at(r.end), r.watermark)
		}
		next = rec.Offset + 1
		c.see(l, rec.Offset, seen{rec.Value, "a read through " + r.node, r.end})
	}
}

func (c *checker) see(l *partitionLog, offset int64, s seen) {
	before, ok := l.values[offset]
	if !ok {
		l.values[offset] = s
		l.offsets[s.value] = append(l.offsets[s.value], offset)
		return
	}
	if before.value != s.value {
		c.report(Changed, l.partition, "offset %d is %q by %s at %s, and %q by %s at %s",
			offset, brief(before.value), before.who, c.h.at(before.event), brief(s.value), s.who, c.h.at(s.event))
		return
	}
	if s.event < before.event {
		l.values[offset] = s
	}
}

// brief is the beginning of a value.
func brief(v string) string {
	const most = 48
	if len(v) > most {
		return v[:most] + "…"
	}
	return v
}

func (c *checker) phantoms(l *partitionLog, origins map[string]origin) {
	for _, offset := range slices.Sorted(maps.Keys(l.values)) {
		s := l.values[offset]
		o, ok := origins[s.value]
		switch {
		case !ok && partOf(s.value, l.appends):
			c.report(Torn, l.partition, "offset %d is %q, a part of what was written, by %s at %s", offset, brief(s.value), s.who, c.h.at(s.event))
		case !ok:
			c.report(Phantom, l.partition, "offset %d is %q, which nobody wrote, by %s at %s", offset, brief(s.value), s.who, c.h.at(s.event))
		case o.op.partition != l.partition:
			c.report(Phantom, l.partition, "offset %d is %q of partition %s, by %s at %s", offset, brief(s.value), o.op.partition, s.who, c.h.at(s.event))
		case o.op.outcome == failed:
			c.report(Phantom, l.partition, "offset %d is %q by %s at %s, though writing it failed at %s: %v",
				offset, brief(s.value), s.who, c.h.at(s.event), c.h.at(o.op.end), o.op.err)
		case o.op.begin > s.event:
			c.report(Phantom, l.partition, "offset %d is %q by %s at %s, before it was written at %s",
				offset, brief(s.value), s.who, c.h.at(s.event), c.h.at(o.op.begin))
		}
	}
}

// partOf reports whether a value is the beginning or the end of one that was written here.
func partOf(v string, ops []*Produce) bool {
	return slices.ContainsFunc(ops, func(op *Produce) bool {
		return slices.ContainsFunc(op.values, func(w string) bool {
			return len(v) < len(w) && (strings.HasPrefix(w, v) || strings.HasSuffix(w, v))
		})
	})
}

func (c *checker) duplicates(l *partitionLog, origins map[string]origin) {
	for _, v := range slices.Sorted(maps.Keys(l.offsets)) {
		offsets := l.offsets[v]
		if o, ok := origins[v]; len(offsets) > 1 && (!ok || !c.h.repeating[o.op.producer]) {
			slices.Sort(offsets)
			c.report(Duplicated, l.partition, "%q is at offsets %v", brief(v), offsets)
		}
	}
}

// order checks that each producer's records are in the order in which it wrote them.
func (c *checker) order(l *partitionLog) {
	type last struct {
		offset int64
		value  string
	}
	lasts := make(map[string]last)
	for _, op := range l.appends {
		if c.h.repeating[op.producer] {
			continue
		}
		for _, v := range op.values {
			offsets := l.offsets[v]
			if len(offsets) == 0 {
				continue
			}
			offset := slices.Min(offsets)
			if before, ok := lasts[op.producer]; ok && offset < before.offset {
				c.report(Reordered, l.partition, "%s wrote %q before %q, and they are at offsets %d and %d",
					op.producer, brief(before.value), brief(v), before.offset, offset)
			}
			lasts[op.producer] = last{offset, v}
		}
	}
}

// wholeBatches checks, where everything was read back, that of a batch all records are there, side by side, or none.
func (c *checker) wholeBatches(l *partitionLog) {
	whole := slices.ContainsFunc(c.h.readBacks, func(b readBack) bool { return b.partition == l.partition && b.from == 0 })
	if !whole {
		return
	}
	for _, op := range l.appends {
		if c.h.repeating[op.producer] || len(op.values) < 2 || (op.outcome == succeeded && op.base >= 0) { // those are checked by offset
			continue
		}
		there, inPlace, begin := 0, 0, int64(0)
		for i, v := range op.values {
			at := l.offsets[v]
			if len(at) == 0 {
				continue
			}
			if there == 0 {
				begin = at[0] - int64(i)
			}
			there++
			if at[0] == begin+int64(i) {
				inPlace++
			}
		}
		if there != 0 && inPlace != len(op.values) {
			c.report(Torn, l.partition, "%d of %d records of a batch of %s are there, %d of them in place, that begins with %q",
				there, len(op.values), op.producer, inPlace, brief(op.values[0]))
		}
	}
}

// readBack checks that a node has, in the end, all that was acknowledged, and all that anybody has seen before: what ended
// unclear may still come, and may not go again.
func (c *checker) readBack(b *readBack, logs map[Partition]*partitionLog) {
	l := logs[b.partition]
	next := b.from
	there, values := make(map[int64]string, len(b.records)), make(map[string]bool, len(b.records))
	promised := make(map[int64]bool)
	for _, r := range b.records {
		if r.Offset != next {
			c.report(Hole, b.partition, "the last read through %s: offset %d where %d was expected", b.node, r.Offset, next)
		}
		next = r.Offset + 1
		there[r.Offset], values[r.Value] = r.Value, true
	}
	if next < b.to {
		c.report(Lost, b.partition, "the last read through %s ends at %d, the high watermark is %d", b.node, next, b.to)
	}
	for _, op := range l.appends {
		if op.outcome != succeeded {
			continue
		}
		for i, v := range op.values {
			offset := op.base + int64(i)
			if op.base < 0 {
				if b.from == 0 && !values[v] {
					c.report(Lost, b.partition, "%q of %s was acknowledged at %s, and %s does not have it in the end", brief(v), op.producer, c.h.at(op.end), b.node)
				}
				continue
			}
			promised[offset] = true
			if got, ok := there[offset]; offset >= b.from && (!ok || got != v) {
				c.report(Lost, b.partition, "%q of %s was acknowledged at offset %d at %s, and %s has %s there in the end (its log ends at %d)",
					brief(v), op.producer, offset, c.h.at(op.end), b.node, orNothing(got, ok), b.to)
			}
		}
	}
	for _, offset := range slices.Sorted(maps.Keys(l.values)) {
		s := l.values[offset]
		if _, ok := there[offset]; !ok && !promised[offset] && offset >= b.from && s.event < b.at {
			c.report(Lost, b.partition, "offset %d, %q, was seen by %s at %s, and %s has nothing there in the end",
				offset, brief(s.value), s.who, c.h.at(s.event), b.node)
		}
	}
}

func orNothing(v string, ok bool) string {
	if !ok {
		return "nothing"
	}
	return "“" + brief(v) + "”"
}

// watermarks checks that none goes back: through one node while it runs, through different nodes but for the lease where
// the leader was asked.
func (c *checker) watermarks() {
	byPartition := make(map[Partition][]*watermark)
	for i := range c.h.watermarks {
		w := &c.h.watermarks[i]
		byPartition[w.partition] = append(byPartition[w.partition], w)
	}
	for _, p := range sortedPartitions(byPartition) {
		c.watermarksOf(p, byPartition[p])
	}
}

func (c *checker) watermarksOf(p Partition, list []*watermark) {
	byEnd := func(a, b *watermark) int { return cmp.Compare(a.end, b.end) }
	ends, floors := slices.Clone(list), append(c.acknowledged(p), list...)
	slices.SortFunc(ends, byEnd)
	slices.SortFunc(floors, byEnd)
	slices.SortFunc(list, func(a, b *watermark) int { return cmp.Compare(a.begin, b.begin) })
	highest := make(map[string]*watermark) // by node, of those that ended before
	var anywhere *watermark                // through any node, or acknowledged, of those that ended a lease before
	ended, leased := 0, 0
	for _, w := range list {
		for ; ended < len(ends) && ends[ended].end < w.begin; ended++ {
			e := ends[ended]
			if highest[e.node] == nil || e.offset > highest[e.node].offset || c.restartedBetween(e.node, highest[e.node].begin, e.end) {
				highest[e.node] = e
			}
		}
		for ; leased < len(floors) && floors[leased].end < c.h.leaseBefore(w.begin); leased++ {
			if e := floors[leased]; anywhere == nil || e.offset > anywhere.offset {
				anywhere = e
			}
		}
		before := highest[w.node]
		if before != nil && c.restartedBetween(w.node, before.begin, w.end) {
			before = nil
		}
		if w.exact && (before == nil || before.offset <= w.offset) {
			before = anywhere
		}
		if before != nil && w.offset < before.offset {
			c.report(WatermarkBack, p, "%s knew of %d at %s, and %s said %d at %s",
				before.node, before.offset, c.h.at(before.end), w.node, w.offset, c.h.at(w.end))
		}
	}
}

// acknowledged returns what producers know of a partition's high watermark: it is behind what was acknowledged to them.
func (c *checker) acknowledged(p Partition) []*watermark {
	var list []*watermark
	for _, op := range c.h.produces {
		if op.partition == p && op.outcome == succeeded && op.base >= 0 {
			list = append(list, &watermark{op.span, op.producer, p, op.base + int64(len(op.values)), false})
		}
	}
	return list
}

func (c *checker) restartedBetween(node string, from, to int64) bool {
	return slices.ContainsFunc(c.h.restarts[node], func(at int64) bool { return from < at && at < to })
}

// leaseBefore returns the number of the first event that is at most a lease older than an event.
func (h *History) leaseBefore(event int64) int64 {
	if h.Lease <= 0 {
		return event
	}
	since := h.times[event-1].Add(-h.Lease)
	i, _ := slices.BinarySearchFunc(h.times[:event], since, func(a, b time.Time) int { return a.Compare(b) })
	return int64(i) + 1
}

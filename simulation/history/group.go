package history

import (
	"cmp"
	"slices"
)

// Commit is a group's commit of an offset.
type Commit struct {
	span
	h         *History
	group     string
	member    string
	partition Partition
	offset    int64
}

// Commit notes that a member commits an offset of a partition. A group's commits only ever go forward.
func (h *History) Commit(group, member string, p Partition, offset int64) *Commit {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &Commit{h: h, group: group, member: member, partition: p, offset: offset}
	c.begin = h.tickLocked()
	h.commits = append(h.commits, c)
	return c
}

// OK notes that the offset is committed.
func (c *Commit) OK() { c.h.end(&c.span, succeeded, nil, nil) }

// Fail notes that nothing was committed.
func (c *Commit) Fail(err error) { c.h.end(&c.span, failed, err, nil) }

// Unknown notes that it is not known whether it was.
func (c *Commit) Unknown(err error) { c.h.end(&c.span, unknown, err, nil) }

// Fetch is the question for a group's committed offset.
type Fetch struct {
	span
	h         *History
	group     string
	node      string
	partition Partition
	offset    int64 // -1 where nothing was committed
}

// Committed notes that a node is asked for a group's committed offset. Nobody may delete the group or set it back.
func (h *History) Committed(group, node string, p Partition) *Fetch {
	h.mu.Lock()
	defer h.mu.Unlock()
	f := &Fetch{h: h, group: group, node: node, partition: p, offset: -1}
	f.begin = h.tickLocked()
	h.fetches = append(h.fetches, f)
	return f
}

// OK notes the answer, -1 where nothing is committed.
func (f *Fetch) OK(offset int64) { f.h.end(&f.span, succeeded, nil, func() { f.offset = offset }) }

// Fail notes that there was no answer.
func (f *Fetch) Fail(err error) { f.h.end(&f.span, failed, err, nil) }

type processing struct {
	at        int64
	group     string
	partition Partition
	records   []Record
}

// Processed notes that a group is done with records, before it commits an offset behind them. A group of which this is told
// reads from offset 0.
func (h *History) Processed(group string, p Partition, records []Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.processed = append(h.processed, processing{h.tickLocked(), group, p, records})
}

type ownership struct {
	at            int64
	group, member string
	partition     Partition
	granted       bool
}

// Grant notes that a member has got a partition of its group.
func (h *History) Grant(group, member string, p Partition) { h.own(group, member, p, true) }

// Release notes that a member has given up a partition, or knows that it has lost it, or has ended.
func (h *History) Release(group, member string, p Partition) { h.own(group, member, p, false) }

func (h *History) own(group, member string, p Partition, granted bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.ownerships = append(h.ownerships, ownership{h.tickLocked(), group, member, p, granted})
}

type groupPartition struct {
	group     string
	partition Partition
}

func (c *checker) ownerships() {
	owners := make(map[groupPartition]*ownership)
	for i := range c.h.ownerships {
		o := &c.h.ownerships[i]
		key := groupPartition{o.group, o.partition}
		owner := owners[key]
		switch {
		case !o.granted:
			if owner != nil && owner.member == o.member {
				delete(owners, key)
			}
		case owner != nil && owner.member != o.member:
			c.report(TwoOwners, o.partition, "group %s: %s got the partition at %s, while %s had it since %s",
				o.group, o.member, c.h.at(o.at), owner.member, c.h.at(owner.at))
			owners[key] = o
		default:
			owners[key] = o
		}
	}
}

// commits checks that no answer is below what was committed or told before the question, or is what nobody ever tried.
func (c *checker) commits() {
	byPartition := make(map[groupPartition][]*Commit)
	for _, op := range c.h.commits {
		key := groupPartition{op.group, op.partition}
		byPartition[key] = append(byPartition[key], op)
	}
	c.commitsTold()
	for _, f := range c.h.fetches {
		if f.outcome != succeeded {
			continue
		}
		tried := f.offset == -1
		var newest *Commit
		for _, op := range byPartition[groupPartition{f.group, f.partition}] {
			if op.offset == f.offset && op.begin < f.end && op.outcome != failed {
				tried = true
			}
			if op.outcome == succeeded && op.before(&f.span) && (newest == nil || op.offset > newest.offset) {
				newest = op
			}
		}
		if newest != nil && f.offset < newest.offset {
			c.report(CommitLost, f.partition, "group %s: %s committed %d, acknowledged at %s, and %s answered %d at %s",
				f.group, newest.member, newest.offset, c.h.at(newest.end), f.node, f.offset, c.h.at(f.end))
		}
		if !tried {
			c.report(CommitPhantom, f.partition, "group %s: %s answered %d at %s, which nobody had committed",
				f.group, f.node, f.offset, c.h.at(f.end))
		}
	}
}

// commitsTold checks that no answer is below one that was given before the question: also a commit that ended unclear
// stays once it was seen.
func (c *checker) commitsTold() {
	var ends []*Fetch
	for _, f := range c.h.fetches {
		if f.outcome == succeeded {
			ends = append(ends, f)
		}
	}
	slices.SortFunc(ends, func(a, b *Fetch) int { return cmp.Compare(a.end, b.end) })
	highest := make(map[groupPartition]*Fetch) // of those that ended before
	for _, f := range c.h.fetches {            // by their beginning
		for ; len(ends) > 0 && ends[0].before(&f.span); ends = ends[1:] {
			key := groupPartition{ends[0].group, ends[0].partition}
			if highest[key] == nil || ends[0].offset > highest[key].offset {
				highest[key] = ends[0]
			}
		}
		before := highest[groupPartition{f.group, f.partition}]
		if f.outcome == succeeded && before != nil && f.offset < before.offset {
			c.report(CommitLost, f.partition, "group %s: %s answered %d at %s, and %s answered %d at %s",
				f.group, before.node, before.offset, c.h.at(before.end), f.node, f.offset, c.h.at(f.end))
		}
	}
}

// skipped checks that a group has processed all that is below what it has committed, at least once.
func (c *checker) skipped() {
	first := make(map[groupPartition]map[int64]int64) // when each offset was processed
	told := make(map[string]bool)
	for _, p := range c.h.processed {
		key := groupPartition{p.group, p.partition}
		told[p.group] = true
		if first[key] == nil {
			first[key] = make(map[int64]int64)
		}
		for _, r := range p.records {
			if _, ok := first[key][r.Offset]; !ok {
				first[key][r.Offset] = p.at
			}
		}
	}
	for _, f := range c.h.fetches {
		for offset := int64(0); told[f.group] && f.outcome == succeeded && offset < f.offset; offset++ {
			at, ok := first[groupPartition{f.group, f.partition}][offset]
			if !ok || at > f.end {
				c.report(Skipped, f.partition, "group %s: %s answered at %s that %d is committed, and nobody had processed offset %d",
					f.group, f.node, c.h.at(f.end), f.offset, offset)
				break
			}
		}
	}
}

func (c *checker) leaderships() {
	type term struct {
		group  string
		number uint64
	}
	leaders := make(map[term]*leadership)
	for i := range c.h.leaderships {
		l := &c.h.leaderships[i]
		key := term{l.group, l.term}
		first := leaders[key]
		if first == nil {
			leaders[key] = l
		} else if first.node != l.node {
			c.report(TwoLeaders, Partition{Topic: l.group, Number: -1}, "%s led it in term %d at %s, and %s at %s",
				first.node, l.term, c.h.at(first.at), l.node, c.h.at(l.at))
		}
	}
}

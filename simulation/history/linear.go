package history

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

// linearizable looks for an order of the operations on each topic, and on each partition's log, that explains all
// answers and does not contradict time. A search that takes too long proves nothing: it is counted (Searches).
func (c *checker) linearizable() {
	c.linearizableTopics()
	c.linearizableLogs()
}

// linearizableTopics takes it that a node says yes from what it has, which may be old, and no only after asking the
// leader.
func (c *checker) linearizableTopics() {
	c.racedDeletions()
	byName := make(map[string][]porcupine.Operation)
	for _, t := range c.h.topics {
		if t.outcome == failed || (t.kind == getTopic && t.outcome != succeeded) {
			continue
		}
		call := t.begin
		if t.kind == getTopic && t.there {
			call = 0
		}
		byName[t.name] = append(byName[t.name], porcupine.Operation{Input: t, Call: call, Return: returned(&t.span)})
	}
	nm := porcupine.NondeterministicModel{
		Init: func() []any { return []any{noTopic} },
		Step: func(state, input, _ any) []any {
			var next []any
			for _, id := range input.(*TopicOp).step(state.(string)) {
				next = append(next, id)
			}
			return next
		},
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		if ops := byName[name]; c.noOrder(nm.ToModel(), ops) {
			c.report(NotLinear, Partition{Topic: name, Number: -1}, "no order explains these answers: %s",
				c.topicText(c.firstBad(nm.ToModel(), ops)))
		}
	}
}

// racedDeletions marks the deletions that said yes and overlap with another of the same name: the other one may have deleted
// what this one had found.
func (c *checker) racedDeletions() {
	deletions := make(map[string][]*TopicOp)
	for _, t := range c.h.topics {
		if t.kind == deleteTopic && t.outcome != failed {
			deletions[t.name] = append(deletions[t.name], t)
		}
	}
	for _, list := range deletions {
		for _, t := range list {
			t.raced = t.there && slices.ContainsFunc(list, func(o *TopicOp) bool {
				return o != t && o.begin < returned(&t.span) && returned(&o.span) > t.begin
			})
		}
	}
}

// returned is when an operation ended at the latest: what ended unclear may still happen.
func returned(s *span) int64 {
	if s.end == 0 || s.outcome != succeeded {
		return math.MaxInt64
	}
	return s.end
}

// noOrder reports whether there is no order for sure, and counts the search.
func (c *checker) noOrder(m porcupine.Model, ops []porcupine.Operation) bool {
	result := c.search(m, ops)
	c.h.searches++
	if result == porcupine.Unknown {
		c.h.undecided++
	}
	return result == porcupine.Illegal
}

func (c *checker) search(m porcupine.Model, ops []porcupine.Operation) porcupine.CheckResult {
	timeout := c.h.LinearizeTimeout
	if timeout <= 0 {
		timeout = 10 * time.Second
	}
	return porcupine.CheckOperationsTimeout(m, ops, timeout)
}

// mostOps bounds how many operations a violation lists.
const mostOps = 40

// firstBad sorts operations by their beginning, and returns them up to the first that makes an order impossible.
func (c *checker) firstBad(m porcupine.Model, ops []porcupine.Operation) []porcupine.Operation {
	begin := func(op porcupine.Operation) int64 {
		if t, ok := op.Input.(*TopicOp); ok {
			return t.begin
		}
		return op.Call
	}
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(begin(a), begin(b)) })
	good, bad := 0, len(ops)
	for good+1 < bad {
		if mid := (good + bad) / 2; c.search(m, ops[:mid]) == porcupine.Illegal {
			bad = mid
		} else {
			good = mid
		}
	}
	return ops[max(0, bad-mostOps):bad]
}

func (c *checker) topicText(ops []porcupine.Operation) string {
	var b strings.Builder
	for _, op := range ops {
		t := op.Input.(*TopicOp)
		answer := fmt.Sprintf("unknown (%v)", t.err)
		if t.outcome == succeeded {
			answer = fmt.Sprintf("there=%t id=%s", t.there, t.id)
		}
		fmt.Fprintf(&b, "\n\t%s…%s %s through %s: %s", c.h.at(t.begin), c.h.at(t.end), t.kind, t.node, answer)
	}
	return b.String()
}

// logOp is an operation on a partition whose state is its length: what is at each offset is known, and checked elsewhere.
type logOp struct {
	text     string
	span     span
	isAppend bool
	// An append moves the end from to to. A read proves that the end is at least atLeast and at most atMost.
	from, to        int64
	atLeast, atMost int64
}

// logModel returns the model of a log; unclear offsets are those of which it is not known how they came to be.
func logModel(known map[int64]bool) porcupine.Model {
	return porcupine.Model{
		Init: func() any { return int64(0) },
		Step: func(state, input, _ any) (bool, any) {
			end, op := state.(int64), input.(*logOp)
			if !op.isAppend {
				return op.atLeast <= end && end <= op.atMost, end
			}
			for o := end; o < op.from; o++ {
				if known[o] {
					return false, end
				}
			}
			return end <= op.from, op.to
		},
	}
}

func (c *checker) linearizableLogs() {
	quiet := &checker{h: c.h, count: make(map[kindAt]int)} // records has told what the logs contradict
	logs := quiet.logs()
	ops := make(map[Partition][]*logOp)
	known := make(map[Partition]map[int64]bool)
	for p, l := range logs {
		ops[p], known[p] = appendsOf(l, c.h.repeating)
	}
	for _, r := range c.h.reads {
		if r.outcome == succeeded {
			ops[r.partition] = append(ops[r.partition], c.readOp(r))
		}
	}
	for _, p := range sortedPartitions(ops) {
		list := make([]porcupine.Operation, 0, len(ops[p]))
		for _, op := range ops[p] {
			list = append(list, porcupine.Operation{Input: op, Call: op.span.begin, Return: returned(&op.span)})
		}
		if m := logModel(known[p]); c.noOrder(m, list) {
			c.report(NotLinear, p, "no order explains these answers: %s", c.logText(c.firstBad(m, list)))
		}
	}
}

// appendsOf returns the appends that took place, and the offsets that they filled.
func appendsOf(l *partitionLog, repeating map[string]bool) ([]*logOp, map[int64]bool) {
	var ops []*logOp
	known := make(map[int64]bool)
	for _, a := range l.appends {
		base := a.base
		if base < 0 {
			offsets := l.offsets[a.values[0]]
			if len(offsets) != 1 || repeating[a.producer] {
				continue // it did not take place, or its offsets stay unclear
			}
			base = offsets[0]
		}
		op := &logOp{
			text: a.producer + " appends", span: a.span, isAppend: true, from: base, to: base + int64(len(a.values)),
		}
		for o := op.from; o < op.to; o++ {
			known[o] = true
		}
		ops = append(ops, op)
	}
	return ops, known
}

func (c *checker) readOp(r *Read) *logOp {
	op := &logOp{
		text: fmt.Sprintf("%s reads %d records from %d", r.node, len(r.records), r.from), span: r.span, atMost: math.MaxInt64,
		atLeast: r.watermark,
	}
	if n := len(r.records); n > 0 {
		op.atLeast = max(op.atLeast, r.records[n-1].Offset+1)
		return op
	}
	op.atMost = r.from
	op.span.begin = min(op.span.begin, c.h.leaseBefore(op.span.begin))
	return op
}

func (c *checker) logText(ops []porcupine.Operation) string {
	var b strings.Builder
	for _, o := range ops {
		op := o.Input.(*logOp)
		fmt.Fprintf(&b, "\n\t%s…%s %s", c.h.at(op.span.begin), c.h.at(op.span.end), op.text)
		if op.isAppend {
			fmt.Fprintf(&b, " at %d to %d", op.from, op.to-1)
		} else {
			fmt.Fprintf(&b, ": the end is from %d to %d", op.atLeast, op.atMost)
		}
	}
	return b.String()
}

package history

import (
	"fmt"
	"sync"
	"time"
)

// Partition names a partition. A topic that is deleted and created again is another one: give its second life another
// name here, such as the topic's name and id.
type Partition struct {
	Topic  string
	Number int32
}

// String returns TOPIC/NUMBER.
func (p Partition) String() string { return fmt.Sprintf("%s/%d", p.Topic, p.Number) }

// Record is a record as it was read.
type Record struct {
	Offset int64
	Value  string
}

// History is what was done and seen. Make it with New; set its fields before it is used.
type History struct {
	// Lease is for how long a leader that was cut off may still answer reads: for so long a read may miss the newest
	// records. 0 allows nothing.
	Lease time.Duration
	// LinearizeTimeout bounds the wall time of each of Check's searches for an order; Searches tells how many it has ended.
	// Default 10 s.
	LinearizeTimeout time.Duration

	start time.Time

	mu          sync.Mutex // guards all that follows
	times       []time.Time
	produces    []*Produce
	reads       []*Read
	readBacks   []readBack
	watermarks  []watermark
	commits     []*Commit
	fetches     []*Fetch
	processed   []processing
	ownerships  []ownership
	leaderships []leadership
	topics      []*TopicOp
	restarts    map[string][]int64 // by node
	repeating   map[string]bool
	searches    int // by the last Check
	undecided   int
}

// New returns an empty history that begins now.
func New() *History {
	return &History{LinearizeTimeout: 10 * time.Second, start: time.Now(), repeating: make(map[string]bool), restarts: make(map[string][]int64)}
}

// outcome says how an operation ended.
type outcome uint8

const (
	unknown outcome = iota
	succeeded
	failed
)

// span is an operation's life in numbers of events, which are unique and grow with time. end is 0 where it did not end.
type span struct {
	begin, end int64
	outcome    outcome
	err        error
}

// before reports whether one ended before the other began.
func (s *span) before(o *span) bool { return s.end != 0 && s.end < o.begin }

// tickLocked numbers an event, from 1.
func (h *History) tickLocked() int64 {
	h.times = append(h.times, time.Now())
	return int64(len(h.times))
}

// at returns the time of an event since the start.
func (h *History) at(event int64) time.Duration {
	if event < 1 || event > int64(len(h.times)) {
		return 0
	}
	return h.times[event-1].Sub(h.start).Round(time.Millisecond)
}

func (h *History) end(s *span, o outcome, err error, note func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s.end != 0 {
		panic("history: an operation ended twice")
	}
	s.end, s.outcome, s.err = h.tickLocked(), o, err
	if note != nil {
		note()
	}
}

// Produce is the writing of records, all or nothing where it is one batch.
type Produce struct {
	span
	h         *History
	producer  string
	partition Partition
	values    []string
	base      int64
}

// Produce notes that a producer sends records. All of a producer's calls for one partition are in the order in which its
// records must be.
func (h *History) Produce(producer string, p Partition, values ...string) *Produce {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := &Produce{h: h, producer: producer, partition: p, values: values, base: -1}
	op.begin = h.tickLocked()
	h.produces = append(h.produces, op)
	return op
}

// MayRepeat says that a producer has no producer id: what ended unclear may be there more than once, and out of order.
func (h *History) MayRepeat(producer string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.repeating[producer] = true
}

// OK notes the acknowledgement: the records are at base, base+1 and so on.
func (p *Produce) OK(base int64) { p.h.end(&p.span, succeeded, nil, func() { p.base = base }) }

// Stored notes that the records are there, at offsets that were not told.
func (p *Produce) Stored() { p.h.end(&p.span, succeeded, nil, nil) }

// Fail notes that nothing was written.
func (p *Produce) Fail(err error) { p.h.end(&p.span, failed, err, nil) }

// Unknown notes that it is not known whether the records were written.
func (p *Produce) Unknown(err error) { p.h.end(&p.span, unknown, err, nil) }

// Read is the reading of a partition.
type Read struct {
	span
	h         *History
	node      string
	partition Partition
	from      int64
	records   []Record
	watermark int64
}

// Read notes that a node is asked for the records from an offset on.
func (h *History) Read(node string, p Partition, from int64) *Read {
	h.mu.Lock()
	defer h.mu.Unlock()
	r := &Read{h: h, node: node, partition: p, from: from, watermark: -1}
	r.begin = h.tickLocked()
	h.reads = append(h.reads, r)
	return r
}

// OK notes the answer. The high watermark is -1 where it was not told.
func (r *Read) OK(highWatermark int64, records []Record) {
	r.h.end(&r.span, succeeded, nil, func() {
		r.records, r.watermark = records, highWatermark
		if highWatermark >= 0 {
			r.h.watermarks = append(r.h.watermarks, watermark{r.span, r.node, r.partition, highWatermark, false})
		}
	})
}

// Fail notes that there was no answer.
func (r *Read) Fail(err error) { r.h.end(&r.span, failed, err, nil) }

type readBack struct {
	at        int64
	node      string
	partition Partition
	from, to  int64
	records   []Record
}

// ReadBack notes all that a node has of a partition, once the faults are over and producers have ended: from its log
// start to its high watermark.
func (h *History) ReadBack(node string, p Partition, logStart, highWatermark int64, records []Record) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.readBacks = append(h.readBacks, readBack{h.tickLocked(), node, p, logStart, highWatermark, records})
}

type watermark struct {
	span
	node      string
	partition Partition
	offset    int64
	exact     bool // the leader was asked
}

// Restarted notes that a node has begun anew, and with it what it remembers.
func (h *History) Restarted(node string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.restarts[node] = append(h.restarts[node], h.tickLocked())
}

// HighWatermark is a question for a high watermark as the leader has it.
type HighWatermark struct {
	span
	h         *History
	node      string
	partition Partition
}

// HighWatermark notes that a node is asked for a high watermark as the leader has it. Reads note theirs themselves: a node
// reads what it has, and may know of less than others do, but not of less than it has told since it began.
func (h *History) HighWatermark(node string, p Partition) *HighWatermark {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &HighWatermark{span: span{begin: h.tickLocked()}, h: h, node: node, partition: p}
}

// OK notes the answer.
func (w *HighWatermark) OK(offset int64) {
	w.h.end(&w.span, succeeded, nil, func() {
		w.h.watermarks = append(w.h.watermarks, watermark{w.span, w.node, w.partition, offset, true})
	})
}

// Fail notes that there was no answer.
func (w *HighWatermark) Fail(err error) { w.h.end(&w.span, failed, err, nil) }

type leadership struct {
	at          int64
	group, node string
	term        uint64
}

// Leader notes that a node says that it leads a Raft group in a term.
func (h *History) Leader(group, node string, term uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.leaderships = append(h.leaderships, leadership{h.tickLocked(), group, node, term})
}

// Acked is the number of changes that ended well: to ask and to be answered is none.
func (h *History) Acked() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, p := range h.produces {
		if p.outcome == succeeded {
			n++
		}
	}
	for _, c := range h.commits {
		if c.outcome == succeeded {
			n++
		}
	}
	for _, t := range h.topics {
		if t.outcome == succeeded && t.kind != getTopic {
			n++
		}
	}
	return n
}

package history

import "fmt"

// Kind is what is wrong.
type Kind string

// Kinds of violations.
const (
	Lost          Kind = "LOST"             // acknowledged, and not there
	Duplicated    Kind = "DUPLICATED"       // there twice
	Reordered     Kind = "REORDERED"        // a producer's records in another order
	Phantom       Kind = "PHANTOM"          // written by nobody, or by a call that failed
	Torn          Kind = "TORN"             // a part of a value, or of a batch
	Hole          Kind = "HOLE"             // an offset without a record
	Changed       Kind = "CHANGED"          // an offset with two records
	WatermarkBack Kind = "WATERMARK BACK"   // a smaller high watermark after a larger one
	Uncommitted   Kind = "UNCOMMITTED"      // read at or above the high watermark of the same answer
	TwoOwners     Kind = "TWO OWNERS"       // a partition of a group with two members
	TwoLeaders    Kind = "TWO LEADERS"      // a term of a Raft group with two leaders
	CommitLost    Kind = "COMMIT LOST"      // a committed offset that went back
	CommitPhantom Kind = "COMMIT PHANTOM"   // a committed offset that nobody committed
	Skipped       Kind = "SKIPPED"          // below a group's committed offset, and not processed
	NotLinear     Kind = "NOT LINEARIZABLE" // answers that no single order of the operations explains
	Misuse        Kind = "MISUSE"           // the test broke the rules of History
)

// Violation is one thing that is wrong.
type Violation struct {
	Kind Kind
	// Partition is where; of a topic's metadata its number is -1, and of a Raft group it has the group's name.
	Partition Partition
	// Text says who saw what, and when, in time since the history began.
	Text string
}

// String returns all of it in one line.
func (v Violation) String() string {
	where := v.Partition.String()
	if v.Partition.Number < 0 {
		where = v.Partition.Topic
	}
	return fmt.Sprintf("%s: %s: %s", v.Kind, where, v.Text)
}

// perKind bounds how many violations of a kind are listed for a partition.
const perKind = 5

type checker struct {
	h     *History
	found []Violation
	count map[kindAt]int
}

type kindAt struct {
	kind      Kind
	partition Partition
}

func (c *checker) report(k Kind, p Partition, format string, args ...any) {
	key := kindAt{k, p}
	c.count[key]++
	switch n := c.count[key]; {
	case n <= perKind:
		c.found = append(c.found, Violation{k, p, fmt.Sprintf(format, args...)})
	case n == perKind+1:
		c.found = append(c.found, Violation{k, p, "and more of this kind"})
	}
}

// Check returns all that is wrong, nil where nothing is. It may be called when all that records has ended.
func (h *History) Check() []Violation {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := &checker{h: h, count: make(map[kindAt]int)}
	h.searches, h.undecided = 0, 0
	c.records()
	c.watermarks()
	c.ownerships()
	c.commits()
	c.skipped()
	c.leaderships()
	c.linearizable()
	return c.found
}

// Searches returns how many searches for an order the last Check has made, one for each topic and each partition, and how
// many of them proved nothing because they took longer than LinearizeTimeout.
func (h *History) Searches() (all, undecided int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.searches, h.undecided
}

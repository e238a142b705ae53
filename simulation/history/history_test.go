package history

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	p0      = Partition{"t", 0}
	errFail = errors.New("no")
)

func recs(from int64, values ...string) []Record {
	var out []Record
	for i, v := range values {
		out = append(out, Record{from + int64(i), v})
	}
	return out
}

func produced(h *History, producer string, base int64, values ...string) {
	h.Produce(producer, p0, values...).OK(base)
}

func wasRead(h *History, node string, from, highWatermark int64, values ...string) {
	h.Read(node, p0, from).OK(highWatermark, recs(from, values...))
}

// good does every kind of operation, several at a time, and nothing is wrong with it.
func good(h *History) {
	first, second := h.Produce("p", p0, "a", "b"), h.Produce("p", p0, "c")
	early := h.Read("n2", p0, 0)
	second.OK(2)
	first.OK(0)
	early.OK(0, nil) // it began before both had ended
	wasRead(h, "n1", 1, 3, "b", "c")
	unclear, failing := h.Produce("p", p0, "d", "e"), h.Produce("q", p0, "f")
	unclear.Unknown(errFail)
	failing.Fail(errFail)
	wasRead(h, "n3", 3, 5, "d", "e")
	h.Read("n1", p0, 5).OK(5, nil)
	h.Read("n1", p0, 5).Fail(errFail)
	h.HighWatermark("n1", p0).OK(5)

	h.Grant("g", "m1", p0)
	h.Processed("g", p0, recs(0, "a", "b"))
	h.Processed("g", p0, recs(1, "b", "c")) // again, and more
	h.Commit("g", "m1", p0, 2).OK()
	h.Commit("g", "m1", p0, 3).Unknown(errFail)
	h.Release("g", "m1", p0)
	h.Grant("g", "m2", p0)
	h.Committed("g", "n1", p0).OK(3)
	h.Committed("g", "n2", p0).OK(3)
	h.Committed("g", "n2", Partition{"t", 1}).OK(-1)

	h.Leader("shard-0", "n1", 2)
	h.Leader("shard-0", "n1", 2)
	h.Leader("shard-0", "n2", 3)

	h.CreateTopic("n1", "t").OK("id1")
	h.CreateTopic("n2", "t").Exists()
	h.GetTopic("n3", "t").OK("id1")
	h.DeleteTopic("n1", "t").Unknown(errFail)
	h.GetTopic("n3", "t").OK("id1")
	h.GetTopic("n3", "t").NotFound()
	h.CreateTopic("n1", "t").Unknown(errFail)
	h.GetTopic("n3", "t").OK("id2")
	h.DeleteTopic("n1", "t").OK("")
	h.GetTopic("n3", "t").OK("id2") // it has not heard of it yet
	h.DeleteTopic("n1", "t").NotFound()
	h.CreateTopic("n1", "u").OK("id3")
	one, two := h.DeleteTopic("n1", "u"), h.DeleteTopic("n2", "u") // both find it
	one.OK("")
	two.OK("")
	for _, n := range []string{"n1", "n2", "n3"} {
		h.ReadBack(n, p0, 0, 5, recs(0, "a", "b", "c", "d", "e"))
	}
}

func TestGoodHistory(t *testing.T) {
	h := New()
	good(h)
	require.Empty(t, h.Check())
	require.Equal(t, 10, h.Acked(), "2 appends, 1 commit, and 7 changes of topics")
}

func TestViolations(t *testing.T) {
	for name, c := range map[string]struct {
		kind Kind
		do   func(h *History)
	}{
		"lost at the end": {Lost, func(h *History) {
			produced(h, "p", 0, "a", "b")
			h.ReadBack("n1", p0, 0, 1, recs(0, "a"))
		}},
		"lost without an offset": {Lost, func(h *History) {
			h.Produce("p", p0, "a").Stored()
			h.ReadBack("n1", p0, 0, 0, nil)
		}},
		"lost through one node": {Lost, func(h *History) {
			produced(h, "p", 0, "a")
			h.ReadBack("n1", p0, 0, 1, recs(0, "a"))
			h.ReadBack("n2", p0, 0, 1, nil)
		}},
		"read once and gone": {Lost, func(h *History) {
			op := h.Produce("p", p0, "a")
			wasRead(h, "n1", 0, 1, "a")
			op.Unknown(errFail)
			h.ReadBack("n1", p0, 0, 0, nil)
		}},
		"read back once and gone": {Lost, func(h *History) {
			h.Produce("p", p0, "a").Unknown(errFail)
			h.ReadBack("n1", p0, 0, 1, recs(0, "a"))
			h.ReadBack("n1", p0, 0, 0, nil)
		}},
		"duplicated": {Duplicated, func(h *History) {
			h.Produce("p", p0, "a").Unknown(errFail)
			h.ReadBack("n1", p0, 0, 2, recs(0, "a", "a"))
		}},
		"acknowledged and moved": {Duplicated, func(h *History) {
			produced(h, "p", 0, "a")
			produced(h, "p", 1, "b")
			wasRead(h, "n1", 1, 3, "b", "a")
		}},
		"reordered": {Reordered, func(h *History) {
			one, two := h.Produce("p", p0, "a"), h.Produce("p", p0, "b")
			one.OK(1)
			two.OK(0)
		}},
		"phantom": {Phantom, func(h *History) { wasRead(h, "n1", 0, 1, "x") }},
		"failed and there": {Phantom, func(h *History) {
			h.Produce("p", p0, "a").Fail(errFail)
			wasRead(h, "n1", 0, 1, "a")
		}},
		"read before it was written": {Phantom, func(h *History) {
			wasRead(h, "n1", 0, 1, "a")
			h.Produce("p", p0, "a").OK(0)
		}},
		"of another partition": {Phantom, func(h *History) {
			h.Produce("p", Partition{"t", 1}, "a").OK(0)
			wasRead(h, "n1", 0, 1, "a")
		}},
		"torn value": {Torn, func(h *History) {
			h.Produce("p", p0, "abcdef").Unknown(errFail)
			wasRead(h, "n1", 0, 1, "abc")
		}},
		"torn batch": {Torn, func(h *History) {
			h.Produce("p", p0, "a", "b").Unknown(errFail)
			h.ReadBack("n1", p0, 0, 1, recs(0, "a"))
		}},
		"a batch without its head": {Torn, func(h *History) {
			h.Produce("p", p0, "a", "b", "c").Unknown(errFail)
			h.ReadBack("n1", p0, 0, 2, recs(0, "b", "c"))
		}},
		"another one within a batch": {Torn, func(h *History) {
			h.Produce("p", p0, "a", "b").Unknown(errFail)
			produced(h, "q", 1, "c")
			h.ReadBack("n1", p0, 0, 3, recs(0, "a", "c", "b"))
		}},
		"hole in an answer": {Hole, func(h *History) {
			produced(h, "p", 0, "a", "b", "c")
			h.Read("n1", p0, 0).OK(3, []Record{{0, "a"}, {2, "c"}})
		}},
		"hole at its beginning": {Hole, func(h *History) {
			produced(h, "p", 0, "a", "b")
			h.Read("n1", p0, 0).OK(2, []Record{{1, "b"}})
		}},
		"hole at the end": {Hole, func(h *History) {
			h.Produce("p", p0, "a").Unknown(errFail)
			h.ReadBack("n1", p0, 0, 2, []Record{{1, "a"}})
		}},
		"changed": {Changed, func(h *History) {
			h.Produce("p", p0, "a").Unknown(errFail)
			h.Produce("q", p0, "b").Unknown(errFail)
			wasRead(h, "n1", 0, 1, "a")
			wasRead(h, "n2", 0, 1, "b")
		}},
		"two acknowledged at one offset": {Changed, func(h *History) {
			produced(h, "p", 0, "a")
			produced(h, "q", 0, "b")
		}},
		"uncommitted": {Uncommitted, func(h *History) {
			produced(h, "p", 0, "a", "b")
			wasRead(h, "n1", 0, 1, "a", "b")
		}},
		"watermark back through one node": {WatermarkBack, func(h *History) {
			h.HighWatermark("n1", p0).OK(5)
			h.HighWatermark("n1", p0).OK(4)
		}},
		"watermark back through another node": {WatermarkBack, func(h *History) {
			h.HighWatermark("n1", p0).OK(5)
			h.HighWatermark("n2", p0).OK(4)
		}},
		"watermark behind an acknowledgement": {WatermarkBack, func(h *History) {
			produced(h, "p", 0, "a")
			h.HighWatermark("n2", p0).OK(0)
		}},
		"watermark back in a read": {WatermarkBack, func(h *History) {
			h.Produce("p", p0, "a", "b").Unknown(errFail)
			wasRead(h, "n1", 0, 2, "a")
			wasRead(h, "n1", 0, 1, "a")
		}},
		"two owners": {TwoOwners, func(h *History) {
			h.Grant("g", "m1", p0)
			h.Grant("g", "m2", p0)
		}},
		"two leaders": {TwoLeaders, func(h *History) {
			h.Leader("shard-0", "n1", 2)
			h.Leader("shard-0", "n2", 2)
		}},
		"commit lost": {CommitLost, func(h *History) {
			h.Commit("g", "m", p0, 2).OK()
			h.Commit("g", "m", p0, 3).OK()
			h.Committed("g", "n1", p0).OK(2)
		}},
		"all commits lost": {CommitLost, func(h *History) {
			h.Commit("g", "m", p0, 2).OK()
			h.Committed("g", "n1", p0).OK(-1)
		}},
		"commit that was seen and is gone": {CommitLost, func(h *History) {
			h.Commit("g", "m", p0, 40).OK()
			h.Commit("g", "m", p0, 50).Unknown(errFail)
			h.Committed("g", "n1", p0).OK(50)
			h.Committed("g", "n2", p0).OK(40)
		}},
		"commit phantom": {CommitPhantom, func(h *History) {
			h.Commit("g", "m", p0, 2).OK()
			h.Committed("g", "n1", p0).OK(3)
		}},
		"skipped between two reads": {Skipped, func(h *History) {
			h.Processed("g", p0, recs(0, "a", "b"))
			h.Processed("g", p0, recs(3, "d"))
			h.Commit("g", "m", p0, 4).OK()
			h.Committed("g", "n1", p0).OK(4)
		}},
		"skipped at the beginning": {Skipped, func(h *History) {
			h.Processed("g", Partition{"t", 1}, recs(0, "a"))
			h.Commit("g", "m", p0, 1).Unknown(errFail)
			h.Committed("g", "n1", p0).OK(1)
		}},
		"committed before it was processed": {Skipped, func(h *History) {
			h.Commit("g", "m", p0, 1).OK()
			h.Committed("g", "n1", p0).OK(1)
			h.Processed("g", p0, recs(0, "a"))
		}},
		"acknowledged and not readable": {NotLinear, func(h *History) {
			produced(h, "p", 0, "a")
			h.Read("n2", p0, 0).OK(0, nil)
		}},
		"a later append below an earlier one": {NotLinear, func(h *History) {
			produced(h, "p", 1, "a")
			produced(h, "q", 0, "b")
		}},
		"topic gone by itself": {NotLinear, func(h *History) {
			h.CreateTopic("n1", "t").OK("id")
			h.GetTopic("n2", "t").NotFound()
		}},
		"topic back after its deletion": {NotLinear, func(h *History) {
			h.CreateTopic("n1", "t").OK("id")
			h.DeleteTopic("n1", "t").OK("")
			h.CreateTopic("n2", "t").Exists()
		}},
		"topic deleted twice": {NotLinear, func(h *History) {
			h.CreateTopic("n1", "t").OK("id")
			h.DeleteTopic("n1", "t").OK("")
			h.DeleteTopic("n2", "t").OK("")
		}},
		"topic before its creation": {NotLinear, func(h *History) {
			h.GetTopic("n2", "t").OK("id")
			h.CreateTopic("n1", "t").OK("id")
		}},
		"topic with another id": {NotLinear, func(h *History) {
			h.CreateTopic("n1", "t").OK("id")
			h.GetTopic("n2", "t").OK("other")
		}},
		"created twice": {NotLinear, func(h *History) {
			h.CreateTopic("n1", "t").OK("id")
			h.CreateTopic("n2", "t").OK("other")
		}},
		"value used twice": {Misuse, func(h *History) {
			h.Produce("p", p0, "a")
			h.Produce("p", p0, "a")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			h := New()
			c.do(h)
			found := h.Check()
			require.Condition(t, func() bool {
				for _, v := range found {
					if v.Kind == c.kind {
						return true
					}
				}
				return false
			}, "no %s in %v", c.kind, found)
		})
	}
}

// Who asks before another one has the answer may hear of less.
func TestWatermarksAtOnce(t *testing.T) {
	h := New()
	early := h.HighWatermark("n2", p0)
	failing := h.HighWatermark("n2", p0)
	produced(h, "p", 0, "a")
	h.HighWatermark("n1", p0).OK(1)
	early.OK(0)
	failing.Fail(errFail)
	require.Empty(t, h.Check())
}

func TestWatermarkOfANodeThatBeginsAnew(t *testing.T) {
	h := New()
	produced(h, "p", 0, "a", "b")
	wasRead(h, "n1", 0, 2, "a")
	wasRead(h, "n2", 0, 1, "a") // it reads what it has
	h.Restarted("n1")
	wasRead(h, "n1", 0, 1, "a")
	require.Empty(t, h.Check())
}

// Answers to questions that are asked at the same time may come in any order.
func TestCommittedTwiceAtOnce(t *testing.T) {
	h := New()
	early := h.Committed("g", "n1", p0)
	h.Commit("g", "m", p0, 50).OK()
	h.Committed("g", "n2", p0).OK(50)
	early.OK(-1)
	require.Empty(t, h.Check())
}

// What ended unclear may still come when others have read everything back.
func TestLateRecord(t *testing.T) {
	h := New()
	h.Produce("p", p0, "a").Unknown(errFail)
	h.ReadBack("n1", p0, 0, 0, nil)
	h.ReadBack("n2", p0, 0, 1, recs(0, "a"))
	wasRead(h, "n1", 0, 1, "a")
	require.Empty(t, h.Check())
}

func TestMayRepeat(t *testing.T) {
	h := New()
	h.MayRepeat("p")
	h.Produce("p", p0, "a").Unknown(errFail)
	produced(h, "p", 0, "b")
	h.ReadBack("n1", p0, 0, 3, recs(0, "b", "a", "a"))
	require.Empty(t, h.Check())
}

// What a leader that was cut off may answer is bounded by its lease.
func TestLease(t *testing.T) {
	for _, after := range []time.Duration{400 * time.Millisecond, 600 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := New()
				h.Lease = 500 * time.Millisecond
				produced(h, "p", 0, "a")
				h.HighWatermark("n1", p0).OK(1)
				<-time.After(after)
				h.Read("n2", p0, 0).OK(0, nil)
				h.HighWatermark("n2", p0).OK(0)
				kinds := make(map[Kind]bool)
				for _, v := range h.Check() {
					kinds[v.Kind] = true
				}
				late := after > h.Lease
				require.Equal(t, late, kinds[NotLinear])
				require.Equal(t, late, kinds[WatermarkBack])
			})
		})
	}
}

// A search that takes too long proves nothing, and says so.
func TestSearchThatTakesTooLong(t *testing.T) {
	h := New()
	h.LinearizeTimeout = 20 * time.Millisecond
	produced(h, "p", 0, "a")
	h.CreateTopic("n1", "t").OK("id")
	for range 40 { // each may come before or after all others
		h.CreateTopic("n2", "t").Unknown(errFail)
	}
	h.GetTopic("n3", "t").NotFound()
	require.Empty(t, h.Check())
	all, undecided := h.Searches()
	require.Equal(t, []int{2, 1}, []int{all, undecided}, "a topic and a partition")
}

func TestViolationText(t *testing.T) {
	h := New()
	h.Produce("p", p0, "a").OK(7)
	h.ReadBack("n2", p0, 0, 0, nil)
	require.Equal(t, `LOST: t/0: "a" of p was acknowledged at offset 7 at 0s, and n2 has nothing there in the end (its log ends at 0)`,
		h.Check()[0].String())
	h.GetTopic("n1", "x").OK("id")
	found := h.Check()
	require.Contains(t, found[len(found)-1].String(), "NOT LINEARIZABLE: x: no order explains these answers")
}

func TestManyOfAKindAreCutShort(t *testing.T) {
	h := New()
	for i := range int64(20) {
		produced(h, "p", i, fmt.Sprint(i))
	}
	h.ReadBack("n1", p0, 0, 0, nil)
	require.Len(t, h.Check(), perKind+1)
}

func TestEndTwicePanics(t *testing.T) {
	op := New().Produce("p", p0, "a")
	op.OK(0)
	require.Panics(t, func() { op.OK(0) })
}

func TestConcurrentRecording(t *testing.T) {
	h := New()
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			p := Partition{"t", int32(w)}
			for i := range int64(200) {
				h.Produce("p", p, fmt.Sprintf("%d/%d", w, i)).OK(i)
				h.Read("n1", p, i).OK(i+1, []Record{{i, fmt.Sprintf("%d/%d", w, i)}})
			}
		})
	}
	wg.Wait()
	require.Empty(t, h.Check())
}

// Package history writes down what clients did to a cluster and what they saw, and finds what a log must never do: lose,
// duplicate, reorder, invent or tear records, leave holes in offsets or change them, let a high watermark go back, give a
// partition of a group to two members, lose a committed offset, let a group skip records, and answer in an order that no
// single log could have.
//
// A test makes a History, tells it of every operation when it begins and again when it ends, reads everything back once
// the faults are over (ReadBack), and asks Check:
//
//	h := history.New()
//	op := h.Produce("p1", history.Partition{Topic: "t", Number: 0}, "v1", "v2")
//	op.OK(0) // the first record has offset 0
//	h.ReadBack("n1", history.Partition{Topic: "t", Number: 0}, 0, 2, records)
//	for _, v := range h.Check() { t.Error(v) }
//
// An operation ends in one of three ways: OK; Fail, which says that it surely had no effect; Unknown, where it may have
// had one. One that is never ended counts as Unknown. Values of records must be unique within a History.
//
// The package knows nothing of the cluster, so that the simulation and the suite on real processes share it. All methods
// that record are safe for concurrent use.
package history
